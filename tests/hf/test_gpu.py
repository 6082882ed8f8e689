"""Patched models on a GPU: what they compute on the CPU, every method in half precision, and nothing left behind.

`make gpu` times whole models and methods only if these pass.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokscale
from tests.hf.helpers import TWO, K, close, forward, generate
from tests.hf.test_methods import TOWER, patched
from tests.tiny_models import FAMILIES, prompt
from tokscale import demo
from tokscale.compressors.registry import compressor_class, trait_of
from tokscale.hf import families

pytestmark = pytest.mark.gpu
METHODS = ["adaptive_pool", "divprune", "attention_topk", "visionzip"]


def on_gpu(inputs: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    return {name: x.to("cuda", dtype if x.is_floating_point() else x.dtype) for name, x in inputs.items()}


@pytest.mark.parametrize("name", METHODS)
def test_models_compute_what_they_compute_on_the_cpu(name: str) -> None:
    """In float64: logits, kept columns and ids of both devices; a full budget and removal bit for bit."""
    for family in FAMILIES.values():
        if trait_of(compressor_class(name), "needs") & TOWER and family.name in families.NO_IMPORTANCE:
            continue
        batch, model = prompt(family, TWO), family.model()
        with patched(model, family, name) as handle:
            want, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
            kept = handle.last.keep
        model, inputs = model.cuda(), on_gpu(batch.inputs)
        before = forward(model, inputs).logits
        with patched(model, family, name) as handle:
            close(forward(model, inputs).logits.cpu(), want)
            assert torch.equal(generate(model, inputs).cpu(), ids)
            assert torch.equal(handle.last.keep.cpu(), kept)
            handle.num_tokens = 10_000
            assert torch.equal(forward(model, inputs).logits, before)
        assert torch.equal(forward(model, inputs).logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", tokscale.list_compressors())
def test_models_keep_exactly_k_in_half_precision(name: str, dtype: torch.dtype) -> None:
    family = FAMILIES["llava"]
    batch, model = prompt(family, TWO), family.model().to("cuda", dtype)
    inputs = on_gpu(batch.inputs, dtype)
    with patched(model, family, name) as handle:
        logits = forward(model, inputs).logits
        first = [image.positions for image in handle.last.images]
        again = forward(model, inputs).logits
    assert torch.equal(logits, again) and bool(torch.isfinite(logits).all())
    assert [len(positions.unique()) for positions in first] == [K, K]


def test_models_answer_as_on_the_cpu() -> None:
    """The packaged model at 36 of 144 tokens, in fp32: the same answers but for near-ties of logits."""
    model, processor = demo.load()
    inputs = demo.collate(demo.samples(256), processor)
    answers = []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        with tokscale.patch(model, "divprune", num_tokens=36):
            answers.append(forward(model, {k: v.to(device) for k, v in inputs.items()}).logits[:, -1].argmax(-1).cpu())
    assert float((answers[0] == answers[1]).float().mean()) >= 0.98
