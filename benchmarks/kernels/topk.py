"""Top-k with an order-preserving gather."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops.topk_gather import reference

from .case import Answers, Case, Inputs, Operator, Provider, Work, compiled, draw

Built = Callable[[], Sequence[Tensor]]
BOTH = ("positions", "tokens")


def cases(device: str, tiny: bool) -> list[Case]:
    """Scores of random numbers, without ties: baselines promise no order of ties."""
    if tiny:
        return [Case("tokens", torch.float32, b=2, n=24, k=4, dim=8, full=True)]
    sizes = [("llava-1.5", 1, 576, 64), ("llava-next", 8, 2880, 288), ("long video", 8, 16384, 512)]
    if device != "cpu":
        sizes[2:] = [("long video", 32, 8192, 512)]
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return [Case(name, dtype, b=b, n=n, k=k, dim=1024, full=True) for name, b, n, k in sizes]


def make(case: Case, device: torch.device) -> Inputs:
    """A permutation per sample as scores, and tokens."""
    order = [torch.randperm(case.n, generator=torch.Generator().manual_seed(seed)) for seed in range(case.b)]
    scores = torch.stack(order).float().div(case.n)
    return {"x": draw(case, device, case.b, case.n, case.dim), "scores": scores.to(device)}


def oracle(inputs: Inputs, case: Case) -> Answers:
    positions = reference.topk_positions(inputs["scores"], case.k)
    return {"positions": positions, "tokens": reference.gather_tokens(inputs["x"], positions)}


def take(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return positions, x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def topk_sort(x: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return take(x, scores.topk(k).indices.sort().values)


def argsort(x: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return take(x, scores.argsort(descending=True)[:, :k].sort().values)


def theirs(function: Callable[[Tensor, Tensor, int], Sequence[Tensor]], compile_it: bool = False) -> Callable:
    def build(inputs: Inputs, case: Case) -> Built:
        run = compiled(function, inputs) if compile_it else function
        return lambda: run(inputs["x"], inputs["scores"], case.k)

    return build


def ours(backend: str) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        def call() -> Sequence[Tensor]:
            found = ops.topk_gather(inputs["x"], inputs["scores"], case.k, backend=backend)
            return found.positions, found.tokens

        return call

    return build


def error_of(got: Tensor, answers: Answers, case: Case) -> float:
    """The share of positions, or of numbers of the kept tokens, that differ."""
    want = answers["positions" if got.dtype == torch.int64 else "tokens"]
    return float((got != want).double().mean())


def work(case: Case, answers: Sequence[str], mode: str, given: str = "") -> Work:
    """The scores once, the kept tokens in and out, their positions."""
    kept = case.b * case.k
    return Work(bytes=4 * case.b * case.n + 2 * case.bytes_each * kept * case.dim + 8 * kept)


OPERATOR = Operator(
    "topk",
    cases,
    make,
    oracle,
    lambda inputs, case: dict(zip(BOTH, topk_sort(inputs["x"], inputs["scores"], case.k))),
    (
        Provider("triton", BOTH, ours("triton"), gpu_only=True, ours=True),
        Provider("torch", BOTH, ours("torch"), ours=True),
        Provider("topk, sort, gather", BOTH, theirs(topk_sort)),
        Provider("argsort", BOTH, theirs(argsort)),
        Provider(
            "topk, sort, gather, compiled", BOTH, theirs(topk_sort, compile_it=True), gpu_only=True, compiled=True
        ),
    ),
    work,
    error=error_of,
)
