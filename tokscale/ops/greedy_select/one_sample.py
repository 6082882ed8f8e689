"""`greedy_select` of one sample on the CPU, in numpy: a running minimum (max-min) or a Cholesky factor (DPP).

A step reads one row, that of the token just chosen. `select` has the whole matrix; `select_by_rows` is given rows when
it asks, so that k rows of n are made and not n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from .reference import EXHAUSTED

ROWS = 128  # rows of a distance matrix that are copied at a time for the first pick

Array = Any  # a numpy array of any dtype
Row = Callable[[int, Array], Array]  # the row of a token, which is not changed, and the values it was the largest of


def select(
    matrix: Tensor,
    num_tokens: int,
    method: str,
    start: Tensor | None,
    relevance: Tensor | None,
    fallback: Tensor | None,
    mask: Tensor | None,
) -> tuple[Array, Array]:
    """Positions (k,) in the order of choice, and gains, on the matrix (n, n) of one sample."""
    rows = matrix.numpy()
    positions = numpy.empty(num_tokens, dtype=numpy.int64)
    gains = numpy.zeros(num_tokens, dtype=rows.dtype)
    # 0 where a token may be taken, -inf where it may not; added to the value that is maximised. Chosen: -inf.
    barrier = numpy.zeros(len(rows), dtype=rows.dtype)
    if mask is not None:
        barrier[~mask.numpy()] = -numpy.inf
    if method == "dpp":
        diagonal = numpy.diagonal(rows)
        done = _dpp(lambda i, _: rows[i], diagonal, positions, gains, barrier)
        if done < num_tokens and fallback is None:
            order = numpy.argsort(-(diagonal + barrier), kind="stable")
            positions[done:] = order[: num_tokens - done]
        elif done < num_tokens and fallback is not None:
            least = _nearest_chosen(fallback, mask, positions[:done])
            _max_min(_row_of(fallback), least, positions, numpy.zeros_like(gains), barrier, done, None)
        return positions, gains
    done = 0
    if start is not None:
        positions[0], gains[0], barrier[int(start)] = int(start), numpy.inf, -numpy.inf
        done = 1
    weights = None if relevance is None else relevance.numpy()
    least = None if done == 0 and weights is not None else _nearest_chosen(matrix, mask, positions[:done])
    _max_min(_row_of(matrix), least, positions, gains, barrier, done, weights)
    return positions, gains


def select_by_rows(row: Row, diagonal: Array, num_tokens: int, relevance: Array | None = None) -> tuple[Array, Array]:
    """Positions (k,) in the order of choice, and gains: "dpp", or with `relevance` "max_min" that begins with its best.

    Args:
        row: gives row i of the matrix as `row(i, values)`.
        diagonal: (n,), of the kernel; for "max_min" only its dtype and length count.
    """
    positions = numpy.empty(num_tokens, dtype=numpy.int64)
    gains = numpy.zeros(num_tokens, dtype=diagonal.dtype)
    barrier = numpy.zeros_like(diagonal)
    if relevance is not None:
        _max_min(row, None, positions, gains, barrier, 0, relevance)
        return positions, gains
    done = _dpp(row, diagonal, positions, gains, barrier)
    positions[done:] = numpy.argsort(-(diagonal + barrier), kind="stable")[: num_tokens - done]
    return positions, gains


def nearest(distances: Tensor, mask: Tensor | None) -> Tensor:
    """min over allowed i != j of D_ij, for every j: (b, n, n) to (b, n); inf where there is no other."""
    b, n, _ = distances.shape
    least = distances.new_full((b, n), torch.inf)
    for sample in range(b):
        for first in range(0, n, ROWS):
            rows = distances[sample, first : first + ROWS].clone()  # never write to the caller's matrix
            torch.diagonal(rows, offset=first).fill_(torch.inf)
            if mask is not None:
                rows.masked_fill_(~mask[sample, first : first + ROWS, None], torch.inf)
            torch.minimum(least[sample], rows.amin(0), out=least[sample])
    return least


def _row_of(matrix: Tensor) -> Row:
    rows = matrix.numpy()
    return lambda i, _: rows[i]


def _nearest_chosen(matrix: Tensor, mask: Tensor | None, chosen: Array) -> Array:
    """(n,) distance to the nearest of those chosen, or, before any is, of the others."""
    if len(chosen):
        return matrix.numpy()[chosen].min(axis=0)
    return nearest(matrix[None], None if mask is None else mask[None])[0].numpy()


def _max_min(
    row: Row,
    least: Array | None,
    positions: Array,
    gains: Array,
    barrier: Array,
    done: int,
    weights: Array | None,
) -> None:
    """Fill `positions[done:]` and `gains[done:]`; `least` is what `_nearest_chosen` says, None where weights begin."""
    value = weights if least is None else least if weights is None else weights + least
    for step in range(done, len(positions)):
        best = _take(value, positions, gains, barrier, step)
        if step + 1 == len(positions):
            break
        other = row(best, value)
        least = other.copy() if step == 0 or least is None else numpy.minimum(least, other, out=least)
        value = least if weights is None else weights + least


def _take(value: Array, positions: Array, gains: Array, barrier: Array, step: int) -> int:
    best = int((value + barrier).argmax())  # numpy returns the first of equal maxima
    if barrier[best] != 0:  # every value left is -inf: take the first free token
        best = int(barrier.argmax())
    positions[step], gains[step], barrier[best] = best, value[best], -numpy.inf
    return best


def _dpp(row: Row, diagonal: Array, positions: Array, gains: Array, barrier: Array) -> int:
    """Choose until nothing is left to span; returns how many were chosen. Calls cost more than sums here."""
    n, k = len(diagonal), len(positions)
    left = diagonal + barrier  # d2: squared distance of each token from the span of the chosen; -inf: not to be taken
    factor = numpy.empty((k, n), dtype=diagonal.dtype)
    work = numpy.empty(n, dtype=diagonal.dtype)
    limit = EXHAUSTED * left.max()
    for step in range(k):
        best = int(left.argmax())
        gain = float(left[best])
        if not gain > limit:  # below 0 by rounding, too
            return step
        positions[step], gains[step], barrier[best] = best, gain, -numpy.inf
        new = row(best, left)
        left[best] = -numpy.inf
        if step:
            numpy.matmul(factor[:step, best], factor[:step], out=work)
            new = numpy.subtract(new, work, out=work)
        new = numpy.divide(new, math.sqrt(gain), out=factor[step])
        left -= numpy.multiply(new, new, out=work)
    return k
