"""`train_compressor` on the packaged model: it learns, it resumes to the bit, and the model comes back as lent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokscale
from tests.hf.versions import encodes_first
from tokscale import demo
from tokscale.errors import ArgumentError, BudgetError, InputError, NonFiniteError
from tokscale.training import train_compressor


@pytest.fixture(scope="module")
def lent() -> tuple[Any, Any]:
    return demo.load()


def batch_of(processor: Any, step: int, size: int = 8) -> dict[str, Any]:
    chosen = demo.samples(size, seed=1000 + step, split="train", kind="cell")
    return dict(demo.collate(chosen, processor, answers=True))


def fuser(**kw: Any) -> tokscale.CrossAttentionFuser:
    torch.manual_seed(0)
    return tokscale.CrossAttentionFuser(num_tokens=4, dim=64, num_heads=4, **kw)


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_loss_falls_and_the_model_is_given_back(lent: tuple[Any, Any]) -> None:
    model, processor = lent
    model(**batch_of(processor, 0, 1))  # transformers marks its own modules at the first call
    model.train()
    model.lm_head.eval()
    model.lm_head.weight.requires_grad_(False)
    before = state(model)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    compressor = fuser()
    start = state(compressor)
    try:
        result = train_compressor(
            model, compressor, lambda step: batch_of(processor, step % 3), steps=30, budgets=[1, 4], lr=5e-3, warmup=5
        )
        assert equal(before, state(model))
        assert modes == [module.training for module in model.modules()]
        assert flags == [p.requires_grad for p in model.parameters()]
        assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
        assert all(p.grad is None for p in model.parameters())
    finally:
        model.requires_grad_(True)
        model.eval()
    assert not equal(start, state(compressor)) and compressor.num_tokens == 4
    losses = [entry["loss"] for entry in result.history]
    assert len(losses) == result.steps == 30
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert {entry["budget"] for entry in result.history} == {1, 4}
    assert "30 steps" in result.summary() and "num_tokens" in result.summary()
    ax = result.plot()
    assert len(ax.lines) == 3 and ax.get_ylabel() == "loss"  # a cloud per budget, and the running mean


def test_resume_is_exact(lent: tuple[Any, Any], tmp_path: Any) -> None:
    model, processor = lent

    class Interrupted(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 10:
            raise Interrupted

    options: dict[str, Any] = {"steps": 20, "budgets": [1, 2, 4], "every": 10}
    whole = fuser()
    train_compressor(model, whole, lambda step: batch_of(processor, step, 2), **options)
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train_compressor(
            model, fuser(), lambda step: batch_of(processor, step, 2), checkpoint=folder, callback=stop, **options
        )
    with pytest.raises(InputError, match="already holds a training run; pass resume=True"):
        train_compressor(model, fuser(), lambda step: batch_of(processor, step, 2), checkpoint=folder, **options)
    with pytest.raises(ArgumentError, match=r"other arguments \(lr: 0.002 then, 0.1 now\)"):
        train_compressor(
            model, fuser(), lambda step: batch_of(processor, step, 2), checkpoint=folder, resume=True, lr=0.1, **options
        )
    torch.manual_seed(7)
    resumed = tokscale.CrossAttentionFuser(num_tokens=4, dim=64, num_heads=4)  # other weights: the checkpoint's count
    result = train_compressor(
        model, resumed, lambda step: batch_of(processor, step, 2), checkpoint=folder, resume=True, **options
    )
    assert equal(state(whole), state(resumed))
    assert [entry["step"] for entry in result.history] == list(range(20))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".md", ".safetensors", ".safetensors"]
    loaded = tokscale.TokenCompressor.from_pretrained(folder)
    assert equal(state(whole), state(loaded))
    assert loaded.trained == {"budgets": [1, 2, 4], "model_type": "llava", "hidden_size": 64, "steps": 20}


def test_an_iterable_starts_again_and_resumes_where_it_was(lent: tuple[Any, Any]) -> None:
    model, processor = lent
    batches = [batch_of(processor, step, 2) for step in range(3)]
    by_list, by_call = fuser(), fuser()
    train_compressor(model, by_list, batches, steps=5, budgets=[2])
    train_compressor(model, by_call, lambda step: batches[step % 3], steps=5, budgets=[2])
    assert equal(state(by_list), state(by_call))
    with pytest.raises(ArgumentError, match="batches is empty"):
        train_compressor(model, fuser(), [], steps=5, budgets=[2])


def test_distillation_needs_no_labels(lent: tuple[Any, Any]) -> None:
    model, processor = lent

    def unlabelled(step: int) -> dict[str, Any]:
        return dict(demo.collate(demo.samples(4, seed=step % 2, split="train", kind="cell"), processor))

    result = train_compressor(
        model, fuser(), unlabelled, steps=12, budgets=[4], answer_weight=0, distill_weight=1, lr=5e-3, warmup=2
    )
    losses = [entry["distill_loss"] for entry in result.history]
    assert all(loss > 0 for loss in losses) and losses[-1] < losses[0]
    assert result.history[0]["answer_loss"] is None
    with pytest.raises(ArgumentError, match="a batch holds no labels"):
        train_compressor(model, fuser(), unlabelled, steps=1, budgets=[4])


def test_the_teacher_is_the_model_as_lent(lent: tuple[Any, Any]) -> None:
    """Where nothing is compressed the two logits are the same, and the distance is exactly 0."""
    model, processor = lent
    from tokscale.training.settings import Settings
    from tokscale.training.step import losses_of

    settings = Settings(1, (144,), 0.25, 1e-3, 1, 0.1, 0.0, (0.9, 0.98), 1.0, 1.0, 1.0, 1.0, 0)
    with tokscale.patch(model, "random", num_tokens=144) as handle, torch.no_grad():
        _, parts = losses_of(model, handle, batch_of(processor, 0, 4), settings)
        assert parts["distill_loss"] == 0.0
        handle.num_tokens = 9
        _, parts = losses_of(model, handle, batch_of(processor, 0, 4), settings)
        assert parts["distill_loss"] is not None and parts["distill_loss"] > 0


def test_an_encoded_batch_trains_like_its_pixels(lent: tuple[Any, Any]) -> None:
    model, processor = lent
    inputs = batch_of(processor, 0, 4)
    with torch.no_grad():
        encoded = model.get_image_features(inputs["pixel_values"], return_dict=True)
    light = {key: value for key, value in inputs.items() if key != "pixel_values" or not encodes_first(model)}
    a, b = fuser(), fuser()
    first = train_compressor(model, a, [inputs], steps=3, budgets=[2])
    second = train_compressor(model, b, [{**light, "mm_encoder_outputs": {"image": encoded}}], steps=3, budgets=[2])
    assert [entry["loss"] for entry in first.history] == [entry["loss"] for entry in second.history]


def test_the_answer_is_not_heard_and_is_what_is_learnt(lent: tuple[Any, Any]) -> None:
    """The compressor hears `cell r3 c5 ?` and no more; the loss is the mean cross-entropy of answer and end token."""
    model, processor = lent
    heard = []

    class Listening(tokscale.CrossAttentionFuser):
        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            heard.append(context["text_mask"].sum(-1))
            return super().compress(vision_tokens, **context)

    batch = batch_of(processor, 0, 4)
    listening = Listening(num_tokens=4, dim=64, num_heads=4)
    result = train_compressor(model, listening, [batch], steps=1, budgets=[4])
    assert torch.cat(heard).eq(4).all()
    untouched = Listening(num_tokens=4, dim=64, num_heads=4)
    untouched.load_state_dict(listening.state_dict())
    with tokscale.patch(model, untouched) as handle, torch.no_grad():
        labels, logits = batch["labels"], model(**batch).logits
        short = handle.last.shorten(labels, fill=-100)
        shown = logits[:, :-1].log_softmax(-1)[short[:, 1:] != -100]
        expected = -shown[torch.arange(8), short[short != -100]].mean().item()
    again = train_compressor(model, untouched, [batch], steps=1, budgets=[4])
    assert again.history[0]["loss"] == pytest.approx(expected, abs=1e-5)
    assert result.history[0]["answer_loss"] == result.history[0]["loss"]
    with pytest.raises(ArgumentError, match="labels hold no answer"):
        train_compressor(model, fuser(), [{**batch, "labels": torch.full_like(labels, -100)}], steps=1, budgets=[4])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"answer_weight": 0}, ArgumentError, "answer_weight and distill_weight are both 0"),
        ({"answer_weight": -1}, ArgumentError, "answer_weight must be >= 0, got -1"),
        ({"steps": 0}, BudgetError, "steps must be an integer >= 1, got 0"),
        ({"budgets": [8]}, BudgetError, "budgets reach 8, but the compressor was built with num_tokens=4"),
        ({"resume": True}, ArgumentError, "resume=True needs checkpoint="),
        ({"every": 0}, BudgetError, "every must be an integer >= 1, got 0"),
        ({"warmup": -3}, ArgumentError, "warmup must be >= 0, got -3"),
        ({"lr": 1e30, "grad_clip": 1e30}, NonFiniteError, "no checkpoint was written"),
    ],
)
def test_mistakes(lent: tuple[Any, Any], change: dict[str, Any], error: type[Exception], text: str) -> None:
    model, processor = lent
    before = state(model)
    options = {"steps": 4, "budgets": [2], "warmup": 1, **change}
    with pytest.raises(error, match=text):
        train_compressor(model, fuser(), lambda step: batch_of(processor, 0, 2), **options)
    assert equal(before, state(model)) and "forward" not in vars(model)


def test_a_compressor_without_parameters_is_refused(lent: tuple[Any, Any]) -> None:
    model, processor = lent
    with pytest.raises(ArgumentError, match="DivPrune has no parameter that requires a gradient"):
        train_compressor(model, tokscale.create_compressor("divprune", num_tokens=4), [batch_of(processor, 0, 2)])


@pytest.mark.parametrize(
    "batches, text",
    [
        (
            [[1, 2]],
            "a batch must be a dict of the model's inputs, got list; let the data loader's collate_fn return what",
        ),
        (lambda step: (1, 2), "a batch must be a dict of the model's inputs, got tuple"),
        ({"input_ids": 1}, "batches is one dict; pass a list of them, a data loader or a callable step -> dict"),
    ],
)
def test_batches_that_are_no_dicts(lent: tuple[Any, Any], batches: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{text}"):
        train_compressor(lent[0], fuser(), batches, steps=1)


def test_a_result_is_one_line() -> None:
    result = tokscale.training.TrainResult(fuser(), 2, 1.25, [{"loss": 2.0}, {"loss": 1.0}])
    assert repr(result) == "TrainResult(CrossAttentionFuser, 2 steps, 1.2 s, mean loss 1.5)"
    assert (
        repr(tokscale.training.TrainResult(fuser(), 0, 0.0, [])) == "TrainResult(CrossAttentionFuser, 0 steps, 0.0 s)"
    )


def test_a_batch_that_fits_the_budget_teaches_nothing() -> None:
    """The budget 8 cuts the first picture alone; the compressor is not called for the second."""
    from tests.hf.helpers import ByNorm
    from tests.tiny_models import FAMILIES, labels_of, prompt

    family = FAMILIES["qwen2_5_vl"]
    model = family.model()
    large, small = (prompt(family, [[3, ("image", number), 4]]) for number in (0, 1))  # 12 and 6 tokens
    batches = [{**batch.inputs, "labels": labels_of(batch)} for batch in (large, small)]
    torch.manual_seed(0)
    compressor = tokscale.CrossAttentionFuser(num_tokens=8, dim=64, num_heads=4).double()
    result = train_compressor(model, compressor, batches, steps=2, budgets=[8], warmup=1)
    assert [entry["grad_norm"] > 0 for entry in result.history] == [True, False]
    with tokscale.patch(model, ByNorm(8)), torch.no_grad():
        assert result.history[1]["loss"] == pytest.approx(model(**batches[1]).loss.item(), abs=1e-6)


@pytest.mark.parametrize("labelled", [True, False])
def test_distillation_of_a_ragged_batch_equals_its_rows(labelled: bool) -> None:
    """All text is labelled, the first token of the padded row too, which no real token predicts."""
    from tests.hf.helpers import ByNorm
    from tests.tiny_models import FAMILIES, alone, labels_of, prompt
    from tokscale.training.settings import Settings
    from tokscale.training.step import losses_of

    family = FAMILIES["llava"]  # no marker around the image: a placeholder predicts the token after it
    rows: list[list[Any]] = [[2, "image", 5, "image", 2], [3, "image", 4]]
    model = family.model()
    settings = Settings(1, (3,), 0.25, 1e-3, 1, 0.1, 0.0, (0.9, 0.98), 1.0, 0.0, 1.0, 1.0, 0)

    def distance(batch: Any) -> float:
        inputs = {**batch.inputs, "labels": labels_of(batch)} if labelled else batch.inputs
        _, parts = losses_of(model, handle, inputs, settings)
        assert parts["distill_loss"] is not None
        return parts["distill_loss"]

    with tokscale.patch(model, ByNorm(3)) as handle, torch.no_grad():
        whole = distance(prompt(family, rows))
        single = [distance(alone(family, rows, row)) for row in range(2)]
    counts = (8, 6) if labelled else (2, 4)  # text tokens less the first of the row; text after the last image
    expected = (counts[0] * single[0] + counts[1] * single[1]) / sum(counts)
    assert whole == pytest.approx(expected, rel=1e-5) and whole > 0


def test_nothing_is_left_behind_by_an_interruption(lent: tuple[Any, Any]) -> None:
    model, processor = lent

    def stop(record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    compressor = fuser().eval()
    compressor.trained = {"budgets": [4], "steps": 7}
    batch = batch_of(processor, 0, 2)
    with pytest.raises(KeyboardInterrupt):
        train_compressor(model, compressor, [batch], steps=2, budgets=[2], callback=stop)
    assert compressor.trained == {"budgets": [4], "steps": 7}  # no step was done
    assert not compressor.training and all(p.grad is None for p in compressor.parameters())
    assert "forward" not in vars(model)


def test_all_ranks_draw_from_the_budgets_of_the_largest_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokscale.training import distributed

    monkeypatch.setattr(distributed.dist, "all_reduce", lambda held, op: held.clamp_(min=576))
    assert distributed.largest_of_all(144, torch.nn.Linear(1, 1), 2) == 576
    assert distributed.largest_of_all(144, torch.nn.Linear(1, 1), 1) == 144
