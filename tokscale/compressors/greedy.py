"""Greedy choices on a cosine matrix: by determinant (`dpp`, `cdpruner`), and by worth less likeness (`idpruner`).

On the CPU, where few of many tokens are kept, only the rows of those chosen are made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy
import torch
from torch import Tensor

from .. import ops
from ..ops.greedy_select.one_sample import Array, Row, select_by_rows
from . import cosine_rows
from .cosine_rows import CosineRows
from .similarity import cosine_distance, cosine_matrix, visible

Chosen = tuple[Tensor, Tensor]  # positions (b, k) in the order of choice, gains (b, k)


def determinantal(x: Tensor, k: int, relevance: Tensor | None = None) -> Tensor:
    """Return (b, k) ascending positions: MAP of the kernel `L_ij = r_i c_ij r_j`, past its rank by max-min distance.

    The distances are made where a look shows that the rank is reached, or where a look would wait for the device.

    Args:
        x: (b, n, d) tokens.
        relevance: (b, n) r; 1 if None.
    """
    if cosine_rows.pays(x, k):
        positions, gains = _by_rows(x, k, lambda rows, i: _kernel(rows, None if relevance is None else relevance[i]))
        if bool(torch.all(gains > 0)):
            return positions.sort(dim=1).values
    kernel = cosine_matrix(x)
    if relevance is not None:
        r = relevance.to(kernel.dtype)
        kernel.mul_(r.unsqueeze(2)).mul_(r.unsqueeze(1))
    if visible(x):
        chosen = ops.greedy_select(kernel, k, method="dpp")
        if bool(torch.all(chosen.gains > 0)):
            return chosen.positions.sort(dim=1).values
    chosen = ops.greedy_select(kernel, k, method="dpp", fallback=cosine_distance(x))
    return chosen.positions.sort(dim=1).values


def marginal(x: Tensor, k: int, worth: Tensor, weight: float) -> Tensor:
    """Return (b, k) ascending positions: `argmax worth`, then `argmax_j worth_j - weight max_{i chosen} c_ij`.

    Args:
        x: (b, n, d) tokens.
        worth: (b, n).
        weight: of likeness, >= 0.
    """
    if cosine_rows.pays(x, k):
        positions, _ = _by_rows(x, k, lambda rows, i: _unlike(rows, worth[i], weight))
    else:
        unlike = cosine_matrix(x).mul_(-weight)
        positions = ops.greedy_select(unlike, k, relevance=worth.to(unlike.dtype)).positions
    return positions.sort(dim=1).values


def _by_rows(x: Tensor, k: int, problem: Callable[[CosineRows, int], tuple[Row, Array, Array | None]]) -> Chosen:
    found = []
    for i, cosines in enumerate(cosine_rows.samples(x)):
        row, diagonal, weights = problem(cosines, i)
        found.append(select_by_rows(row, diagonal, k, weights))
    positions, gains = (torch.from_numpy(numpy.stack(each)) for each in zip(*found, strict=True))
    return positions, gains


def _kernel(cosines: CosineRows, relevance: Tensor | None) -> tuple[Row, Array, None]:
    if relevance is None:
        return cosines, numpy.ones(cosines.n, cosines.dtype), None
    r = relevance.numpy().astype(cosines.dtype)
    return lambda i, values: cosines(i, values) * r[i] * r, r * r, None


def _unlike(cosines: CosineRows, worth: Tensor, weight: float) -> tuple[Row, Array, Array]:
    w = worth.numpy().astype(cosines.dtype)
    return lambda i, values: cosines(i, values) * -weight, w, w
