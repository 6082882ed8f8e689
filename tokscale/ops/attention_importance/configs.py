"""Tiles of the kernels of `attention_importance`: chosen ahead of time, so that a first call never searches."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Rows and keys of a tile, warps, and stages of the software pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


def tile(platform: str, block_d: int, rows: int) -> Tile:
    """For rows blocks of `rows` (16, 32 or 64) and head sizes padded to `block_d`."""
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4, 1)
    return Tile(rows, 64, 4, 2)
