"""Greedy coverage (facility location): each candidate chosen adds most to what those before it cover.

The value of a candidate never grows as others are chosen, in exact arithmetic and in rounded arithmetic alike, if a
row is always summed in the same order. So an old value is an upper bound, and on the CPU a step looks again only at
the candidates whose bound reaches the best value found: the choices are those of the plain loop, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

Array = Any  # a numpy array of any dtype


def cover(table: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """Return (b, k) int64: candidates in the order of choice, `argmax_j w_j sum_r max(0, table_jr - covered_r)`.

    `covered`, zero at first, is the maximum over the rows of those chosen. Ties go to the lower index.

    Args:
        table: how well candidate j covers point r; never changed.
        k: candidates to choose, 1 <= k <= n.
        weight: of each candidate, >= 0; 1 if None.

    Shape: table (b, n, r), weight (b, n) -> (b, k).

    Cost: k n r a sample; on the CPU n r and a small part of that.

    Example:
        >>> cover(torch.tensor([[[3.0, 0], [2, 2], [0, 2.5]]]), 2)
        tensor([[1, 0]])
    """
    if weight is None:
        weight = table.new_ones(table.shape[:2])
    if table.device.type != "cpu" or torch.compiler.is_compiling():
        return _batched(table, k, weight)
    samples = zip(table.numpy(), weight.numpy(), strict=True)
    return torch.from_numpy(numpy.stack([_lazy(rows, k, worth) for rows, worth in samples]))


def _batched(table: Tensor, k: int, weight: Tensor) -> Tensor:
    """The plain loop over the choices, all samples at once and without a look at the values."""
    covered = torch.zeros_like(table[:, :1])
    free = torch.zeros_like(weight)
    picks = []
    for _ in range(k):
        value = (table - covered).clamp_(min=0).sum(-1) * weight
        best = (value + free).argmax(1, keepdim=True)  # the first of equal maxima
        free = free.scatter(1, best, -torch.inf)
        covered = torch.maximum(covered, table.gather(1, best[:, :, None].expand(-1, -1, table.shape[-1])))
        picks.append(best)
    return torch.cat(picks, 1)


def _lazy(rows: Array, k: int, weight: Array) -> Array:
    """One sample: values as upper bounds, refreshed where they may be the largest."""
    picks = numpy.empty(k, dtype=numpy.int64)
    covered = numpy.zeros(rows.shape[1], dtype=rows.dtype)
    bound = numpy.maximum(rows, 0).sum(axis=1) * weight
    for step in range(k):
        best = int(bound.argmax())
        if step:
            bound[best] = _value(rows[[best]], covered)[0] * weight[best]
            again = numpy.flatnonzero(bound >= bound[best])
            bound[again] = _value(rows[again], covered) * weight[again]
            best = int(bound.argmax())  # numpy returns the first of equal maxima
        picks[step] = best
        numpy.maximum(covered, rows[best], out=covered)
        bound[best] = -numpy.inf
    return picks


def _value(rows: Array, covered: Array) -> Array:
    rows = rows - covered
    return numpy.maximum(rows, 0, out=rows).sum(axis=1)
