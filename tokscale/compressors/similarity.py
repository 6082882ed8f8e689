"""Cosine similarities in float32 or wider, with the rules for zero tokens and duplicates that all methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from .compressed import wide

ZERO = 1e-12  # a token of at most this norm has no direction
HUGE = 1e15  # entries above this are divided out first: their squares may overflow
SAME = 1e-6  # cosines nearer to 1 are 1, and distances 0, so that duplicates tie exactly


def tamed(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return x in float32 or wider, divided by its largest entry over `dims` where that is huge: squares then fit."""
    x = x.to(wide(x.dtype))
    size = torch.linalg.vector_norm(x, torch.inf, dim=dims, keepdim=True)
    return torch.where(size > HUGE, x / size, x)


def unit(x: Tensor) -> Tensor:
    """Return `x / max(||x||, 1e-12)` in float32 or wider; zero tokens give zeros."""
    x = tamed(x, (-1,))
    norm = x.norm(dim=-1, keepdim=True)
    return (x / norm.clamp(min=ZERO)).masked_fill(norm <= ZERO, 0)


def cosine_matrix(x: Tensor) -> Tensor:
    """Return the (b, n, n) cosines of tokens: 1 on the diagonal and between two zero tokens, 0 from zero to others.

    Cosines within 1e-6 of 1 are 1, so that copies of a token tie exactly in every sum.
    """
    direction = unit(x.detach())
    c = _likeness(direction, direction)
    c.diagonal(dim1=1, dim2=2).fill_(1)
    return c


def cosine_between(x: Tensor, y: Tensor) -> Tensor:
    """Return the (b, m, n) cosines of m with n tokens, by the rules of `cosine_matrix`."""
    return _likeness(unit(x.detach()), unit(y.detach()))


def _likeness(a: Tensor, b: Tensor) -> Tensor:
    c = a @ b.transpose(1, 2)
    c.masked_fill_(~(a.any(-1)[:, :, None] | b.any(-1)[:, None, :]), 1)
    return c.masked_fill_(c > 1 - SAME, 1)


def cosine_distance(x: Tensor) -> Tensor:
    """Return (b, n, n) `1 - cosine`, where values below 1e-6 are 0."""
    return 1 - cosine_matrix(x)


def pair_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return (...) distances `1 - c` of unit tokens (..., d), place by place, by the rules of `cosine_distance`."""
    distance = 1 - (a * b).sum(-1)
    return distance.masked_fill_((distance < SAME) | ~(a.any(-1) | b.any(-1)), 0)
