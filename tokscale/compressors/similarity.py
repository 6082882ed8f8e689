"""Cosine similarities in float32 or wider, with the rules for zero tokens and duplicates that all methods share.

On the CPU the rare cases (huge entries, zero tokens) are looked for first, and their passes over all numbers are made
only where there is one; elsewhere a look would wait for the device, so they are always made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .compressed import wide

ZERO = 1e-12  # a token of at most this norm has no direction
HUGE = 1e15  # entries above this are divided out first: their squares may overflow
SAME = 1e-6  # cosines nearer to 1 are 1, and distances 0, so that duplicates tie exactly
STRIPS = 4  # a symmetric matrix as so many strips from its diagonal on: 5/8 of the products, still wide ones
IN_CACHE = 2**20  # products of a strip, of as many samples as fit
WIDE = 256  # tokens and channels from which strips pay on the CPU (measured; one and two threads)


def unit(x: Tensor) -> Tensor:
    """Return `x / max(||x||, 1e-12)` in float32 or wider; zero tokens give zeros."""
    return directions(x)[0]


def cosine_matrix(x: Tensor) -> Tensor:
    """Return the (b, n, n) cosines of tokens: 1 on the diagonal and between two zero tokens, 0 from zero to others.

    Cosines within 1e-6 of 1 are 1, so that copies of a token tie exactly in every sum.
    """
    direction, nothing = directions(x.detach())
    c = gram(direction, lambda c, some, first, end: settled(c, nothing[some, first:end], nothing[some, first:]))
    c.diagonal(dim1=1, dim2=2).fill_(1)
    return c


def cosine_between(x: Tensor, y: Tensor) -> Tensor:
    """Return the (b, m, n) cosines of m with n tokens, by the rules of `cosine_matrix`."""
    return _likeness(directions(x.detach()), directions(y.detach()))


def cosine_distance(x: Tensor) -> Tensor:
    """Return (b, n, n) `1 - cosine`, where values below 1e-6 are 0."""
    return cosine_matrix(x).neg_().add_(1)


def pair_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the (...) distances of tokens (..., d), place by place, by the rules of `cosine_distance`."""
    x, y = tamed(x.detach(), (-1,)), tamed(y.detach(), (-1,))
    a, b = torch.linalg.vector_norm(x, dim=-1), torch.linalg.vector_norm(y, dim=-1)
    nothing, none = a <= ZERO, b <= ZERO
    c = (x * y).sum(-1) / (a * b).masked_fill(nothing | none, math.inf)
    distance = 1 - c.masked_fill(nothing & none, 1)
    return distance.masked_fill(distance < SAME, 0)


def scale(x: Tensor, dims: tuple[int, ...]) -> Tensor | None:
    """Return the largest entry over `dims` where it is huge, else 1; None where a look shows that none is."""
    if visible(x) and float(torch.linalg.vector_norm(x, dim=dims).amax()) <= HUGE:
        return None
    size = torch.linalg.vector_norm(x, math.inf, dim=dims, keepdim=True)
    return size.masked_fill(size <= HUGE, 1)


def tamed(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return x in float32 or wider, divided by its largest entry over `dims` where that is huge: squares then fit."""
    x = x.to(wide(x.dtype))
    size = scale(x, dims) if x.numel() else None
    return x if size is None else x / size


def visible(x: Tensor) -> bool:
    """Whether a look at the values costs no wait and breaks no graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit tokens (b, n, d) in float32 or wider, zeros for zero tokens, and which those are (b, n)."""
    x = x.to(wide(x.dtype))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if not visible(x) or bool((norm > HUGE).any()):
        x = tamed(x, (-1,))
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    zero = norm <= ZERO
    return x / norm.masked_fill(zero, math.inf), zero.squeeze(-1)


def gram(x: Tensor, finish: Callable[[Tensor, slice, int, int], Tensor] | None = None) -> Tensor:
    """Return the (b, n, n) products of all pairs of (b, n, d) tokens.

    On the CPU a large matrix is computed right of its diagonal only, in strips of rows, and mirrored.

    Args:
        finish: gets the products of tokens `first:end` (rows) with tokens `first:` of some samples while they are still
            in the cache, as `finish(products, samples, first, end)`; what it returns takes their place.
    """
    b, n, d = x.shape
    if not visible(x) or min(n, d) < WIDE:
        whole = x @ x.transpose(1, 2)
        return whole if finish is None else finish(whole, slice(None), 0, n)
    table = x.new_empty(b, n, n)
    edges = [n * i // STRIPS for i in range(STRIPS + 1)]
    together = max(1, STRIPS * IN_CACHE // n**2)
    for start in range(0, b, together):
        some = slice(start, start + together)
        for first, end in itertools.pairwise(edges):
            strip = x[some, first:end] @ x[some, first:].transpose(1, 2)
            strip = strip if finish is None else finish(strip, some, first, end)
            table[some, first:end, first:] = strip
            table[some, end:, first:end] = strip[:, :, end - first :].transpose(1, 2)
    return table


def _likeness(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    (a, nothing), (b, none) = x, y
    return settled(a @ b.transpose(1, 2), nothing, none)


def settled(c: Tensor, nothing: Tensor, none: Tensor) -> Tensor:
    """The cosines c, changed in place: 1 between two zero tokens, and where they are within 1e-6 of it."""
    if not visible(c) or bool(nothing.any()):
        c.masked_fill_(nothing.unsqueeze(2) & none.unsqueeze(1), 1)
    return torch.threshold_(c.neg_(), SAME - 1, -1).neg_()
