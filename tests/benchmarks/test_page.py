"""The tables of docs/kernels.md say what the CSV files of `make bench` and `make gpu` say."""

from __future__ import annotations

import csv
import pathlib
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[2]


class Case(NamedTuple):
    """A row of the page: what it is called, and where its two calls stand."""

    name: str
    op: str
    case: str
    ours: str
    rival: str
    where: dict[str, str]


def _fused(case: str, m: int) -> Case:
    rival = "projections, cat, sdpa"
    return Case(f"fuser layer, {case}, {m} queries", "folded", case, "auto", rival, {"m": str(m)})


def _greedy(case: str, b: int) -> Case:
    return Case(f"greedy, {case}, batch {b}", "greedy", case, "torch", "published loop", {"b": str(b)})


FP32, BF16 = {"dtype": "float32"}, {"dtype": "bfloat16"}
CASES = [
    Case("importance, 577 tokens, batch 2", "importance", "llava-1.5", "torch", "eager", FP32),
    Case("importance, 577 tokens, batch 2, bf16", "importance", "llava-1.5", "torch", "eager", BF16),
    Case("importance, 2880 tokens", "importance", "llava-next", "torch", "eager", {}),
    Case("importance, 10240 tokens, 2 heads", "importance", "qwen2.5-vl, 2 heads", "torch", "eager", {}),
    *(_fused("llava-1.5", m) for m in (8, 16, 32, 64)),
    *(_fused("llava-next", m) for m in (16, 64)),
    *(_greedy(f"llava-1.5, {method}", b) for method in ("max_min", "dpp") for b in (1, 8)),
    *(_greedy(f"llava-next, {method}", 1) for method in ("max_min", "dpp")),
    Case("top-k, 576 tokens", "topk", "llava-1.5", "torch", "topk, sort, gather", {}),
    Case("top-k, 2880 tokens, batch 8", "topk", "llava-next", "torch", "topk, sort, gather", {}),
    Case("top-k, 16384 tokens, batch 8", "topk", "long video", "torch", "topk, sort, gather", {}),
]


WRITTEN, CUDNN, PROJECTED = "sdpa, cat and mask", "sdpa best case, cudnn", "projections, cat, sdpa"
LONG = {"b": "8", "n": "2880"}
NEXT, SHORT = {**LONG, "m": "64"}, {"b": "8", "n": "576", "m": "16"}
TRAIN = {**NEXT, "mode": "fwd+bwd"}
ON_GPU = [
    Case("importance, 2880 tokens, lse given", "importance", "llava-next", "triton, lse given", "eager", {}),
    Case("importance, 2880 tokens", "importance", "llava-next", "triton", "eager", {}),
    Case("importance, 2880 tokens", "importance", "llava-next", "triton", "eager compiled", {}),
    Case("output and importance, 2880 tokens", "importance", "llava-next", "triton, out too", "sdpa alone", {}),
    Case("importance, 577 tokens", "importance", "llava-1.5", "triton", "eager", {"b": "8"}),
    Case("importance, 10240 tokens of 80, batch 1", "importance", "qwen2.5-vl", "triton", "eager", {}),
    Case(
        "importance, 10240 tokens of 80 in windows, batch 1", "importance", "qwen2.5-vl windows", "triton", "eager", {}
    ),
    Case("fusion, 64 queries, 2880 tokens", "fusion", "llava-next", "triton", WRITTEN, NEXT),
    Case("the same, no mask", "fusion", "llava-next", "triton, no mask", CUDNN, NEXT),
    Case("the same with backward", "fusion", "llava-next", "triton", WRITTEN, TRAIN),
    Case("the same with backward, no mask", "fusion", "llava-next", "triton, no mask", CUDNN, TRAIN),
    Case("fusion, 16 queries, 576 tokens", "fusion", "llava-1.5", "triton", WRITTEN, SHORT),
    Case("the same, no mask", "fusion", "llava-1.5", "triton, no mask", CUDNN, SHORT),
    *(
        Case(f"fuser layer, {m} queries, 2880 tokens", "folded", "llava-next", "auto", PROJECTED, {**LONG, "m": m})
        for m in ("8", "16", "32", "64")
    ),
    Case(
        "fuser layer, 16 queries, 2880 tokens",
        "folded",
        "llava-next",
        "auto",
        f"{PROJECTED}, compiled",
        {**LONG, "m": "16"},
    ),
    *(
        Case(name, "greedy", case, "triton", rival, {"b": "8"})
        for name, case in (
            ("max-min, 64 of 576", "llava-1.5, max_min"),
            ("max-min, 288 of 2880", "llava-next, max_min"),
        )
        for rival in ("published loop", "published loop, batched")
    ),
    Case("DPP, 288 of 2880, batch 1", "greedy", "llava-next, dpp", "triton", "published loop", {"b": "1"}),
    Case("top-k, 64 of 576, batch 1", "topk", "llava-1.5", "triton", "topk, sort, gather", {}),
    Case("top-k, 512 of 8192, batch 32", "topk", "long video", "triton", "topk, sort, gather", {}),
]


def pair(case: Case, where: str) -> tuple[dict[str, str], dict[str, str]]:
    """The rows of a case's two calls."""
    with open(ROOT / "benchmarks" / "results" / where / f"{case.op}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"case": case.case, "mode": "fwd", **case.where}
    rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    (ours,), (rival,) = ([row for row in rows if row["provider"] == who] for who in (case.ours, case.rival))
    return ours, rival


def line_of_gpu(case: Case) -> str:
    ours, rival = pair(case, "gpu")
    cells = []
    for field in ("graph_ms", "ms_p50"):
        one, two = (float(row[field] or "nan") for row in (ours, rival))
        times = f"{two / one:.3g}" if two >= 10 * one else f"{two / one:.2g}"
        cells += [f"{one:.3f} / {two:.3f}", times] if one == one and two == two else ["", ""]
    memory = f"{float(ours['peak_mib']):.0f} / {float(rival['peak_mib']):.0f}"
    return f"| {case.name} | {case.rival} | {' | '.join(cells)} | {memory} |"


def line(case: Case) -> str:
    ours, rival = pair(case, "cpu")
    ratio = float(rival["ms_p50"]) / float(ours["ms_p50"])
    memory = f"{float(ours['peak_mib']):.0f} / {float(rival['peak_mib']):.0f}"
    return f"| {case.name} | {case.rival} | {ratio:.1f} | {memory} |"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_row_of_the_page_is_that_of_the_csv(case: Case) -> None:
    assert line(case) in (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("case", ON_GPU, ids=lambda case: f"{case.name} - {case.rival}")
def test_a_row_of_the_gpu_table_is_that_of_the_csv(case: Case) -> None:
    assert line_of_gpu(case) in (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").splitlines()
