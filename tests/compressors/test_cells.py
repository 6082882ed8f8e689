from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale import BudgetError, ShapeError
from tokscale.compressors import cells
from tokscale.compressors.cells import anchors, pooling, share, squared_distances


def means(k: int, h: int, w: int, t: int = 1) -> list[float]:
    return (cells(k, h, w, t).weights() @ torch.arange(t * h * w, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    "k, grid, expected, places",
    [
        (5, (4, 4), [2.5, 4.5, 10.25, 11.5, 12.75], [5, 7, 12, 14, 15]),
        (4, (2, 3), [1 / 3, 5 / 3, 10 / 3, 14 / 3], [0, 2, 3, 5]),
        (2, (1, 2, 3), [7 / 6, 23 / 6], [1, 5]),
        (3, (2, 3), [1.5, 2.5, 3.5], [3, 4, 5]),
    ],
)
def test_examples_of_the_page(k: int, grid: tuple[int, ...], expected: list[float], places: list[int]) -> None:
    h, w, *t = grid
    assert means(k, h, w, *t) == pytest.approx(expected, abs=1e-12)
    assert cells(k, h, w, *t).anchors().tolist() == places


def test_a_budget_that_does_not_fit_gives_some_bands_one_cell_more() -> None:
    parts = cells(10, 24, 24)
    assert parts.index[1].bincount().tolist() == [3, 3, 4]


@pytest.mark.parametrize("k, rows, columns", [(72, 6, 12), (18, 3, 6), (36, 6, 6), (9, 3, 3), (2, 1, 2), (144, 12, 12)])
def test_whole_tokens_come_first(k: int, rows: int, columns: int) -> None:
    """On 12 x 12 these budgets tile the grid without splitting a token: plain average pooling."""
    x = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(x, (12 // rows, 12 // columns)).flatten(2)[0].T
    torch.testing.assert_close(cells(k, 12, 12).weights() @ x.flatten(2)[0].T, expected, rtol=0, atol=1e-14)


def test_share_is_exact() -> None:
    assert share(10, 3) == [3, 3, 4]
    assert share(2, 5) == [0, 0, 1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.data())
def test_any_budget_partitions_any_grid(t: int, h: int, w: int, data: st.DataObject) -> None:
    n = t * h * w
    k = data.draw(st.integers(1, n))
    parts = cells(k, h, w, t)
    weights, places = parts.weights(), parts.anchors()
    assert weights.shape == (k, n)
    assert (places.diff() > 0).all() and places[0] >= 0 and places[-1] < n
    torch.testing.assert_close(weights.sum(1), torch.ones(k, dtype=torch.float64), rtol=0, atol=1e-12)
    sizes = [
        math.prod(Fraction(side, int(p)) for side, p in zip(parts.grid, parts.parts[:, c].tolist(), strict=True))
        for c in range(k)
    ]
    covered = torch.tensor([float(size) for size in sizes], dtype=torch.float64) @ weights
    torch.testing.assert_close(covered, torch.ones(n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (weights[torch.arange(k), places] > 0).all()
    if k >= t:  # nothing spatial crosses a frame border
        assert ((weights.view(k, t, -1).sum(-1) > 0).sum(1) == 1).all()


@pytest.mark.parametrize("t, h, w", [(1, 5, 7), (3, 2, 4), (1, 1, 11), (1, 11, 1)])
def test_the_full_budget_is_the_identity(t: int, h: int, w: int) -> None:
    n = t * h * w
    assert torch.equal(cells(n, h, w, t).weights(), torch.eye(n, dtype=torch.float64))
    assert cells(n, h, w, t).anchors().tolist() == list(range(n))


def test_distances_are_in_sizes_of_the_cell() -> None:
    distances = cells(4, 4, 4).squared_distances()
    assert distances[0, 0] == 0.25**2 * 2  # token centre (.5, .5), cell centre (1, 1), cell 2 x 2
    assert distances[3, 0] == 1.25**2 * 2
    clip = cells(2, 1, 2, 3).squared_distances()  # cells of 1.5 frames, 1 row, 2 columns
    along_frames = [(frame / 1.5 - 0.5) ** 2 for frame in (0.5, 1.5, 2.5)]
    assert clip[0].tolist() == pytest.approx([t + 1 / 16 for t in along_frames for _ in range(2)])


def test_frames_count_one_each_where_every_frame_has_cells() -> None:
    distances = cells(2, 1, 1, 2).squared_distances()
    assert distances.tolist() == [[0, 1], [1, 0]]


def test_tables_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        matrix, _ = pooling(3, (3, 5), torch.float32, torch.device("cpu"))
        table = squared_distances(3, (3, 5), torch.float32, torch.device("cpu"))
    assert not matrix.is_inference() and not table.is_inference()
    assert pooling(3, (3, 5), torch.float32, torch.device("cpu"))[0] is matrix
    assert anchors(3, (3, 5), torch.device("cpu")).tolist() == cells(3, 3, 5).anchors().tolist()


def test_mistakes() -> None:
    with pytest.raises(BudgetError, match=r"^7 cells do not fit a grid of 1 \* 2 \* 3 = 6 tokens$"):
        cells(7, 2, 3)
    with pytest.raises(BudgetError, match="0 cells do not fit"):
        cells(0, 2, 3)
    with pytest.raises(ShapeError, match="sides >= 1"):
        cells(1, 0, 3)
