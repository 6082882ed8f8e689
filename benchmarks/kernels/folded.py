"""The fuser's layer from raw vision tokens: projections and attention, folded or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokscale import ops
from tokscale.ops.projected_fusion_attention import reference

from .case import Answers, Case, Inputs, Operator, Provider, Work, compiled, draw

Built = Callable[[], Sequence[Tensor]]
OUT, BOTH, VISION = ("out",), ("out", "importance"), ("vision_out",)


def cases(device: str, tiny: bool) -> list[Case]:
    """Budgets at 16 heads of 64 over 1024 channels: folding pays where h m is small beside C."""
    if tiny:
        return [Case("layer", torch.float32, b=1, n=33, m=2, h=2, g=2, d=16, t=5, dim=32, full=True)]
    if device == "cpu":
        f, t = torch.float32, 20
        sizes = [("llava-1.5", 2, 576, m) for m in (8, 16, 32, 64)] + [("llava-next", 1, 2880, m) for m in (16, 64)]
    else:
        f, t = torch.bfloat16, 64
        sizes = [("llava-next", 8, 2880, m) for m in (16, 32, 8, 64)] + [("llava-1.5", 8, 576, 16)]
    shared: dict[str, Any] = {"h": 16, "g": 16, "d": 64, "t": t, "dim": 1024}
    return [Case(name, f, b=b, n=n, m=m, full=m in (16, 32), **shared) for name, b, n, m in sizes]


def make(case: Case, device: torch.device) -> Inputs:
    """Normalised tokens, weights that keep their scale, biases, and a question that comes projected."""
    b, n, m, t, d, inner = case.b, case.n, case.m, case.t, case.d, case.g * case.d
    inputs: Inputs = {
        "q": draw(case, device, b, m, case.h, d).transpose(1, 2),
        "x": draw(case, device, b, n, case.dim, seed=1),
        "w_k": draw(case, device, inner, case.dim, scale=case.dim**-0.5, seed=2),
        "w_v": draw(case, device, inner, case.dim, scale=case.dim**-0.5, seed=3),
        "b_k": draw(case, device, inner, seed=4),
        "b_v": draw(case, device, inner, seed=5),
    }
    for seed, name in enumerate(("k_text", "v_text"), 6):
        inputs[name] = draw(case, device, b, t, case.g, d, seed=seed).transpose(1, 2)
    return inputs


def oracle(inputs: Inputs, case: Case) -> Answers:
    out, _, importance, _ = reference.projected_fusion_attention(**inputs)
    alone = {name: value for name, value in inputs.items() if "text" not in name}
    return {"out": out, "importance": importance, "vision_out": reference.projected_fusion_attention(**alone)[0]}


def heads(x: Tensor, d: int) -> Tensor:
    return x.unflatten(-1, (-1, d)).transpose(1, 2)


def layer(inputs: Inputs) -> tuple[Tensor]:
    """The layer as it is written: two projections, the question behind, a mask, SDPA."""
    d = inputs["q"].shape[-1]
    k = torch.cat([heads(F.linear(inputs["x"], inputs["w_k"], inputs["b_k"]), d), inputs["k_text"]], 2)
    v = torch.cat([heads(F.linear(inputs["x"], inputs["w_v"], inputs["b_v"]), d), inputs["v_text"]], 2)
    mask = torch.ones(k.shape[0], 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
    return (F.scaled_dot_product_attention(inputs["q"], k, v, mask),)


def eager(inputs: Inputs, case: Case) -> Answers:
    d, q = case.d, inputs["q"]
    k, v = (heads(F.linear(inputs["x"], inputs[f"w_{x}"], inputs[f"b_{x}"]), d) for x in "kv")
    joined = torch.cat([k, inputs["k_text"]], 2), torch.cat([v, inputs["v_text"]], 2)
    p = (q @ joined[0].transpose(-1, -2) * d**-0.5).softmax(-1, dtype=torch.float32).to(q.dtype)
    received = p[..., : case.n].sum((1, 2), dtype=torch.float32)
    return {"out": p @ joined[1], "importance": received, "vision_out": F.scaled_dot_product_attention(q, k, v)}


def theirs(compile_it: bool) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        run = compiled(layer, inputs) if compile_it else layer
        return lambda: run(inputs)

    return build


def one_product(inputs: Inputs, case: Case) -> Built:
    """Keys and values by one GEMM, no question, no mask: the least a layer that projects can do."""
    w, bias = torch.cat([inputs["w_k"], inputs["w_v"]]), torch.cat([inputs["b_k"], inputs["b_v"]])

    def call() -> Sequence[Tensor]:
        k, v = F.linear(inputs["x"], w, bias).chunk(2, -1)
        return (F.scaled_dot_product_attention(inputs["q"], heads(k, case.d), heads(v, case.d)),)

    return call


def ours(path: str, backend: str = "auto", importance: bool = False) -> Callable[[Inputs, Case], Built]:
    def build(inputs: Inputs, case: Case) -> Built:
        options: dict[str, Any] = {"path": path, "backend": backend, "return_importance": importance}

        def call() -> Sequence[Tensor]:
            found = ops.projected_fusion_attention(**inputs, **options)
            return (found.out,) if found.importance is None else (found.out, found.importance)

        return call

    return build


def work(case: Case, answers: Sequence[str], mode: str, given: str = "") -> Work:
    """The cheaper of both ways: 4 b n h m C, or 4 b n (g d C + h m d)."""
    rows, inner = case.h * case.m, case.g * case.d
    folded, projected = rows * case.dim, inner * case.dim + rows * case.d
    moved = case.b * (case.n * case.dim + 2 * rows * case.d + 2 * case.t * inner) + 2 * inner * case.dim
    scores = case.b * rows * (case.n + case.t)
    return Work(case.bytes_each * moved, 4 * case.b * case.n * min(folded, projected), scores)


OPERATOR = Operator(
    "folded",
    cases,
    make,
    oracle,
    eager,
    (
        Provider("torch, folded", OUT, ours("folded", "torch"), ours=True),
        Provider("torch, folded + importance", BOTH, ours("folded", "torch", importance=True), ours=True),
        Provider("auto", OUT, ours("auto"), ours=True),
        Provider("triton, projected", OUT, ours("projected", "triton"), gpu_only=True, ours=True),
        Provider("torch, projected", OUT, ours("projected", "torch"), ours=True),
        Provider("projections, cat, sdpa", OUT, theirs(compile_it=False)),
        Provider("projections, cat, sdpa, compiled", OUT, theirs(compile_it=True), gpu_only=True, compiled=True),
        Provider("one product, sdpa, no question", VISION, one_product),
    ),
    work,
)
