"""Greedy coverage (facility location): each candidate chosen adds most to what those before it cover.

Two candidates often add exactly the same: if i and j alone are uncovered, each adds `c_ij + 1 - b_i - b_j`. So that
such a tie goes to the lower index, whatever the order of a sum, the entries are whole multiples of a step so large
that every sum in float64 is exact: `2 total / 2**53` at least, `total` being what all candidates cover together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
from torch import Tensor

Array = Any  # a numpy array


def cover(table: Tensor, k: int, total: float, weight: Tensor | None = None) -> Tensor:
    """Return (b, k) int64: candidates in the order of choice, `argmax_j w_j sum_r max(0, table_rj - covered_r)`.

    `covered`, zero at first, is the maximum over those chosen of each row. Ties go to the lower index.

    Args:
        table: how well candidate j covers point r, by row r; negative entries count as 0. Never changed. A float32
            entry below `total / 2**28` or so counts as 0, too.
        k: candidates to choose, 1 <= k <= n.
        total: at least the sum over the rows of their largest entries.
        weight: of each candidate, >= 0; 1 if None.

    Shape: table (b, r, n), weight (b, n) -> (b, k).

    Cost: k n r a sample; on the CPU, where only rows that a choice covers better are looked at, about n r log k.

    Example:
        >>> cover(torch.tensor([[[3.0, 2, 0], [0, 2, 2.5]]]), 2, total=5.5)
        tensor([[1, 0]])
    """
    if weight is None:
        weight = table.new_ones(table.shape[0], table.shape[2])
    if table.device.type != "cpu" or torch.compiler.is_compiling():
        return _batched(_rounded(table, total), k, weight.double())
    samples = zip(table, weight.double())
    return torch.from_numpy(numpy.stack([_sample(_rounded(t, total).numpy(), k, w.numpy()) for t, w in samples]))


def _rounded(table: Tensor, total: float) -> Tensor:
    """The table in multiples of the step, without what is negative; float32 entries are, from 2**24 steps on."""
    step = 2.0 ** (math.ceil(math.log2(total)) - 52)
    if table.dtype == torch.float32:
        return torch.threshold(table, step * 2**24, 0)
    shift = 1.5 * 2**52 * step  # the numbers around it are a step apart
    return (table + shift).sub_(shift).clamp_(min=0)


def _batched(table: Tensor, k: int, weight: Tensor) -> Tensor:
    """The plain loop over the choices, all samples at once and without a look at the values."""
    covered = torch.zeros_like(table[:, :, :1])
    barrier = torch.zeros_like(weight)
    picks = []
    for _ in range(k):
        reached = torch.maximum(table, covered).sum(1, dtype=torch.float64)
        gain = reached - covered.sum(1, dtype=torch.float64)
        best = (gain * weight + barrier).argmax(1, keepdim=True)  # the first of equal maxima
        barrier = barrier.scatter(1, best, -torch.inf)
        covered = torch.maximum(covered, table.gather(2, best.unsqueeze(1).expand(-1, table.shape[1], -1)))
        picks.append(best)
    return torch.cat(picks, 1)


def _sample(table: Array, k: int, weight: Array) -> Array:
    """One sample: the gains fall by what the rows that a choice covers better have added to them."""
    picks = numpy.empty(k, dtype=numpy.int64)
    covered = numpy.zeros(len(table), dtype=table.dtype)
    gain = table.sum(axis=0, dtype=numpy.float64)
    barrier = numpy.zeros(table.shape[1])
    for step in range(k):
        best = picks[step] = int((gain * weight + barrier).argmax())  # numpy returns the first of equal maxima
        barrier[best] = -numpy.inf
        column = table[:, best]
        better = numpy.flatnonzero(column > covered)
        before, after = covered[better], column[better]
        rows = table.take(better, axis=0)
        numpy.maximum(rows, before[:, None], out=rows)
        numpy.minimum(rows, after[:, None], out=rows)
        gain -= rows.sum(axis=0, dtype=numpy.float64) - before.sum(dtype=numpy.float64)
        covered[better] = after
    return picks
