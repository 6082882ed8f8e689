"""Rows of a cosine matrix when they are asked for: what a greedy choice of few of many tokens reads on the CPU."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor

from .similarity import directions, settled, visible

AT_ONCE = 16  # rows of one product: they cost what three alone do, and what is chosen next is often among them
MANY, SHARE = 1024, 8  # tokens from which on rows pay, if at most one in SHARE is kept (measured)

Array = Any  # a numpy array


def pays(x: Tensor, k: int) -> bool:
    """Whether k rows of the cosines of (b, n, d) tokens cost less than all of them."""
    return visible(x) and x.shape[1] >= max(MANY, SHARE * k)


def samples(x: Tensor) -> list[CosineRows]:
    """Return the rows of each sample of (b, n, d) tokens."""
    return [CosineRows(unit, nothing) for unit, nothing in zip(*directions(x.detach()))]


class CosineRows:
    """Rows of `cosine_matrix` of one sample: `rows(i, values)` is row i, (n,), not to be changed.

    With it come the rows of the tokens of largest `values`, which may be asked for next.

    Args:
        unit: (n, d) tokens of length 1 or 0.
        nothing: (n,), True where it is 0.
    """

    def __init__(self, unit: Tensor, nothing: Tensor) -> None:
        self._unit, self._nothing = unit, nothing
        self.n, self.dtype = len(unit), unit.numpy().dtype
        self._made: dict[int, Array] = {}
        self._done = numpy.zeros(self.n, self.dtype)  # inf where a row is made

    def __call__(self, i: int, values: Array) -> Array:
        if i not in self._made:
            likely = numpy.argpartition(self._done - values, AT_ONCE)[:AT_ONCE]
            self._make(numpy.union1d(likely, [i]))
        return self._made[i]

    def _make(self, tokens: Array) -> None:
        index = torch.from_numpy(tokens)
        c = (self._unit[index] @ self._unit.T).unsqueeze(0)
        c = settled(c, self._nothing[index].unsqueeze(0), self._nothing.unsqueeze(0))[0]
        c[torch.arange(len(index)), index] = 1
        self._made.update(zip(tokens.tolist(), c.numpy()))
        self._done[tokens] = numpy.inf
