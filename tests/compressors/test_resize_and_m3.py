"""`resize` and `m3`: what a smaller image and a coarser grid give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale import AdaptivePooler
from tokscale.compressors import GridResize, MatryoshkaPooler, cells

from . import toy
from .cases import CLIPS, tokens


def test_toy() -> None:
    for method in (GridResize, MatryoshkaPooler):
        result = method(3).compress(toy.X, **toy.context())
        assert result.positions.tolist() == [[3, 4, 5]]
        assert result.tokens.tolist() == [[[2, 2], [2, 3.5], [0, 1.5]]]


def bilinear(frame: Tensor, y: float, x: float) -> Tensor:
    """A sample of (h, w, d) at row y and column x, both clamped to the grid."""
    h, w, _ = frame.shape
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    i, j = min(int(y), h - 2) if h > 1 else 0, min(int(x), w - 2) if w > 1 else 0
    down, right = min(i + 1, h - 1), min(j + 1, w - 1)
    v, u = y - i, x - j
    above = (1 - u) * frame[i, j] + u * frame[i, right]
    return (1 - v) * above + v * ((1 - u) * frame[down, j] + u * frame[down, right])


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_each_sample_is_that_of_the_formula(grid: tuple[int, int, int], d: int, k: int) -> None:
    t, h, w = grid
    clip = tokens(t * h * w, d)
    result = GridResize(k).compress(clip, grid=grid)
    for x, found in zip(clip.view(2, t, h, w, d), result.tokens):
        if k < t:
            means = x.mean((1, 2)).view(t, 1, d)
            expected = [bilinear(means, (2 * g + 1) * t / (2 * k) - 0.5, 0) for g in range(k)]
        else:
            expected = []
            for f in range(t):
                part = cells((f + 1) * k // t - f * k // t, h, w)
                for (i, j), (r, c) in zip(part.index[1:].T.tolist(), part.parts[1:].T.tolist()):
                    expected.append(bilinear(x[f], (2 * i + 1) * h / (2 * r) - 0.5, (2 * j + 1) * w / (2 * c) - 0.5))
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-12)
    assert result.positions[0].tolist() == cells(k, h, w, t).anchors().tolist()
    assert result.assignment.shape == (2, k, t * h * w)


@pytest.mark.parametrize("rows, columns", [(3, 3), (4, 4), (6, 6)])
def test_on_a_regular_grid_it_is_bilinear_interpolation(rows: int, columns: int) -> None:
    x = torch.randn(1, 5, 12, 12, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(x, (rows, columns), mode="bilinear", align_corners=False)
    found = GridResize(rows * columns)(x.flatten(2).transpose(1, 2), grid=(12, 12))
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)


def test_m3_is_the_mean_of_each_cell() -> None:
    x = torch.randn(2, 35, 4)
    for k in (1, 6, 11):
        one, other = MatryoshkaPooler(k).compress(x, grid=(5, 7)), AdaptivePooler(k).compress(x, grid=(5, 7))
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3]))


@pytest.mark.parametrize(
    "h, w, expected",
    [
        (24, 24, [576, 144, 36, 9, 4, 1]),
        (5, 7, [35, 12, 4, 1]),
        (1, 6, [6, 3, 2, 1]),
        (1, 1, [1]),
    ],
)
def test_nested_budgets(h: int, w: int, expected: list[int]) -> None:
    assert MatryoshkaPooler.nested_budgets(h, w) == expected


@pytest.mark.parametrize("side", [0, 2.0, True])
def test_a_side_is_an_integer_of_at_least_1(side: Any) -> None:
    with pytest.raises(tokscale.BudgetError, match=rf"^w must be an integer >= 1, got {side!r}$"):
        MatryoshkaPooler.nested_budgets(3, side)
