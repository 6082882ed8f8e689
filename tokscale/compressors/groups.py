"""Groups of tokens: which output each token belongs to, as the weights of a mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import visible


def members(owner: Tensor, positions: Tensor) -> Tensor:
    """Return (b, k, n) bool: whether token i belongs to the output that stands at `positions[j]`.

    Args:
        owner: (b, n) or (n,) position of the output each token belongs to; -1 for none.
        positions: (b, k) positions of the outputs.
    """
    return owner.unsqueeze(-2) == positions.unsqueeze(-1)


def averages(member: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights of each group's mean: rows of (b, k, n) sum to 1, or to 0 where a group is empty."""
    return member.to(dtype) / member.sum(-1, keepdim=True).clamp(min=1)


def themselves(positions: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Return (b, k, n) weights 1 at each output's own position, else 0."""
    return members(torch.arange(n, device=positions.device), positions).to(dtype)


def others(positions: Tensor, n: int) -> Tensor:
    """Return the (b, n - k) positions, ascending, that are not among the (b, k) distinct `positions`."""
    left = torch.ones(len(positions), n, dtype=torch.uint8, device=positions.device).scatter_(1, positions, 0)
    return left.sort(dim=1, descending=True, stable=True).indices[:, : n - positions.shape[1]]


def add_to(sums: Tensor, place: Tensor, values: Tensor) -> Tensor:
    """Return (b, k, d) `sums`, changed in place: row `place[i]` grows by row i of the (b, r, d) values; place (b, r).

    As a product where the order of parallel additions would vary from run to run, and in graphs.
    """
    b, k, d = sums.shape
    if not visible(sums):
        index = torch.arange(k, device=place.device).view(1, k, 1)
        return sums.add_((place.unsqueeze(1) == index).to(values.dtype) @ values)
    row = place + torch.arange(b).unsqueeze(1) * k
    sums.view(b * k, d).index_add_(0, row.flatten(), values.reshape(-1, d))
    return sums
