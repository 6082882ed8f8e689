"""The `native` baseline of a sweep: the processor turned for each cell, counted, and given back."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import tokscale
from tests.hf import processors
from tests.tiny_models import FAMILIES
from tokscale.demo.model import make_model, make_processor
from tokscale.sweep.table import SweepResult

SIZES = ((320, 180), (160, 120))
COUNTS = {16: (15, 12), 64: (60, 54)}  # at 16 x 16 pixels a token
WHOLE = (20 * 11, 10 * 8)


@pytest.fixture(scope="module")
def model():
    return FAMILIES["qwen2_5_vl"].model()


@pytest.fixture
def processor(model):
    made = processors.qwen2_vl(patch_size=8, size={"shortest_edge": 256, "longest_edge": 256 * 1280})
    ids = made.tokenizer.convert_tokens_to_ids
    model.config.image_token_id, model.config.vision_start_token_id = ids("<image>"), ids("<vs>")
    return made


class Evaluate:
    """Scores a model by its vision tokens; makes its inputs at each call, or keeps those of the first."""

    def __init__(self, processor, *, fails=(), keeps=False):
        self.processor, self.fails, self.keeps, self.calls, self.inputs = processor, set(fails), keeps, [], None

    def __call__(self, model):
        pictures = [Image.new("RGB", size) for size in SIZES]
        if self.inputs is None or not self.keeps:
            self.inputs = self.processor(
                images=pictures, text=["<vs> <image> <ve> w"] * 2, return_tensors="pt", padding=True
            ).to(torch.float64)
        tokens = int((self.inputs["input_ids"] == self.processor.image_token_id).sum())
        self.calls.append(tokens)
        if tokens in self.fails:
            raise RuntimeError("no luck")
        with torch.no_grad():
            model(**self.inputs)
        return tokens / 1000


def sweep(model, evaluate, processor, budgets=(64, 16), compressors=("uniform",), **keywords):
    return tokscale.sweep(
        model, list(compressors), evaluate, budgets=budgets, processor=processor, progress=False, **keywords
    )


def test_native_runs_once_per_budget_in_tokens_and_is_counted(model, processor):
    before = {**vars(processor.image_processor)}, {k: v.clone() for k, v in model.state_dict().items()}
    evaluate = Evaluate(processor)
    result = sweep(model, evaluate, processor, budgets=(64, 0.5, 16))
    native = result.filter(compressor="native")
    assert [row["num_tokens"] for row in native] == [64, 16] and {row["status"] for row in result} == {"ok"}
    assert evaluate.calls == [sum(WHOLE), sum(COUNTS[64]), sum(COUNTS[16]), *[sum(WHOLE)] * 3]
    for row in native:
        kept = sum(COUNTS[row["num_tokens"]]) / 2
        assert row["num_tokens_kept"] == row["mean_tokens"] == kept <= row["num_tokens"]
        assert row["score"] == sum(COUNTS[row["num_tokens"]]) / 1000 and row["images"] == 2
        assert row["native_tokens"] is row["compress_ms"] is None and row["prefill_tflop"] > 0
        size = {"longest_edge": row["num_tokens"] * 256, "shortest_edge": 256}
        assert json.loads(row["arguments"]) == {"size": size}
    assert result.rows[0]["native_tokens"] == sum(WHOLE) / 2
    held, weights = before
    assert vars(processor.image_processor).keys() == held.keys()
    assert all(vars(processor.image_processor)[key] is value for key, value in held.items())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items()) and "forward" not in vars(model)
    np_tokens = list(result.filter(compressor="uniform").num_tokens)
    assert list(result.num_tokens) == np_tokens  # no law is fitted to a baseline
    (stars,) = [line for line in result.plot().lines if line.get_marker() == "*"]
    assert sorted(stars.get_xdata()) == [13.5, 57]  # where it kept its tokens, not where it was asked


def test_an_exception_gives_the_processor_back_and_is_a_row(model, processor):
    held = {**vars(processor.image_processor)}
    result = sweep(model, Evaluate(processor, fails=[sum(COUNTS[64])]), processor, baselines=("native",))
    assert [row["status"] for row in result] == ["failed", "ok", "ok", "ok"]
    assert result.rows[0]["error"] == "RuntimeError: no luck" and result.rows[0]["num_tokens"] == 64
    assert vars(processor.image_processor).items() == held.items() and "forward" not in vars(model)


def test_an_interrupted_sweep_goes_on_with_what_native_has_still_to_run(model, processor, tmp_path, capsys):
    keywords = {"baselines": ("native",), "compressors": (), "out": tmp_path / "s.csv"}
    first = Evaluate(processor, fails=[sum(COUNTS[16])])
    assert [row["status"] for row in sweep(model, first, processor, **keywords)] == ["ok", "failed"]
    second = Evaluate(processor)
    result = sweep(model, second, processor, **keywords)
    assert second.calls == [sum(COUNTS[16])] and [row["status"] for row in result] == ["ok", "ok"]
    assert result.rows == SweepResult.from_csv(tmp_path / "s.csv").rows
    third = Evaluate(processor)
    assert sweep(model, third, processor, seeds=(0, 1), **keywords).rows[2]["seed"] == 1
    assert third.calls == [sum(COUNTS[64]), sum(COUNTS[16])]  # another seed is another cell
    assert "2 of 4 cells were already in" in capsys.readouterr().err


def test_pictures_that_were_processed_before_are_found_out(model, processor):
    (_, ok, bad, *_) = sweep(model, Evaluate(processor, keeps=True), processor, budgets=(256, 16)).rows
    assert ok["status"] == "ok" and ok["num_tokens_kept"] == 150  # no budget was needed
    assert bad["status"] == "failed" and bad["error"].startswith(
        "BudgetError: a picture had 220 vision tokens under a native budget of 16 ("
    )
    assert "evaluate() must process its pictures while it is called, with the processor that sweep was" in bad["error"]


def test_a_tiled_model_whose_configuration_repeats_the_setting():
    model, processor = FAMILIES["llava_next"].model(), processors.llava_next(32, 16)
    processor.image_token_id = model.config.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    pinpoints = model.config.image_grid_pinpoints = [
        list(pair) for pair in processor.image_processor.image_grid_pinpoints
    ]

    def evaluate(model):
        inputs = processor(images=[Image.new("RGB", (64, 64))], text=["<image> w"], return_tensors="pt")
        with torch.no_grad():
            model(**inputs.to(torch.float64))
        return 0.5

    none, small, medium, large = sweep(model, evaluate, processor, (10, 18, 30), (), strict=True).rows
    # the picture's 2 x 2, then 2 x 2 in one tile (of two a square fills one) or 4 x 4 in four, a newline per row
    assert [row["num_tokens_kept"] for row in (none, small, medium, large)] == [None, 10, 10, 24]
    assert model.config.image_grid_pinpoints is pinpoints


def test_what_cannot_be_turned_is_a_row_that_says_why():
    model, processor = make_model().eval(), make_processor()

    def evaluate(model):
        return 0.5

    def reasons(processor, budgets):
        result = sweep(model, evaluate, processor, budgets, (), baselines=("native",))
        assert {row["status"] for row in result} == {"skipped"}
        return [(row["num_tokens"], row["error"]) for row in result]

    assert reasons(None, (4,)) == [(None, "native: sweep was given no processor to turn; pass processor=")]
    assert reasons(processors.gemma4(), (0.5,)) == [
        (None, "native: a processor is told a number of tokens, and all budgets are shares of them")
    ]
    ((tokens, error),) = reasons(processor, (4, 16))
    assert tokens is None and error.startswith("native: LlavaProcessor (CLIPImageProcessor) ")
    (one, two) = reasons(processors.gemma4(), (4, 16))
    assert one[0] == 4 and one[1].startswith("native: num_tokens=4 is below 70, the least that Gemma4Processor can")
    assert two[0] == 16
    by_default = sweep(model, evaluate, processor, (4,), (), strict=True)
    assert [row["compressor"] for row in by_default] == ["none"]  # no knob, no row of it
