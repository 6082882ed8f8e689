"""From patches to tokens: the mean over the patches that a token is made of. Pure functions, one per kind of map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_tokens(kind: str, noted: Sequence[Tensor], tokens: int, config: Any, grid_thw: Any) -> Tensor | None:
    """Return (tokens, ...) from the (b, patches, ...) of each call of the tapped layer, or None if they do not fit.

    Args:
        kind: "same" (a patch is a token), "raster" (blocks of a square picture), "consecutive" (runs of patches),
            "window" (runs of patches, in the order of attention windows).
        noted: per call of the layer, a number or a vector for each patch.
        tokens: features in all.
        config: the model's, for window sizes.
        grid_thw: (images, 3) patches in time, height and width, where the model has them.
    """
    if not noted or not tokens:
        return None
    if kind in ("consecutive", "window"):
        flat = torch.cat([part.flatten(0, 1) for part in noted])
        if len(flat) % tokens:
            return None
        grouped = flat.unflatten(0, (tokens, -1)).mean(1)
        if kind == "consecutive":
            return grouped
        order = window_order(grid_thw.tolist(), config.vision_config)
        return grouped[order.argsort().to(grouped.device)] if len(order) == tokens else None
    if len({part.shape[1] for part in noted}) > 1:
        return None
    rows = torch.cat(list(noted))  # pictures, patches
    per_picture = tokens // len(rows)
    if kind == "same":
        return rows[:, rows.shape[1] - per_picture :].flatten(0, 1)  # a [CLS] row in front is no token
    return raster(rows, per_picture)


def raster(rows: Tensor, tokens: int) -> Tensor | None:
    """Return the mean over square blocks of square pictures, (pictures * tokens, ...); a [CLS] row is left out."""
    side = math.isqrt(rows.shape[1])
    rows = rows[:, rows.shape[1] - side * side :]
    across = math.isqrt(tokens)
    if across * across != tokens or side % across:
        return None
    return rows.unflatten(1, (across, side // across, across, side // across)).mean((2, 4)).flatten(0, 2)


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
