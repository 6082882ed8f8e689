"""The profile: its parts, its operations against the closed form, its words. Times are checked for order alone."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import tokscale
from tokscale import cost, profile
from tokscale.demo.model import make_model
from tokscale.errors import ArgumentError, BudgetError, PatchError, UnknownCompressorError, UnsupportedModelError
from tokscale.profile.measure import Stopwatch


@pytest.fixture(scope="module")
def model():
    return make_model().eval()


@pytest.fixture(scope="module")
def inputs():
    ids = torch.tensor([[1] + [4] * 144 + [5, 8]] * 2)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.zeros(2, 3, 96, 96)}


@pytest.fixture(scope="module")
def found(model, inputs):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = profile.profile(
        model,
        ["divprune", "adaptive_pool"],
        inputs,
        budgets=[36],
        repeats=3,
        warmup=1,
        new_tokens=3,
        image_size="96x96",
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "forward" not in vars(model) and not model._forward_hooks and not model._forward_pre_hooks
    return result


def test_the_parts_of_a_call(found):
    assert [(row["compressor"], row["num_tokens"], row["prompt_tokens"]) for row in found.rows] == [
        ("unpatched", None, 147),
        ("divprune", 36, 39),
        ("adaptive_pool", 36, 39),
    ]
    for row in found.rows:
        assert row["ttft_ms_p20"] <= row["ttft_ms"] <= row["ttft_ms_p80"]
        assert row["vision_ms"] > 0 and row["prefill_ms"] > 0 and row["first_call_ms"] > 0
        assert row["decode_tokens_per_s"] > 0 and row["peak_memory_mib"] is None
        assert (row["native_tokens"], row["num_tokens_kept"]) == (144, row["num_tokens"] or 144)
    assert found.rows[0]["compress_ms"] == 0 < found.rows[1]["compress_ms"]
    assert found.rows[0]["prefill_speedup"] == 1


def test_the_operators_of_tokscale_are_named_and_timed(found):
    assert [row["operators"] for row in found.rows] == ["", "greedy_select", ""]
    assert [row["operators_ms"] > 0 for row in found.rows] == [False, True, False]
    assert "operators ms" in found.table()


@pytest.mark.parametrize(
    ("compressor", "operators"),
    [
        ("attention_topk", {"attention_importance", "topk_positions", "topk_tokens"}),
        ("divprune", {"greedy_select"}),
        ("dpp", {"greedy_select"}),
        ("idpruner", {"attention_importance", "greedy_select"}),
        ("cross_attention", {"projected_fusion_attention"}),
    ],
)
def test_torchs_profiler_shows_the_operators_of_a_patched_prefill(model, inputs, compressor, operators):
    if compressor == "cross_attention":
        compressor = tokscale.create_compressor("cross_attention", num_tokens=9, dim=64, num_heads=4)
    with (
        tokscale.patch(model, compressor, num_tokens=9),
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen,
    ):
        model(**inputs)
    names = {event.key.partition("::")[2] for event in seen.key_averages() if event.key.startswith("tokscale::")}
    assert names == operators


def test_one_call_is_at_least_the_sum_of_its_parts(model, inputs):
    watch = Stopwatch(model)
    with torch.inference_mode(), tokscale.patch(model, "divprune", num_tokens=36) as handle:
        for _ in range(3):
            call = watch.prefill(inputs, handle)
            assert call["ttft_ms"] >= call["vision_ms"] + call["compress_ms"] + call["prefill_ms"]
    assert watch.prefill(inputs)["first"] == model(**inputs).logits[:, -1].argmax(-1).tolist()


def test_operations_and_cache_are_those_of_the_closed_forms(model, found):
    for row in found.rows:
        assert row["prefill_tflop"] == row["prefill_tflop_closed_form"]
        assert row["prefill_tflop"] == cost.prefill_flops(model.config, row["prompt_tokens"], batch_size=2) / 1e12
        closed = cost.kv_cache_bytes(model.config, row["prompt_tokens"], batch_size=2, dtype_bytes=4) / 2**20
        assert row["kv_cache_mib"] == closed
        projector = 2 * 2 * 144 * 2 * 64 * 64 / 1e12  # two images, two square matrices
        assert row["vision_tflop"] == pytest.approx(row["vision_tflop_closed_form"] + projector, rel=1e-12)
    assert found.rows[1]["ideal_prefill_speedup"] == found.rows[0]["prefill_tflop"] / found.rows[1]["prefill_tflop"]


def test_what_it_says(found):
    text = str(found)
    assert text.startswith("CPU, for comparison only\nmodel ") and "image_size 96x96" in text and "threads" in text
    assert "The vision tower takes" in text and "divprune" in text
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["schema"] == 1 and len(document["rows"]) == 3 and document["header"]["batch_size"] == 2
    assert document["header"]["calls"] == 4  # an odd number of calls would not go there and back


def test_slower_is_said_in_words(found):
    base, row = dict(found.rows[0]), dict(found.rows[1])
    slow = profile.Profile(found.header, (base, {**row, "ttft_ms": 2 * base["ttft_ms"]}))
    said = "divprune at 36 tokens is slower than the unpatched model: 2.00 times its time to the first token."
    assert slow.notes[0] == said and said in slow.table()
    odd = {**row, "ttft_ms": 0.5 * base["ttft_ms"], "prefill_ms": 2 * base["prefill_ms"]}
    assert "prefill is slower than unpatched" in profile.Profile(found.header, (base, odd)).notes[0]


def test_budgets_can_be_given_per_compressor(model, inputs):
    chosen = {"a": "divprune", "b": tokscale.create_compressor("random", num_tokens=9)}
    result = profile.profile(model, chosen, inputs, budgets={"a": [4], "b": [9, 1]}, repeats=2, warmup=0, new_tokens=0)
    assert [(row["compressor"], row["num_tokens"]) for row in result.rows[1:]] == [("a", 4), ("b", 9), ("b", 1)]
    assert result.rows[1]["decode_tokens_per_s"] is None and "decode" in result.table()


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"budgets": [0]}, BudgetError, "must be an integer >= 1, got 0"),
        ({"budgets": [0.5]}, BudgetError, "must be an integer >= 1, got 0.5"),
        ({"budgets": {"other": [1]}}, ArgumentError, "budgets has no list for 'divprune'; it has lists for other"),
        ({"repeats": 0}, BudgetError, "repeats must be an integer >= 1, got 0"),
        ({"new_tokens": 1}, ArgumentError, "new_tokens must be at least 2, or 0 to leave decoding out"),
        ({"compressors": ["divprun"]}, UnknownCompressorError, "Did you mean 'divprune'?"),
        ({"model": torch.nn.Linear(2, 2)}, UnsupportedModelError, "Linear has no language model of its own to time"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(model, change, error, text):
    given = {"model": model, "compressors": ["divprune"], "budgets": [1], **change}
    with pytest.raises(error) as caught:
        profile.profile(given.pop("model"), given.pop("compressors"), None, **given)
    assert text in str(caught.value)


def test_a_patched_model_is_refused(model, inputs):
    with tokscale.patch(model, "uniform", num_tokens=3), pytest.raises(PatchError), warnings.catch_warnings():
        profile.profile(model, ["divprune"], inputs, budgets=[1], repeats=2, warmup=0, new_tokens=0)
