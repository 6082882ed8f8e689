"""A patched model among others: threads with a model each or on one, models within models."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch

import tokscale
from tests.hf.helpers import (
    ROWS,
    ByNorm,
    K,
    forward,
    generate,
)
from tests.hf.together import run_together
from tests.tiny_models import FAMILIES, module, prompt


def test_two_threads_with_a_model_each(llava: Any) -> None:
    family = FAMILIES["llava"]
    batch, twin = prompt(family, ROWS), copy.deepcopy(llava)
    with tokscale.patch(llava, ByNorm(K)), tokscale.patch(twin, ByNorm(5)):
        serial = [generate(m, batch.inputs) for m in (llava, twin)]
        for _ in range(3):
            both = run_together(lambda: generate(llava, batch.inputs), lambda: generate(twin, batch.inputs))
            assert all(torch.equal(a, b) for a, b in zip(serial, both))


def test_two_threads_on_one_model(llava: Any) -> None:
    family = FAMILIES["llava"]
    batches = [prompt(family, ROWS), prompt(family, [[4, "image", 2]], first=3)]
    with tokscale.patch(llava, ByNorm(K)):
        serial = [generate(llava, b.inputs) for b in batches]
        for _ in range(3):
            both = run_together(*[lambda b=b: generate(llava, b.inputs) for b in batches])
            assert all(torch.equal(a, b) for a, b in zip(serial, both))


def test_threads_that_collect_importance(llava: Any) -> None:
    """Both tap one layer; the slower one must find it tapped until it is done."""

    class Wants(ByNorm):
        needs = frozenset({"importance"})

        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            order = context["importance"].sort(dim=-1, descending=True, stable=True).indices
            return tokscale.Compressed.select(vision_tokens, order[:, : self.output_length(vision_tokens.shape[1])])

    family = FAMILIES["llava"]
    batches = [prompt(family, ROWS), prompt(family, [[4, "image", 2]] * 6, first=3)]
    tower = module(llava, family.tower)
    meet = threading.Barrier(2)
    with tokscale.patch(llava, Wants(K)):
        serial = [forward(llava, b.inputs).logits for b in batches]
        inside = module(llava, f"{family.tower}.encoder.layers.0")
        hook = inside.register_forward_pre_hook(lambda *_: [None, meet.wait(30)][0])  # both are encoding now
        try:
            both = run_together(*[lambda b=b: forward(llava, b.inputs).logits for b in batches])
        finally:
            hook.remove()
        assert all(torch.equal(a, b) for a, b in zip(serial, both))
    assert tower.config._attn_implementation == "sdpa"


def test_a_model_within_a_model() -> None:
    """A compressor that runs another patched model: the inner call must not be taken for the outer one."""
    family = FAMILIES["llava"]
    outer, inner = family.model(), family.model()
    batch = prompt(family, ROWS)
    inside = prompt(family, [[4, "image", 2]], first=3)

    class Asks(ByNorm):
        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            self.inner = forward(inner, inside.inputs).logits
            return super().compress(vision_tokens, **context)

    asks = Asks(K)
    with tokscale.patch(inner, ByNorm(5)):
        expected_inner = forward(inner, inside.inputs).logits
        with tokscale.patch(outer, ByNorm(K)):
            expected = forward(outer, batch.inputs).logits
        with tokscale.patch(outer, asks) as handle:
            assert torch.equal(forward(outer, batch.inputs).logits, expected)
            assert torch.equal(handle.compressor.inner, expected_inner)
