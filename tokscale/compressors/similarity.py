"""Cosine similarities in float32 or wider, with the rules for zero tokens and duplicates that all methods share.

On the CPU the rare cases (huge entries, zero tokens) are looked for first, and their passes over all numbers are made
only where there is one; elsewhere a look would wait for the device, so they are always made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .compressed import wide

ZERO = 1e-12  # a token of at most this norm has no direction
HUGE = 1e15  # entries above this are divided out first: their squares may overflow
SAME = 1e-6  # cosines nearer to 1 are 1, and distances 0, so that duplicates tie exactly


def unit(x: Tensor) -> Tensor:
    """Return `x / max(||x||, 1e-12)` in float32 or wider; zero tokens give zeros."""
    return _directions(x)[0]


def cosine_matrix(x: Tensor) -> Tensor:
    """Return the (b, n, n) cosines of tokens: 1 on the diagonal and between two zero tokens, 0 from zero to others.

    Cosines within 1e-6 of 1 are 1, so that copies of a token tie exactly in every sum.
    """
    direction = _directions(x.detach())
    c = _likeness(direction, direction)
    c.diagonal(dim1=1, dim2=2).fill_(1)
    return c


def cosine_between(x: Tensor, y: Tensor) -> Tensor:
    """Return the (b, m, n) cosines of m with n tokens, by the rules of `cosine_matrix`."""
    return _likeness(_directions(x.detach()), _directions(y.detach()))


def cosine_distance(x: Tensor) -> Tensor:
    """Return (b, n, n) `1 - cosine`, where values below 1e-6 are 0."""
    return cosine_matrix(x).neg_().add_(1)


def pair_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return (...) distances `1 - c` of unit tokens (..., d), place by place, by the rules of `cosine_distance`."""
    distance = 1 - (a * b).sum(-1)
    return distance.masked_fill_((distance < SAME) | ~(a.any(-1) | b.any(-1)), 0)


def tamed(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return x in float32 or wider, divided by its largest entry over `dims` where that is huge: squares then fit."""
    x = x.to(wide(x.dtype))
    if _visible(x) and float(torch.linalg.vector_norm(x, dim=dims).amax()) <= HUGE:
        return x
    size = torch.linalg.vector_norm(x, math.inf, dim=dims, keepdim=True)
    return torch.where(size > HUGE, x / size, x)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tokens (b, n, d) in float32 or wider, zeros for zero tokens, and which those are (b, n)."""
    x = x.to(wide(x.dtype))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if not _visible(x) or bool((norm > HUGE).any()):
        x = tamed(x, (-1,))
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    zero = norm <= ZERO
    return x / norm.masked_fill(zero, math.inf), zero.squeeze(-1)


def _likeness(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    (a, nothing), (b, none) = x, y
    c = a @ b.transpose(1, 2)
    if not _visible(c) or bool(nothing.any()):
        c.masked_fill_(nothing.unsqueeze(2) & none.unsqueeze(1), 1)
    return torch.threshold_(c.neg_(), SAME - 1, -1).neg_()


def _visible(x: Tensor) -> bool:
    """Whether a look at the values costs no wait and breaks no graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
