"""Tiles of the kernels of `attention_importance`: chosen ahead of time, so that a first call never searches."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Rows and keys of a tile, warps, and stages of the software pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


def row_tile(platform: str, block_d: int, rows: int) -> Tile:
    """For `row_lse`; `rows` is 16, 32 or 64, `block_d` the head size padded to a power of two."""
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4, 1)
    return Tile(rows, 64, 4, 2)


def column_tile(platform: str, block_d: int, rows: int) -> Tile:
    """For `column_sum`."""
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4, 1)
    return Tile(rows, 64, 8 if platform == "sm_80" and block_d > 64 else 4, 2)
