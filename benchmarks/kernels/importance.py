"""Attention importance: how much attention each key receives, summed over heads and rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokscale import ops

from .case import Answers, Case, Inputs, Operator, Provider, Work, compiled, draw
from .flex import flex, key_sums

WINDOW = 64  # patches of a window of the Qwen2.5-VL tower
BOTH = ("fwd", "bwd")


def cases(device: str, tiny: bool) -> list[Case]:
    """Towers by model: every row votes, as in a vision encoder."""
    if tiny:
        fp32 = torch.float32
        return [
            Case("tower", fp32, b=1, n=33, m=33, h=2, g=2, d=16, modes=BOTH, full=True),
            Case("windows", fp32, b=1, n=32, m=32, h=2, g=2, d=16, variant="packed", k=16),
        ]
    if device == "cpu":
        f, h = torch.float32, torch.bfloat16
        return [
            Case("llava-1.5", f, b=2, n=577, m=577, h=16, g=16, d=64, modes=BOTH),
            Case("llava-1.5", h, b=2, n=577, m=577, h=16, g=16, d=64),
            Case("llava-next", f, b=1, n=2880, m=2880, h=16, g=16, d=64),
            Case("siglip-so400m", f, b=1, n=729, m=729, h=16, g=16, d=72),
            Case("internvl tile", f, b=1, n=1025, m=1025, h=16, g=16, d=64),
            Case("qwen2.5-vl, 2 heads", f, b=1, n=10240, m=10240, h=2, g=2, d=80),
            Case("qwen2.5-vl windows", f, b=1, n=2560, m=2560, h=16, g=16, d=80, variant="packed", k=WINDOW),
        ]
    f = torch.bfloat16
    return [
        Case("llava-next", f, b=8, n=2880, m=2880, h=16, g=16, d=64, modes=BOTH, full=True),
        Case("llava-1.5", f, b=8, n=577, m=577, h=16, g=16, d=64, modes=BOTH),
        Case("llava-1.5, d 128", f, b=8, n=577, m=577, h=8, g=8, d=128),
        Case("qwen2.5-vl windows", f, b=1, n=10240, m=10240, h=16, g=16, d=80, variant="packed", k=WINDOW),
        Case("qwen2.5-vl", f, b=1, n=10240, m=10240, h=16, g=16, d=80),
        Case("siglip-so400m", f, b=8, n=729, m=729, h=16, g=16, d=72),
        Case("internvl tiles", f, b=13, n=1025, m=1025, h=16, g=16, d=64),
        Case("llava-1.5", f, b=1, n=576, m=576, h=16, g=16, d=64),
    ]


def make(case: Case, device: torch.device) -> Inputs:
    """q, k, v as a projection leaves them: (b, length, heads, d), transposed by strides."""
    b, n, m, h, g, d = case.b, case.n, case.m, case.h, case.g, case.d
    q = draw(case, device, b, m, h, d, seed=0).transpose(1, 2)
    k, v = (draw(case, device, b, n, g, d, seed=seed).transpose(1, 2) for seed in (1, 2))
    return {"q": q, "k": k, "v": v}


def parts(inputs: Inputs, case: Case) -> Iterator[tuple[int, int, slice, Tensor, Tensor]]:
    """(sample, head, keys, q, k) of every softmax: one per head, of packed windows one per head and window."""
    q, k = inputs["q"], inputs["k"]
    step = case.k or case.n
    for b in range(case.b):
        for h in range(case.h):
            for start in range(0, case.n, step):
                place = slice(start, start + step)
                rows = place if case.k else slice(None)
                yield b, h, place, q[b, h, rows], k[b, h * case.g // case.h, place]


ROWS = 2048  # of a float64 matrix at once


def oracle(inputs: Inputs, case: Case) -> Answers:
    """Column sums head by head, and the attention's output."""
    received = inputs["q"].new_zeros(case.b, case.n)
    out = torch.empty_like(inputs["q"])
    for b, h, place, q, k in parts(inputs, case):
        v = inputs["v"][b, h * case.g // case.h, place]
        for start in range(0, len(q), ROWS):
            p = (q[start : start + ROWS] @ k.T * case.d**-0.5).softmax(-1)
            received[b, place] += p.sum(0)
            first = start + (place.start if case.k else 0)
            out[b, h, first : first + len(p)] = p @ v
    return {"importance": received, "out": windows(out, case)}


def gradients(inputs: Inputs, case: Case, weights: Mapping[str, Tensor]) -> Answers:
    """Of the weighted column sums: heads and samples add up, so each is differentiated alone."""
    d_q, d_k = torch.zeros_like(inputs["q"]), torch.zeros_like(inputs["k"])
    for b, h, place, q, k in parts(inputs, case):
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        with torch.enable_grad():
            loss = ((q @ k.T * case.d**-0.5).softmax(-1).sum(0) * weights["importance"][b, place]).sum()
        one, two = torch.autograd.grad(loss, (q, k))
        d_q[b, h, place if case.k else slice(None)] += one
        d_k[b, h * case.g // case.h, place] += two
    return {"d_q": d_q, "d_k": d_k}


def windows(x: Tensor, case: Case) -> Tensor:
    """(1, heads, n, d) as (windows, heads, window, d); of whole images the tensor itself."""
    return x[0].unflatten(1, (-1, case.k)).transpose(0, 1) if case.k else x


def eager_sums(q: Tensor, k: Tensor) -> Tensor:
    """The matrix, an fp32 softmax, a cast back, the sums: what a tower under eager attention returns, summed."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32).to(q.dtype)
    return p.sum((1, 2), dtype=torch.float32)


def eager(inputs: Inputs, case: Case) -> Answers:
    """PyTorch's own answers in the dtype of the inputs."""
    q, k, v = (windows(inputs[name], case) for name in "qkv")
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=case.g != case.h)
    return {"importance": eager_sums(q, k).reshape(case.b, case.n), "out": out}


def ours(backend: str, given: bool = False) -> Callable[[Inputs, Case], Callable[[], Sequence[Tensor]]]:
    def build(inputs: Inputs, case: Case) -> Callable[[], Sequence[Tensor]]:
        q, k = inputs["q"], inputs["k"]
        if case.k:
            return _packed(q, k, case, backend)
        lse = None
        if given:  # as the tower's own attention kernel may hand it over
            lse = ops.fusion_attention(q.detach(), k.detach(), k.detach(), return_lse=True, backend=backend).lse
        return lambda: (ops.attention_importance(q, k, lse=lse, backend=backend),)

    return build


def _packed(q: Tensor, k: Tensor, case: Case, backend: str) -> Callable[[], Sequence[Tensor]]:
    ends = torch.arange(0, case.n + 1, case.k, dtype=torch.int32, device=q.device)
    longest: dict[str, Any] = {"max_seqlen_q": case.k, "max_seqlen_k": case.k}

    def call() -> Sequence[Tensor]:
        one, two = (x[0].transpose(0, 1) for x in (q, k))
        return (ops.attention_importance_varlen(one, two, ends, **longest, backend=backend)[None],)

    return call


def with_out(backend: str) -> Callable[[Inputs, Case], Callable[[], Sequence[Tensor]]]:
    """Attention of the tower and the importance of its keys from one log-sum-exp."""

    def build(inputs: Inputs, case: Case) -> Callable[[], Sequence[Tensor]]:
        def call() -> Sequence[Tensor]:
            found = ops.fusion_attention(*(inputs[name] for name in "qkv"), return_importance=True, backend=backend)
            assert found.importance is not None
            return found.out, found.importance

        return call

    return build


def theirs(function: Callable[[Tensor, Tensor], Tensor], compile_it: bool = False) -> Any:
    def build(inputs: Inputs, case: Case) -> Callable[[], Sequence[Tensor]]:
        run = compiled(function, inputs) if compile_it else function
        return lambda: (run(*(windows(inputs[name], case) for name in "qk")).reshape(case.b, case.n),)

    return build


def sdpa(inputs: Inputs, case: Case) -> Callable[[], Sequence[Tensor]]:
    q, k, v = (windows(inputs[name], case) for name in "qkv")
    return lambda: (F.scaled_dot_product_attention(q, k, v, enable_gqa=case.g != case.h),)


def flash_colsum(inputs: Inputs, case: Case) -> Callable[[], Sequence[Tensor]]:
    run = importlib.import_module("flash_colsum").flash_colsum
    return theirs(lambda q, k: run(q, k).float())(inputs, case)


def double_flex(q: Tensor, k: Tensor) -> Tensor:
    """Once for the row sums, once with queries and keys exchanged."""
    return key_sums(q, k, flex(q, k, k)[1])


def work(case: Case, answers: Sequence[str], mode: str, given: str = "") -> Work:
    """A score costs 2 d FLOPs and one exponential; importance needs each twice, for the row sums and the columns.

    Rows whose lse is given need no sums.
    """
    scores = case.b * case.h * case.m * (case.k or case.n)
    q, k = case.b * case.h * case.m * case.d, case.b * case.g * case.n * case.d
    products = 2 * ("importance" in answers) + 2 * ("out" in answers) - (len(answers) == 2) - (given == "lse")
    softmaxes = 1 + ("importance" in answers) - (given == "lse")
    forward = Work(
        case.bytes_each * ((q + k) + (k + q) * ("out" in answers)) + 4 * case.b * case.n,
        2 * scores * case.d * products,
        scores * softmaxes,
    )
    backward = Work(case.bytes_each * 2 * (q + k), 8 * scores * case.d, 2 * scores)  # scores twice, dQ, dK
    return Work(*(f * (mode != "bwd") + w * (mode != "fwd") for f, w in zip(forward, backward)))


ONE, FORWARD = ("importance",), ("fwd",)
ON_TOWERS: dict[str, Any] = {"gpu_only": True, "ours": True, "modes": FORWARD, "skips": "packed"}
OPERATOR = Operator(
    "importance",
    cases,
    make,
    oracle,
    eager,
    (
        Provider("triton", ONE, ours("triton"), gpu_only=True, ours=True),
        Provider("triton, lse given", ONE, ours("triton", given=True), given="lse", **ON_TOWERS),
        Provider("triton, out too", ("out", "importance"), with_out("triton"), **ON_TOWERS),
        Provider("torch", ONE, ours("torch"), ours=True),
        Provider("eager", ONE, theirs(eager_sums)),
        Provider("sdpa alone", ("out",), sdpa, modes=FORWARD),
        Provider("flash-colsum", ONE, flash_colsum, gpu_only=True, modes=FORWARD),
        Provider("eager compiled", ONE, theirs(eager_sums, compile_it=True), gpu_only=True, compiled=True),
        Provider("double flex", ONE, theirs(double_flex, compile_it=True), gpu_only=True, compiled=True, modes=FORWARD),
    ),
    work,
    leaves=("q", "k"),
    gradients=gradients,
)
