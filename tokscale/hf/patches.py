"""From patches to tokens: the mean over the patches that a token is made of. Pure functions, one per kind of map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def token_importance(kind: str, received: Sequence[Tensor], tokens: int, config: Any, grid_thw: Any) -> Tensor | None:
    """Return (tokens,) from the (b, patches) that each call of the tapped layer received, or None if they do not fit.

    Args:
        kind: "same" (a patch is a token), "raster" (blocks of a square picture), "consecutive" (runs of patches),
            "window" (runs of patches, in the order of attention windows).
        received: per call of the layer.
        tokens: features in all.
        config: the model's, for window sizes.
        grid_thw: (images, 3) patches in time, height and width, where the model has them.
    """
    if not received or not tokens:
        return None
    if kind in ("consecutive", "window"):
        flat = torch.cat([part.flatten() for part in received])
        if len(flat) % tokens:
            return None
        grouped = flat.view(tokens, -1).mean(1)
        if kind == "consecutive":
            return grouped
        order = window_order(grid_thw.tolist(), config.vision_config)
        return grouped[order.argsort().to(grouped.device)] if len(order) == tokens else None
    if len({part.shape[-1] for part in received}) > 1:
        return None
    rows = torch.cat([part.flatten(0, -2) for part in received])  # pictures, patches
    per_picture = tokens // len(rows)
    if kind == "same":
        return rows[:, rows.shape[1] - per_picture :].flatten()  # a [CLS] row in front is no token
    return raster(rows, per_picture)


def raster(rows: Tensor, tokens: int) -> Tensor | None:
    """Return the mean over square blocks of square pictures, (pictures * tokens,); a [CLS] row in front is left out."""
    side = math.isqrt(rows.shape[1])
    rows = rows[:, rows.shape[1] - side * side :]
    across = math.isqrt(tokens)
    if across * across != tokens or side % across:
        return None
    block = side // across
    return rows.view(len(rows), across, block, across, block).mean((2, 4)).flatten()


def window_order(grid_thw: Sequence[Sequence[int]], vision: Any) -> Tensor:
    """Return which token (row-major within its picture) stands at each place when windows are visited one by one.

    A picture of h x w tokens is cut into windows of `window_size // (merge * patch)` tokens a side, from the top left;
    those at the edges are smaller.
    """
    merge = vision.spatial_merge_size
    side = vision.window_size // merge // vision.patch_size
    order, first = [], 0
    for t, h, w in grid_thw:
        h, w = h // merge, w // merge
        places = torch.arange(t * h * w).view(t, h, w) + first
        for frame in places:
            for top in range(0, h, side):
                for left in range(0, w, side):
                    order.append(frame[top : top + side, left : left + side].flatten())
        first += t * h * w
    return torch.cat(order)
