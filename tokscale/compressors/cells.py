"""One exact partition of a grid into k cells, for pooling, sampling and queries.

All of it is integer arithmetic: along each axis a cell is part `i` of `r` equal parts, so of s tokens it covers
`[i s/r, (i+1) s/r)`, and its overlap with a token is a whole number of 1/r-ths.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetError, ShapeError


class Cells(NamedTuple):
    """The k cells of a grid: along (frames, rows, columns), cell c is part `index[:, c]` of `parts[:, c]` equal parts.

    `grid` is (t, h, w). Cells stand in the order of their anchors, which are distinct and ascending.
    """

    grid: tuple[int, int, int]
    index: Tensor  # (3, k) int64
    parts: Tensor  # (3, k) int64

    def anchors(self) -> Tensor:
        """Return (k,) int64: the token that holds each cell's centre, `(2i+1) s // (2r)` along each axis."""
        size = torch.tensor(self.grid, device="cpu")[:, None]
        t, row, column = (2 * self.index + 1) * size // (2 * self.parts)
        return (t * self.grid[1] + row) * self.grid[2] + column

    def weights(self) -> Tensor:
        """Return (k, n) float64: each token's share of each cell's volume; rows sum to 1."""
        over_t, over_h, over_w = (self._overlap(axis).double() for axis in range(3))  # integers, so products are exact
        table = over_t[:, :, None, None] * over_h[:, None, :, None] * over_w[:, None, None, :]
        return table.flatten(1) / math.prod(self.grid)

    def interpolation(self) -> Tensor:
        """Return (k, n) float64: bilinear sampling at the cells' centres, clamped to the grid; rows sum to 1.

        Cells longer than a frame sample linearly in time, and average over the whole frame.
        """
        longer = self.grid[0] > self.index.shape[1]
        along = []
        for axis, size in enumerate(self.grid):
            token = torch.arange(size, dtype=torch.float64, device="cpu")
            centre = ((2 * self.index[axis] + 1).double() * size / (2 * self.parts[axis]) - 0.5).clamp(0, size - 1)
            hat = (1 - (token - centre[:, None]).abs()).clamp(min=0)
            along.append(torch.full_like(hat, 1 / size) if longer and axis else hat)
        t, y, x = along
        return (t[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1)

    def squared_distances(self) -> Tensor:
        """Return (k, n) float64: `(dt/T)^2 + (dy/H)^2 + (dx/W)^2`, token centre to cell centre in sizes of the cell."""
        along = []
        for axis, size in enumerate(self.grid):
            index, parts = self.index[axis, :, None].double(), self.parts[axis, :, None].double()
            token = torch.arange(size, dtype=torch.float64, device="cpu") + 0.5
            along.append((token * parts / size - index - 0.5).square())
        t, y, x = along
        return (t[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]).flatten(1)

    def inside(self) -> Tensor:
        """Return (k, n) bool: whether a token's centre lies in each cell; one cell a token, never an empty cell."""
        along = []
        for axis, size in enumerate(self.grid):
            index, parts = self.index[axis, :, None], self.parts[axis, :, None]
            along.append((2 * torch.arange(size, device="cpu") + 1) * parts // (2 * size) == index)
        t, y, x = along
        return (t[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]).flatten(1)

    def _overlap(self, axis: int) -> Tensor:
        """(k, size) int64: how many 1/r-ths of each token lie in each cell; rows sum to `size`."""
        size, index, parts = self.grid[axis], self.index[axis, :, None], self.parts[axis, :, None]
        token = torch.arange(size, device="cpu")
        inside = torch.minimum((token + 1) * parts, (index + 1) * size) - torch.maximum(token * parts, index * size)
        return inside.clamp(min=0)


def share(m: int, p: int) -> list[int]:
    """Return m dealt over p parts: part j gets `(j+1)*m//p - j*m//p`."""
    return [(j + 1) * m // p - j * m // p for j in range(p)]


def cells(k: int, h: int, w: int, t: int = 1) -> Cells:
    """Return the exact partition of t frames of h x w tokens into k cells, for any 1 <= k <= t h w.

    An image is cut into r bands of rows, r = the largest integer with `(2r-1)^2 w <= 4 k h` within
    `[ceil(k/w), min(h, k)]`; band i has `share(k, r)[i]` cells of equal width. Where k = r c with r | h and c | w gives
    cells whose sides differ by at most a factor 2, that tiling is taken instead (the squarest, then fewer rows): it
    splits no token. A clip with k >= t gives frame f the cells `share(k, t)[f]`; with k < t, cell g averages the whole
    frames over `[g t/k, (g+1) t/k)`.

    Args:
        k: cells.
        h, w, t: rows, columns, frames, in tokens.

    Raises:
        BudgetError: k lies outside [1, t h w].
        ShapeError: a side is smaller than 1.

    Cost: k + the number of divisors of k.

    Example:
        >>> cells(5, 4, 4).anchors().tolist()
        [5, 7, 12, 14, 15]
        >>> (cells(5, 4, 4).weights() @ torch.arange(16.0).double()).tolist()
        [2.5, 4.5, 10.25, 11.5, 12.75]
    """
    if min(h, w, t) < 1:
        raise ShapeError(f"a grid needs sides >= 1, got h={h}, w={w}, t={t}")
    if not 1 <= k <= t * h * w:
        raise BudgetError(f"{k} cells do not fit a grid of {t} * {h} * {w} = {t * h * w} tokens")
    rows: list[tuple[int, int, int, int, int, int]] = []
    if k < t:
        rows = [(g, 0, 0, k, 1, 1) for g in range(k)]
    for frame, count in enumerate(share(k, t) if k >= t else ()):
        bands = _bands(count, h, w)
        rows += [(frame, i, j, t, len(bands), columns) for i, columns in enumerate(bands) for j in range(columns)]
    table = torch.tensor(rows, device="cpu").T
    return Cells((t, h, w), table[:3], table[3:])


def _bands(k: int, h: int, w: int) -> list[int]:
    """How many cells each band of rows has."""
    tilings = []
    for r in range(1, min(h, k) + 1):
        c = k // r
        if k % r or h % r or c > w or w % c:
            continue
        tall, wide = (h // r), (w // c)
        if max(tall, wide) <= 2 * min(tall, wide):
            tilings.append((max(tall, wide) / min(tall, wide), r, c))
    if tilings:
        _, r, c = min(tilings)
        return [c] * r
    r = (math.isqrt(4 * k * h // w) + 1) // 2
    r = max(-(-k // w), min(r, h, k))
    return share(k, r)


def of_grid(k: int, grid: tuple[int, ...]) -> Cells:
    """Return the cells of a grid given as (h, w) or (t, h, w)."""
    *frames, h, w = grid
    return cells(k, h, w, *frames)


def pooling(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the (k, n) cell weights in `dtype` and the (k,) int64 anchors, on `device`; cached, so do not write."""
    return (_pooling if torch.compiler.is_compiling() else _cached_pooling)(k, grid, dtype, device)


def interpolation(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the (k, n) weights of bilinear sampling at cell centres and the (k,) anchors; cached, so do not write."""
    return (_interpolation if torch.compiler.is_compiling() else _cached_interpolation)(k, grid, dtype, device)


def anchors(k: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the (k,) int64 anchors on `device`; cached, so do not write."""
    return (_anchors if torch.compiler.is_compiling() else _cached_anchors)(k, grid, device)


def squared_distances(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the (k, n) squared distances of tokens to cell centres, in sizes of the cell; cached, so do not write."""
    return (_distances if torch.compiler.is_compiling() else _cached_distances)(k, grid, dtype, device)


def inside(k: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Return (k, n) bool, which cell holds each token's centre, on `device`; cached, so do not write."""
    return (_inside if torch.compiler.is_compiling() else _cached_inside)(k, grid, device)


def _pooling(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    parts = of_grid(k, grid)
    return parts.weights().to(device, dtype), parts.anchors().to(device)


def _interpolation(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    parts = of_grid(k, grid)
    return parts.interpolation().to(device, dtype), parts.anchors().to(device)


def _anchors(k: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    return of_grid(k, grid).anchors().to(device)


def _distances(k: int, grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return of_grid(k, grid).squared_distances().to(device, dtype)


def _inside(k: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    return of_grid(k, grid).inside().to(device)


def _remembered(build: Callable[..., Any], size: int) -> Callable[..., Any]:
    """Cache a table, made outside inference mode: a later training step may be given the same one."""

    @functools.lru_cache(maxsize=size)
    def remember(*key: Any) -> Any:
        with torch.inference_mode(False):
            return build(*key)

    return remember


_cached_pooling, _cached_distances = _remembered(_pooling, 32), _remembered(_distances, 32)
_cached_interpolation, _cached_inside = _remembered(_interpolation, 32), _remembered(_inside, 32)
_cached_anchors = _remembered(_anchors, 256)
