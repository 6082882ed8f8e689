"""Greedy selection: max-min diversity and DPP MAP, beside the loops that published code runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.published.selection import determinantal, max_min
from tokscale import ops

from .case import Answers, Case, Inputs, Operator, Provider, Work

Built = Callable[[], Sequence[Tensor]]
CHOSEN = ("positions",)


def cases(device: str, tiny: bool) -> list[Case]:
    """Tokens to budget, one image and eight."""
    sizes = [(1, 576, 64), (8, 576, 64), (1, 2880, 288), (8, 2880, 288)]
    if tiny:
        sizes = [(1, 24, 4)]
    names = {24: "tokens", 576: "llava-1.5", 2880: "llava-next"}
    made = []
    for method in ("max_min", "dpp"):
        wanted = sizes[:3] if device == "cpu" or method == "dpp" else sizes
        made += [
            Case(f"{names[n]}, {method}", torch.float32, b=b, n=n, k=k, dim=min(1024, 2 * n), variant=method)
            for b, n, k in wanted
        ]
    return made


def make(case: Case, device: torch.device) -> Inputs:
    """Cosine distances of random tokens with an exact zero diagonal, or their cosines weighted by a relevance.

    Without weights a DPP's gains would be one number but for rounding, and its path a matter of chance.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(case.b, case.n, case.dim, generator=draw), dim=-1)
    cosine = x @ x.transpose(1, 2)
    torch.diagonal(cosine, dim1=1, dim2=2).fill_(1)
    relevance = 0.5 + 0.5 * torch.rand(case.b, case.n, generator=draw)
    weighted = relevance[:, :, None] * cosine * relevance[:, None, :]
    matrix = weighted if case.variant == "dpp" else (1 - cosine).clamp_min(0)
    return {"matrix": matrix.to(device)}


def oracle(inputs: Inputs, case: Case) -> Answers:
    """The selection with every number in float64."""
    return {"positions": _batched(inputs["matrix"], case), **inputs}


def error_of(chosen: Tensor, inputs: Answers, case: Case) -> float:
    """Max-min compares given numbers, so a position is right or wrong: the share that differ.

    A DPP adds rounded numbers, and near-ties may fall either way: how far ln det of the chosen kernel is off.
    """
    want, matrix = inputs["positions"], inputs["matrix"]
    if case.variant != "dpp":
        return float((chosen != want).double().mean())

    def volume(picks: Tensor) -> Tensor:
        rows = torch.arange(case.b, device=picks.device)[:, None, None]
        return torch.logdet(matrix[rows, picks[:, :, None], picks[:, None, :]])

    return float(((volume(chosen) - volume(want)) / volume(want).abs().clamp_min(1)).abs().max())


def _batched(matrix: Tensor, case: Case) -> Tensor:
    """The published loops with a batch axis: the same operations for all images at once."""
    b, n, k = case.b, case.n, case.k
    rows = torch.arange(b, device=matrix.device)
    chosen = torch.empty(b, k, dtype=torch.long, device=matrix.device)
    if case.variant == "max_min":
        for step in range(k):
            if step == 0:
                nearest = torch.topk(matrix, 2, dim=1, largest=False).values[:, 1]
            else:  # the distances to all chosen so far are read again at each step
                index = chosen[:, :step, None].expand(b, step, n)
                nearest = matrix.gather(1, index).amin(1)
            chosen[:, step] = nearest.argmax(1)
        return chosen
    left, factor = torch.diagonal(matrix, dim1=1, dim2=2).clone(), matrix.new_zeros(b, k, n)
    for step in range(k):
        best = left.argmax(1, keepdim=True)
        chosen[:, step] = best[:, 0]
        at = factor[:, :step].gather(2, best[:, None].expand(b, step, 1))  # b step 1
        row = matrix[rows, best[:, 0]] - (at * factor[:, :step]).sum(1)
        row = row / left.gather(1, best).sqrt()
        factor[:, step] = row
        left = (left - row.square()).scatter(1, chosen[:, : step + 1], -torch.inf)
    return chosen


def loop(inputs: Inputs, case: Case) -> Built:
    """As published: image by image."""
    one = max_min if case.variant == "max_min" else determinantal
    return lambda: (torch.stack([one(matrix, case.k) for matrix in inputs["matrix"]]),)


def batched(inputs: Inputs, case: Case) -> Built:
    """Its column `graph_ms` is the CUDA graph of the batched loop."""
    return lambda: (_batched(inputs["matrix"], case),)


def ours(backend: str) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        options = {"method": case.variant, "backend": backend}
        return lambda: (ops.greedy_select(inputs["matrix"], case.k, **options).positions,)

    return build


def work(case: Case, answers: Sequence[str], mode: str, given: str = "") -> Work:
    """Max-min reads every pair once for its first pick, both a row for each; a DPP's factor may stay in a cache."""
    b, n, k = case.b, case.n, case.k
    if case.variant == "max_min":
        return Work(bytes=4 * b * (n * n + k * n))
    return Work(bytes=4 * b * n * (k + 1), flops=b * n * k * k)


OPERATOR = Operator(
    "greedy",
    cases,
    make,
    oracle,
    lambda inputs, case: {"positions": loop(inputs, case)()[0]},
    (
        Provider("triton", CHOSEN, ours("triton"), gpu_only=True, ours=True),
        Provider("torch", CHOSEN, ours("torch"), ours=True),
        Provider("published loop", CHOSEN, loop),
        Provider("published loop, batched", CHOSEN, batched),
    ),
    work,
    error=error_of,
)
