"""The table of docs/kernels.md says what the CSV files of `make bench` say."""

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


def line(case: Case) -> str:
    with open(ROOT / "benchmarks" / "results" / "cpu" / f"{case.op}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"case": case.case, "mode": "fwd", **case.where}
    rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    (ours,), (rival,) = ([row for row in rows if row["provider"] == who] for who in (case.ours, case.rival))
    ratio = float(rival["ms_p50"]) / float(ours["ms_p50"])
    memory = f"{float(ours['peak_mib']):.0f} / {float(rival['peak_mib']):.0f}"
    return f"| {case.name} | {case.rival} | {ratio:.1f} | {memory} |"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_row_of_the_page_is_that_of_the_csv(case: Case) -> None:
    assert line(case) in (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").splitlines()
