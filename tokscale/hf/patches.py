"""From patches to tokens: the mean over the patches that a token is made of. Pure functions, one per kind of map.

A tower notes a number or a vector for each patch, sequence by sequence: a picture, a frame of a video, or several
pictures packed into one. The model makes `block` consecutive or neighbouring patches into one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Sizes = Sequence[tuple[int, int, int]]  # frames, height and width of each picture


def to_tokens(
    kind: str,
    noted: Sequence[Tensor],
    tokens: int,
    sizes: Sizes | None,
    *,
    cls: int | None = None,
    prefix: int = 0,
    tile: tuple[int, int, int] | None = None,
    merge: int | None = None,
    vision: Any = None,
    pooling: Tensor | None = None,
) -> Tensor | None:
    """Return (tokens, ...) from the (patches, ...) of each sequence of the tapped layer, or None if they do not fit.

    Args:
        kind: "same" (a patch is a token), "raster" (square blocks of a picture), "consecutive" (runs of patches),
            "window" (runs of patches, in the order of attention windows), "pooled" (as `pooling` says).
        noted: per sequence, a number or a vector for each patch; without padding where `sizes` are given.
        tokens: features in all.
        sizes: of each picture, in any unit of length; None where every sequence is a picture of size `tile`.
        cls: where in a sequence [CLS] stands, 0 or -1; None for nowhere.
        prefix: rows of each sequence that are no patches: [CLS], registers. A model may yet make tokens of them.
        merge: patches a side that become one token by the config; checked where patches are consecutive.
        vision: the tower's config, for window sizes.
        pooling: (tokens, most patches) numbers of patches, negative for none.
    """
    total = sum(len(part) for part in noted)
    if not tokens or total < tokens:
        return None
    if kind == "pooled":
        return None if pooling is None or len(pooling) != tokens else _pooled(torch.cat(list(noted)), pooling)
    if kind == "same" and total == tokens + len(noted):
        prefix = 1  # some models leave the first row out, whatever it is
    left = total - prefix * len(noted)
    if prefix and left and left % tokens == 0:
        noted, total = [part[:-prefix] if cls == -1 else part[prefix:] for part in noted], left
    if total % tokens:
        return None
    block, flat = total // tokens, torch.cat(list(noted))
    if kind in ("consecutive", "window") and merge and merge * merge != block:
        return None  # merged over time too
    if kind == "same" and block > 1:
        return None
    if kind in ("same", "consecutive", "window"):
        grouped = flat.unflatten(0, (tokens, block)).mean(1)
        if kind != "window":
            return grouped
        order = None if sizes is None else window_order(scaled(sizes, tokens), vision)
        return grouped[order.argsort().to(grouped.device)] if order is not None and len(order) == tokens else None
    sizes = sizes or [tile] * len(noted) if tile else sizes
    if not sizes:
        return None
    grids, side = scaled(sizes, tokens), math.isqrt(block)
    if side * side != block or sum(map(math.prod, grids)) != tokens:
        return None
    pictures = flat.split([math.prod(grid) * block for grid in grids])
    return torch.cat([raster(picture, grid, side) for picture, grid in zip(pictures, grids)])


def scaled(sizes: Sizes, tokens: int) -> list[tuple[int, int, int]]:
    """Return pictures of the same shapes with that many tokens in all; (0, 0, 0) where a side would be no integer."""
    area = max(1, sum(map(math.prod, sizes)))
    grids = []
    for t, h, w in sizes:
        # both sides by sqrt(tokens / area): h' = h sqrt(tokens / area)
        rows, columns = math.isqrt(h * h * tokens // area), math.isqrt(w * w * tokens // area)
        whole = rows * rows * area == h * h * tokens and columns * columns * area == w * w * tokens
        grids.append((t, rows, columns) if whole else (0, 0, 0))
    return grids


def raster(patches: Tensor, grid: tuple[int, int, int], side: int) -> Tensor:
    """Return the mean over blocks of side x side patches of a picture of t x h x w tokens, (t h w, ...)."""
    t, h, w = grid
    return patches.unflatten(0, (t, h, side, w, side)).mean((2, 4)).flatten(0, 2)


def _pooled(patches: Tensor, pooling: Tensor) -> Tensor:
    """Return the mean over the patches that each row of `pooling` names."""
    pooling = pooling.to(patches.device)
    real = pooling >= 0
    share = real / real.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("tk,tk...->t...", share.to(patches.dtype), patches[pooling.clamp(min=0)])


def window_order(grids: Sizes, vision: Any) -> Tensor:
    """Return which token (row-major within its picture) stands at each place when windows are visited one by one.

    A picture of h x w tokens is cut into windows of `window_size // (merge * patch)` tokens a side, from the top left;
    those at the edges are smaller.
    """
    side = vision.window_size // vision.spatial_merge_size // vision.patch_size
    order, first = [], 0
    for t, h, w in grids:
        places = torch.arange(t * h * w).view(t, h, w) + first
        for frame in places:
            for top in range(0, h, side):
                for left in range(0, w, side):
                    order.append(frame[top : top + side, left : left + side].flatten())
        first += t * h * w
    return torch.cat(order) if order else torch.empty(0, dtype=torch.long)
