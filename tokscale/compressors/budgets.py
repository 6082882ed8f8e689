"""`allocate`: one budget shared among images, tiles or frames, to the exact sum."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .._checks import one_of, positive_int
from ..errors import ArgumentError, BudgetError

HOW = ("uniform", "proportional", "content")


def allocate(
    sizes: Sequence[int],
    total: int,
    *,
    how: str = "uniform",
    weights: Sequence[float] | None = None,
    minimum: int = 1,
) -> list[int]:
    """Return how many of `total` tokens each image keeps; the sum is `min(total, sum(sizes))`, exactly.

    The ideal share of image i is `clip(lam w_i, min(minimum, size_i), size_i)` with `lam` such that the shares sum to
    the total. Whole numbers are its floors; what is left goes to the largest fractions, ties to the first images.

    Args:
        sizes: tokens of each image.
        total: tokens to keep in all.
        how: "uniform" gives every image the same where it has them, "proportional" weighs by size, "content" by
            `weights`.
        weights: non-negative, one per image, for `how="content"`; see `content_weights`.
        minimum: tokens that every image keeps at least (all of a smaller one).

    Raises:
        BudgetError: the total is below the minimum of all images together.
        ArgumentError: sizes, weights, how or minimum are not what they may be.

    Cost: O(m^2) for m images, in exact fractions.

    Example:
        >>> allocate((576, 576, 144), 300), allocate((576, 576, 144), 300, how="proportional")
        ([100, 100, 100], [134, 133, 33])
    """
    one_of("how", how, HOW)
    size = [positive_int(n, f"sizes[{i}]") for i, n in enumerate(sizes)]
    total, minimum = positive_int(total, "total"), positive_int(minimum, "minimum")
    low = [min(minimum, n) for n in size]
    if not size:
        raise ArgumentError("sizes is empty; allocate() needs the tokens of at least one image")
    if total < sum(low):
        raise BudgetError(
            f"total={total} is below the {sum(low)} tokens that {len(size)} images need at minimum={minimum}; raise "
            "the total or lower the minimum"
        )
    total = min(total, sum(size))
    ideal = _ideal(_weights(how, weights, size), low, size, total)
    kept = [math.floor(share) for share in ideal]
    order = sorted(range(len(size)), key=lambda i: (kept[i] - ideal[i], i))
    for i in order[: total - sum(kept)]:
        kept[i] += 1
    return kept


def _weights(how: str, weights: Sequence[float] | None, size: list[int]) -> list[Fraction]:
    if (weights is not None) != (how == "content"):
        raise ArgumentError(f'how="{how}" {"needs" if how == "content" else "takes no"} weights=')
    if weights is None:
        return [Fraction(1) if how == "uniform" else Fraction(n) for n in size]
    if len(weights) != len(size):
        raise ArgumentError(f"weights holds {len(weights)} numbers, sizes holds {len(size)}")
    for i, w in enumerate(weights):
        if isinstance(w, bool) or not isinstance(w, numbers.Real) or not math.isfinite(w) or w < 0:
            raise ArgumentError(f"weights[{i}] must be a finite number >= 0, got {w!r}")
    return [Fraction(float(w)) for w in weights]


def _ideal(weights: list[Fraction], low: list[int], high: list[int], total: int) -> list[Fraction]:
    """Return the shares `clip(lam w, low, high)` that sum to the total, by the breakpoints of lam."""
    if not any(weights):
        weights = [Fraction(1)] * len(weights)

    def shares(lam: Fraction) -> list[Fraction]:
        return [min(max(lam * w, Fraction(lo)), Fraction(hi)) for w, lo, hi in zip(weights, low, high)]

    turns = sorted({Fraction(end) / w for w, lo, hi in zip(weights, low, high) if w for end in (lo, hi)})
    below, lam = turns[0], turns[-1]
    if sum(shares(lam)) < total:  # every image that counts is whole; the others share the rest alike
        others = [Fraction(0) if w else Fraction(1) for w in weights]
        rest = [hi if w else lo for w, lo, hi in zip(weights, low, high)]
        return _ideal(others, rest, high, total)
    for turn in turns:
        if sum(shares(turn)) >= total:
            lam = turn
            break
        below = turn
    at, after = sum(shares(below)), sum(shares(lam))
    if after > at:
        lam = below + (lam - below) * (total - at) / (after - at)
    return shares(lam)


def content_weights(
    tokens: Sequence[Tensor],
    *,
    how: str = "diversity",
    importance: Tensor | None = None,
) -> list[float]:
    """Return a weight per image for `allocate(how="content")`.

    "diversity" is `n (1 - |mean of the unit tokens|^2)`: zero for an image whose tokens are all alike. "importance" is
    the share of a global view's attention that falls on each tile.

    Args:
        tokens: the tokens of each image, (n_i, d).
        how: "diversity" or "importance".
        importance: (m,) or (m, p): what the global view attends to in each of m tiles, for "importance".

    Raises:
        ArgumentError: another `how`, or "importance" without its scores.

    Source: X. Liu et al., "Global Compression Commander: Plug-and-Play Inference Acceleration for High-Resolution
        Large Vision-Language Models", 2025, arXiv:2501.05179, for "importance"; "diversity" is ours.
    """
    one_of("how", how, ("diversity", "importance"))
    if how == "importance":
        if importance is None or len(importance) != len(tokens):
            found = "none" if importance is None else f"{len(importance)}"
            raise ArgumentError(f'how="importance" needs importance= for each of {len(tokens)} images, got {found}')
        each = importance.detach().double().reshape(len(tokens), -1).sum(1)
        return (each / each.sum()).tolist() if float(each.sum()) > 0 else [0.0] * len(tokens)
    found_weights = []
    for token in tokens:
        unit = torch.nn.functional.normalize(token.detach().float(), dim=-1)
        found_weights.append(float(len(token) * (1 - unit.mean(0).square().sum()).clamp(min=0)))
    return found_weights
