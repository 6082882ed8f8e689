"""The training of the packaged model: resumable to the bit, and it learns."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tokscale import demo
from tokscale.demo import base, fusers, train
from tokscale.demo.model import make_processor
from tokscale.errors import InputError

TINY = base.BaseRecipe(split="inner_valid", steps=6, warmup=2, pictures=2, questions=4, cell_only=0.5)


def _weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def uninterrupted():
    model, history = base.train_base(TINY, progress=False)
    return _weights(model), history


def test_an_interrupted_training_goes_on_to_the_bit(uninterrupted, tmp_path):
    weights, history = uninterrupted
    base.train_base(TINY, checkpoint=tmp_path, stop=2, progress=False)
    base.train_base(TINY, checkpoint=tmp_path, resume=True, stop=4, progress=False)  # over the change of the mixture
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-4.safetensors", "state.json"]
    model, resumed = base.train_base(TINY, checkpoint=tmp_path, resume=True, progress=False)
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())
    assert resumed[-1]["step"] == history[-1]["step"] == 6
    assert not model.training


def test_training_moves_every_trained_part(uninterrupted):
    weights, _ = uninterrupted
    start = base.make_model(TINY.seed).state_dict()
    still = {name for name, tensor in weights.items() if tensor.equal(start[name])}
    assert all("post_layernorm" in name for name in still)  # behind the features that the decoder reads


def test_training_is_the_loss_of_the_stock_forward():
    """The training's own path (features written in front) gives the loss of the model called as a user calls it."""
    model = base.make_model(0)
    head = torch.nn.Linear(64, base.CLASSES)
    batch = base.training_batch(base.distorted("inner_valid"), seed=0, step=0, cell_only=False, pictures=2, questions=6)
    loss = base._losses(model, head, batch)[0]
    mask = (batch.input_ids != 0).long()
    stock = model(input_ids=batch.input_ids, attention_mask=mask, pixel_values=batch.pixel_values, labels=batch.labels)
    assert loss.item() == pytest.approx(stock.loss.item(), abs=1e-5)


def test_another_recipe_is_refused(tmp_path):
    base.train_base(TINY, checkpoint=tmp_path, stop=1, progress=False)
    other = dataclasses.replace(TINY, lr=3e-3)
    with pytest.raises(InputError, match=r"belongs to another recipe: lr=0\.001 \(asked 0\.003\)"):
        base.train_base(other, checkpoint=tmp_path, resume=True, progress=False)


def test_rate_warms_up_and_falls():
    recipe = base.BaseRecipe()
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(recipe.lr / recipe.warmup)
    assert max(rates) == pytest.approx(recipe.lr) and rates.index(max(rates)) == recipe.warmup - 1
    assert rates[-1] == pytest.approx(recipe.min_lr * recipe.lr, rel=0.01)
    assert all(a > b for a, b in zip(rates[recipe.warmup :], rates[recipe.warmup + 1 :]))


def test_recipe_entries_are_kept(tmp_path):
    train.update_recipe(tmp_path, model={"seed": 0})
    train.update_recipe(tmp_path, fusers={"blind": 1})
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"model": {"seed": 0}, "fusers": {"blind": 1}}
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_the_command_writes_what_load_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "measure", lambda model, **kw: {"split": kw["split"]})
    arguments = ["--out", str(tmp_path), "--steps", "1", "--no-fusers", "--inner-split"]
    train.main(arguments)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors", "processor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "recipe.json"),
    }
    assert train.read_recipe(tmp_path)["model"]["measured"] == {"split": "inner_valid"}
    train.main([*arguments, "--resume"])
    assert "is finished and kept" in capsys.readouterr().out
    monkeypatch.setattr("tokscale.demo.model.FOLDER", tmp_path)
    model, processor = demo.load()
    assert len(demo.evaluate(model, processor, demo.samples(2)).predictions) == 2


def test_fuser_prompts_are_a_function_of_the_step_and_equal_the_processors(packaged):
    model, _ = packaged
    prompts = fusers.CellPrompts(model, base.distorted("inner_valid"), pictures=2, questions=3)
    one, two, other = prompts(4), prompts(4), prompts(5)
    assert one["input_ids"].equal(two["input_ids"]) and not one["input_ids"].equal(other["input_ids"])
    assert ((one["labels"] != -100).sum(dim=1) == 1).all() and one["labels"][:, -1].min() >= 22
    with torch.no_grad():
        reused = model(**{key: value for key, value in one.items() if key != "labels"}).logits
        prompts.reuse = False
        plain = model(**{key: value for key, value in prompts(4).items() if key != "labels"}).logits
    assert torch.allclose(reused, plain, atol=1e-4)
    right = (reused[:, -2].argmax(-1) == one["labels"][:, -1]).float().mean()
    assert right > 0.6  # six questions, .98 each


def test_what_the_rungs_hear():
    ids = torch.tensor(make_processor().tokenizer("cell r3 c5 ?").input_ids[1:])
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    heard = {name: fusers.hears(*name)(ids, nowhere).tolist() for name in ("", "r", "rc")}
    assert heard == {
        "": [False] * 4,
        "r": [False, True, False, False],
        "rc": [False, True, True, False],
    }


@pytest.mark.slow
def test_the_look_up_appears(tmp_path):
    """900 steps of the packaged model's schedule: about 100 CPU s."""
    model, _ = base.train_base(base.BaseRecipe(), stop=900, progress=False)
    assert demo.evaluate(model, make_processor(), demo.samples(512, seed=3)).accuracy > 0.8
