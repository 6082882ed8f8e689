"""Fusion attention: learned queries over vision and question keys under one softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tokscale import ops
from tokscale.ops.fusion_attention import reference

from .case import MODES, Answers, Case, Inputs, Operator, Prepared, Provider, Work, compiled, draw
from .flex import flex, key_sums

Built = Callable[[], Sequence[Tensor]]
KEYS = ("k_vision", "v_vision", "k_text", "v_text")


def cases(device: str, tiny: bool) -> list[Case]:
    """The fuser over one image's tokens; m of 16 and 64 are budgets of this library's own fuser."""
    if tiny:
        return [Case("fuser", torch.float32, b=1, n=33, m=4, h=2, g=2, d=16, t=5, modes=("fwd", "bwd"), full=True)]
    if device == "cpu":
        f = torch.float32
        return [
            Case("llava-1.5", f, b=2, n=576, m=16, h=16, g=16, d=64, t=20, modes=("fwd", "fwd+bwd")),
            Case("llava-1.5", f, b=2, n=576, m=64, h=16, g=16, d=64, t=20),
            Case("llava-next", f, b=1, n=2880, m=64, h=16, g=16, d=64, t=64),
            Case("llava-1.5", torch.bfloat16, b=2, n=576, m=16, h=16, g=16, d=64, t=20),
        ]
    f = torch.bfloat16
    return [
        Case("llava-next", f, b=8, n=2880, m=64, h=16, g=16, d=64, t=64, modes=MODES, full=True),
        Case("llava-1.5", f, b=8, n=576, m=16, h=16, g=16, d=64, t=64, modes=("fwd", "fwd+bwd"), full=True),
        Case("llava-1.5", f, b=8, n=576, m=64, h=16, g=16, d=64, t=64),
        Case("llava-next", f, b=1, n=2880, m=64, h=16, g=16, d=64, t=64),
        Case("llava-1.5", f, b=1, n=576, m=64, h=16, g=16, d=64, t=64),
        Case("llava-next, 4 key heads", f, b=8, n=2880, m=16, h=16, g=4, d=64, t=64),
        Case("siglip-so400m", f, b=8, n=729, m=64, h=16, g=16, d=72, t=64),
    ]


def make(case: Case, device: torch.device) -> Inputs:
    """Random tensors, as projections leave them, and masks that keep all: for those who must be given one."""
    b, h, g, m, n, t, d = case.b, case.h, case.g, case.m, case.n, case.t, case.d
    q = draw(case, device, b, m, h, d).transpose(1, 2)
    pairs = zip(KEYS, (n, n, t, t))
    keys = {name: draw(case, device, b, x, g, d, seed=i + 1).transpose(1, 2) for i, (name, x) in enumerate(pairs)}
    masks = {"vision_mask": torch.ones(b, n, dtype=torch.bool), "text_mask": torch.ones(b, t, dtype=torch.bool)}
    return {"q": q, **keys, **{name: mask.to(device) for name, mask in masks.items()}}


def oracle(inputs: Inputs, case: Case) -> Answers:
    out, _, importance, _ = reference.fusion_attention(**inputs)
    return {"out": out, "importance": importance}


def joined(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """(keys, values, mask) of both segments: the copy that a user makes."""
    k = torch.cat([inputs["k_vision"], inputs["k_text"]], 2)
    v = torch.cat([inputs["v_vision"], inputs["v_text"]], 2)
    return k, v, torch.cat([inputs["vision_mask"], inputs["text_mask"]], 1)


def probabilities(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """As eager attention makes them: fp32 softmax, cast back."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(~mask[:, None, None], -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype)


def eager_all(inputs: Inputs) -> tuple[Tensor, Tensor]:
    k, v, mask = joined(inputs)
    p = probabilities(inputs["q"], k, mask)
    out = p @ v.repeat_interleave(p.shape[1] // v.shape[1], 1)
    return out, p[..., : inputs["k_vision"].shape[2]].sum((1, 2), dtype=torch.float32)


def eager(inputs: Inputs, case: Case) -> Answers:
    return dict(zip(BOTH, eager_all(inputs)))


def sdpa_as_written(inputs: Inputs) -> tuple[Tensor]:
    k, v, mask = joined(inputs)
    gqa = k.shape[1] != inputs["q"].shape[1]
    return (F.scaled_dot_product_attention(inputs["q"], k, v, mask[:, None, None], enable_gqa=gqa),)


def sdpa_and_sums(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """SDPA gives no importance, so the matrix is made beside it."""
    k, v, mask = joined(inputs)
    gqa = k.shape[1] != inputs["q"].shape[1]
    out = F.scaled_dot_product_attention(inputs["q"], k, v, mask[:, None, None], enable_gqa=gqa)
    p = probabilities(inputs["q"], k, mask)
    return out, p[..., : inputs["k_vision"].shape[2]].sum((1, 2), dtype=torch.float32)


def flex_out(inputs: Inputs) -> tuple[Tensor]:
    k, v, _ = joined(inputs)
    return (flex(inputs["q"], k, v)[0],)


def flex_both(inputs: Inputs) -> tuple[Tensor, Tensor]:
    k, v, _ = joined(inputs)
    out, lse = flex(inputs["q"], k, v)
    return out, key_sums(inputs["q"], inputs["k_vision"], lse)


def theirs(function: Callable[[Inputs], Any], compile_it: bool = False) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        run = compiled(function, inputs) if compile_it else function
        return lambda: run(inputs)

    return build


def best_case(backend: SDPBackend) -> Callable[[Inputs, Case], Prepared]:
    """Keys that lie together already, and no mask: what SDPA could do at most."""

    def build(inputs: Inputs, case: Case) -> Prepared:
        k, v, _ = joined(inputs)
        k, v = k.detach().requires_grad_(k.requires_grad), v.detach().requires_grad_(v.requires_grad)

        def call() -> Sequence[Tensor]:
            with sdpa_kernel(backend):
                return (F.scaled_dot_product_attention(inputs["q"], k, v, enable_gqa=case.g != case.h),)

        return Prepared(call, {"q": inputs["q"], "k": k, "v": v})

    return build


def ours(backend: str, importance: bool = False, masks: bool = True) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        given = inputs if masks else {name: inputs[name] for name in ("q", *KEYS)}

        def call() -> Sequence[Tensor]:
            found = ops.fusion_attention(**given, return_importance=importance, backend=backend)
            return (found.out,) if found.importance is None else (found.out, found.importance)

        return call

    return build


def work(case: Case, answers: Sequence[str], mode: str, given: str = "") -> Work:
    """q, keys, values and the output once; importance reads the keys again. Backward: five products."""
    keys = case.n + case.t
    rows, segment = case.b * case.h * case.m * case.d, case.b * case.g * case.d
    scores, again = case.b * case.h * case.m * keys, float("importance" in answers)
    forward = Work(
        case.bytes_each * (2 * rows + 2 * segment * keys + again * segment * case.n),
        scores * case.d * (4 + 2 * again),
        scores * (1 + again),
    )
    backward = Work(case.bytes_each * (4 * rows + 4 * segment * keys), 10 * scores * case.d, scores)
    return Work(*(f * (mode != "bwd") + w * (mode != "fwd") for f, w in zip(forward, backward)))


OUT, BOTH = ("out",), ("out", "importance")
FORWARD = ("fwd",)
COMPILED: dict[str, Any] = {"gpu_only": True, "compiled": True}
ONCE: dict[str, Any] = {**COMPILED, "modes": FORWARD}
OPERATOR = Operator(
    "fusion",
    cases,
    make,
    oracle,
    eager,
    (
        Provider("triton", OUT, ours("triton"), gpu_only=True, ours=True),
        Provider("triton, no mask", OUT, ours("triton", masks=False), gpu_only=True, ours=True),
        Provider("triton + importance", BOTH, ours("triton", importance=True), gpu_only=True, ours=True),
        Provider("torch", OUT, ours("torch"), ours=True),
        Provider("torch + importance", BOTH, ours("torch", importance=True), ours=True, modes=FORWARD),
        Provider("eager", OUT, theirs(lambda inputs: eager_all(inputs)[:1])),
        Provider("eager + importance", BOTH, theirs(eager_all), modes=FORWARD),
        Provider("sdpa, cat and mask", OUT, theirs(sdpa_as_written)),
        Provider("sdpa, cat and mask + importance", BOTH, theirs(sdpa_and_sums), modes=FORWARD),
        Provider("sdpa best case, flash", OUT, best_case(SDPBackend.FLASH_ATTENTION)),
        Provider("sdpa best case, efficient", OUT, best_case(SDPBackend.EFFICIENT_ATTENTION), gpu_only=True),
        Provider("sdpa best case, cudnn", OUT, best_case(SDPBackend.CUDNN_ATTENTION), gpu_only=True),
        Provider("sdpa, cat and mask, compiled", OUT, theirs(sdpa_as_written, compile_it=True), **COMPILED),
        Provider("sdpa, cat and mask, compiled + importance", BOTH, theirs(sdpa_and_sums, compile_it=True), **ONCE),
        Provider("flex", OUT, theirs(flex_out, compile_it=True), **ONCE),
        Provider("flex + importance", BOTH, theirs(flex_both, compile_it=True), **ONCE),
    ),
    work,
    leaves=("q", *KEYS),
)
