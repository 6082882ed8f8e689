"""Greedy choice by the determinant of a cosine kernel: `dpp`, and `cdpruner` where relevance scales it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .similarity import cosine_distance, cosine_matrix, visible


def determinantal(x: Tensor, k: int, relevance: Tensor | None = None) -> Tensor:
    """Return (b, k) ascending positions: MAP of the kernel `L_ij = r_i c_ij r_j`, past its rank by max-min distance.

    The distances are made where a look shows that the kernel is exhausted, or where a look would wait for the device.

    Args:
        x: (b, n, d) tokens.
        relevance: (b, n) r; 1 if None.
    """
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
