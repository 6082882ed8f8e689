"""Methods that rank by attention received: attention_topk, holov, hiprune."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

from tokscale.compressors import AttentionTopK, HiPrune, HoloV

from . import naive_selection as naive
from . import toy
from .cases import CLIPS, SHAPES, agree, scores, tokens

A = {"importance": toy.IMPORTANCE}
BOTH = {**A, "shallow_importance": toy.SHALLOW, "grid": (2, 3)}


def test_toy() -> None:
    assert AttentionTopK(3).compress(toy.X, **A).positions.tolist() == [[1, 3, 4]]
    assert HoloV(3, chunks=2).compress(toy.X, **A).positions.tolist() == [[1, 3, 4]]
    assert HiPrune(3, alpha=1.7).compress(toy.X, **BOTH).positions.tolist() == [[1, 2, 5]]


@pytest.mark.parametrize("n, d, k", SHAPES)
def test_each_choice_is_that_of_the_formula(n: int, d: int, k: int) -> None:
    x, a = tokens(n, d), scores(n)
    agree(AttentionTopK(k), x, {"importance": a}, [sorted(naive.top(w, k)) for w in a.tolist()])
    for chunks in (1, 3, 16, 100):
        agree(HoloV(k, chunks), x, {"importance": a}, [naive.holov(k, w, chunks) for w in a.tolist()])


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_hiprune_is_that_of_the_formula(grid: tuple[int, int, int], d: int, k: int) -> None:
    t, h, w = grid
    x, a, shallow = tokens(t * h * w, d), scores(t * h * w), scores(t * h * w, seed=5)
    context = {"importance": a, "shallow_importance": shallow, "grid": grid}
    for alpha in (0.1, 1.0, 4.9, 9.0):
        each = zip(a.tolist(), shallow.tolist())
        agree(HiPrune(k, alpha), x, context, [naive.hiprune(k, *pair, grid, alpha) for pair in each])


# attention_topk


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ties_go_to_the_lower_index(dtype: torch.dtype) -> None:
    a = torch.tensor([[1.0, 2, 2, 2, 0, -1]], dtype=dtype)
    result = AttentionTopK(2).compress(torch.randn(1, 6, 3), importance=a)
    assert result.positions.tolist() == [[1, 2]]
    assert result.scores.dtype == torch.float32 and torch.equal(result.scores, a.float())


# HoloV


def quotas(a: torch.Tensor, k: int, chunks: int) -> list[int]:
    n = a.shape[1]
    kept = HoloV(k, chunks).compress(torch.zeros(1, n, 2), importance=a).positions[0]
    sizes = [n // chunks + (r < n % chunks) for r in range(chunks)]
    edges = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    return [int(((kept >= low) & (kept < high)).sum()) for low, high in itertools.pairwise(edges)]


@pytest.mark.parametrize(
    "means, k, expected",
    [
        ([5, 3, 2], 10, [5, 3, 2]),  # whole numbers, though .3 * 10 falls below 3
        ([8, 1, 1], 10, [6, 2, 2]),  # 8 in a run of 6: two move on, one to each
        ([6, 3, 1], 17, [6, 6, 5]),  # 10.2 and 5.1 and 1.7: floors 6, 5, 1; round and round past the full
        ([0, 0, 0], 7, [3, 2, 2]),  # equal, and the first takes what is left
        ([1, 0, 0], 7, [6, 1, 0]),
        ([0, 0, 1], 3, [0, 0, 3]),
        ([-1, 1, 1], 4, [0, 2, 2]),  # below 0 counts as 0
    ],
)
def test_quotas(means: list[float], k: int, expected: list[int]) -> None:
    a = torch.tensor(means, dtype=torch.float64).repeat_interleave(6)[None]
    assert quotas(a, k, 3) == expected


def test_the_first_runs_are_one_longer() -> None:
    a = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0]])  # runs of 3, 2, 2
    assert quotas(a, 3, 3) == [3, 0, 0]


# HiPrune


def neighbours(anchor: int, k: int, grid: tuple[int, ...], n: int) -> list[int]:
    shallow = torch.zeros(1, n)
    shallow[0, anchor] = 1
    context = {"importance": torch.arange(n - 1, -1, -1.0)[None], "shallow_importance": shallow, "grid": grid}
    module = HiPrune(k, alpha=5 / k)  # one anchor
    return module.compress(torch.zeros(1, n, 2), **context).positions[0].tolist()


def test_neighbours_do_not_wrap_round_the_ends_of_rows() -> None:
    assert neighbours(14, 4, (5, 5), 25) == [9, 13, 14, 19]  # and not 15, which begins the next row
    assert neighbours(12, 5, (5, 5), 25) == [7, 11, 12, 13, 17]
    assert neighbours(12, 3, (5, 5), 25) == [7, 11, 12]  # cut to k, ties to the lower index


def test_neighbours_stay_in_their_frame() -> None:
    assert neighbours(4, 4, (3, 2, 2), 12) == [0, 4, 5, 6]  # the fourth by importance; 0 and 8 lie in other frames


def test_without_anchors_it_is_attention_topk() -> None:
    x, a, shallow = torch.randn(2, 20, 3), torch.rand(2, 20), torch.rand(2, 20)
    result = HiPrune(5, alpha=0.0).compress(x, importance=a, shallow_importance=shallow, grid=(4, 5))
    assert torch.equal(result.positions, AttentionTopK(5).compress(x, importance=a).positions)
    assert HiPrune.shallow_layer == 0.375


@pytest.mark.parametrize(
    "build, text",
    [
        (lambda: HoloV(3, chunks=0), "chunks must be an integer >= 1, got 0"),
        (lambda: HiPrune(3, alpha=-0.1), "alpha must be a finite number >= 0, got -0.1"),
    ],
)
def test_mistakes(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        build()
