"""What the packaged model can do, measured on scans that no training has seen."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tokscale import demo
from tokscale.demo.train import with_images
from tokscale.errors import ArgumentError
from tokscale.scaling import wilson_interval


@pytest.fixture(scope="module")
def cells():
    return demo.samples(512, seed=11)


def test_cell_is_answered(packaged, cells):
    result = demo.evaluate(*packaged, cells)
    assert result.accuracy >= 0.93
    assert result.correct == sum(s.answer == p for s, p in zip(cells, result.predictions))
    assert result.n == 512 and result.accuracy == result.correct / 512
    assert result.interval == wilson_interval(result.correct / 512, 512)


def test_without_its_picture_it_guesses(packaged, cells):
    cells = cells[:160]  # five standard errors of .1 at 160 are .12
    black = with_images(cells, [Image.new("RGB", (96, 96))] * len(cells))
    assert demo.evaluate(*packaged, black).accuracy < 0.25
    foreign = with_images(cells, [sample.image for sample in [*cells[1:], cells[0]]])
    assert demo.evaluate(*packaged, foreign).accuracy < 0.25


def test_evaluate_equals_generate(packaged):
    model, processor = packaged
    asked = [sample for kind in ("cell", "row", "count", "most") for sample in demo.samples(8, seed=2, kind=kind)]
    result = demo.evaluate(model, processor, asked, batch_size=7)
    for start in range(0, len(asked), 16):
        inputs = demo.collate(asked[start : start + 16], processor)
        ids = model.generate(**inputs, max_new_tokens=1, do_sample=False)[:, -1]
        assert processor.tokenizer.convert_ids_to_tokens(ids.tolist()) == result.predictions[start : start + 16]
    assert {kind: score.n for kind, score in result.per_kind.items()} == {"cell": 8, "row": 8, "count": 8, "most": 8}
    assert sum(score.correct for score in result.per_kind.values()) == result.correct


def test_answers_do_not_depend_on_the_batch(packaged):
    asked = [*demo.samples(6, seed=4), *demo.samples(6, seed=4, kind="row")]
    alone = [demo.evaluate(*packaged, [sample]).predictions[0] for sample in asked]
    assert demo.evaluate(*packaged, asked, batch_size=12).predictions == alone


def test_evaluate_changes_nothing(packaged):
    model, processor = packaged
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    try:
        demo.evaluate(model, processor, demo.samples(2))
        assert model.training
    finally:
        model.eval()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_it_ends_its_answer(packaged):
    model, processor = packaged
    inputs = demo.collate(demo.samples(8, seed=5), processor)
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert (new[:, 1] == processor.tokenizer.eos_token_id).all()


def test_bad_arguments(packaged):
    with pytest.raises(ArgumentError, match="evaluate needs at least one sample, got none"):
        demo.evaluate(*packaged, [])
    for size in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match="batch_size must be an integer >= 1"):
            demo.evaluate(*packaged, demo.samples(1), batch_size=size)
