"""The shapes of the pictures of a call: what grids and sizes say, and the rectangle that the tokens of each make."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .host import PIXELS, Host
from .patches import scaled

Size = tuple[int, int, int]  # frames, height, width

TABLES = {
    "image": ("image_grid_hw", "spatial_shapes", "target_sizes", "image_sizes"),
    "video": ("target_sizes_videos",),
}
_MERGE = ("spatial_merge_size", "merge_size", "merge_kernel_size", "downsample_factor")


def picture_sizes(modality: str, named: dict[str, Any], patch: Any = None) -> list[Size] | None:
    """Return the size of each picture (of each frame, where frames are told apart) of a call, or None if it is untold.

    The unit is the processor's own, patches, pixels or tokens: what is read from it are proportions. Pixels become
    patches where a patch has a known side.
    """
    table = named.get(f"{modality}_grid_thw")
    if isinstance(table, Tensor):
        return [(t, h, w) for t, h, w in table.tolist()]
    for name in TABLES[modality]:
        if (table := named.get(name)) is not None:
            side = patch if name == "image_sizes" and isinstance(patch, int) else 1
            pairs = table.tolist() if isinstance(table, Tensor) else table
            return [(1, int(h) // side, int(w) // side) for h, w in pairs]
    places = named.get(f"{modality}_position_ids")  # (..., patches, 2): column and row, -1 for padding
    if isinstance(places, Tensor):
        return [(1, h + 1, w + 1) for w, h in places.flatten(0, -3).amax(1).tolist() if h >= 0]
    return None


def tile_size(modality: str, named: dict[str, Any]) -> Size | None:
    """Return the size in pixels of every picture of a call that stacks them, or None."""
    pixels = next((named[name] for name in PIXELS[modality] if isinstance(named.get(name), Tensor)), None)
    return (1, *pixels.shape[-2:]) if pixels is not None and pixels.ndim >= 4 else None


def token_grids(sizes: list[Size], lengths: list[int], merge: int | None) -> list[tuple[int, ...] | None]:
    """Return the rectangle (t, h, w) that the tokens of each image make, or None where they make none.

    Args:
        sizes: of each picture, in any unit.
        lengths: tokens of each image; an image may be several pictures (tiles), which make no rectangle.
        merge: patches a side that become one token, for sizes of several frames.
    """
    if len(sizes) == len(lengths):
        return [_grid(size, n, merge) for size, n in zip(sizes, lengths)]
    grids = iter(scaled(sizes, sum(lengths)))
    found: list[tuple[int, ...] | None] = []
    for n in lengths:
        inside: list[Size] = []
        while sum(map(math.prod, inside)) < n:
            if not math.prod(grid := next(grids, (0, 0, 0))):
                return [None] * len(lengths)
            inside.append(grid)
        found.append(inside[0] if len(inside) == 1 and math.prod(inside[0]) == n else None)
    return found


def _grid(size: Size, n: int, merge: int | None) -> tuple[int, ...] | None:
    """One frame is scaled until it has n tokens; several become `merge` times smaller each, and may become fewer."""
    t, h, w = size
    if t > 1 and merge:
        h, w = h // merge, w // merge
        return (n // (h * w), h, w) if h * w and n % (h * w) == 0 else None
    grid = scaled([size], n)[0]
    return grid if math.prod(grid) == n else None


def merge_of(host: Host) -> int | None:
    """Return how many patches a side become one token, as the config says it."""
    for config in (host.config, getattr(host.config, "vision_config", None)):
        for name in _MERGE:
            if (value := getattr(config, name, None)) is not None:
                return int(value[0] if isinstance(value, (list, tuple)) else value)
    return None
