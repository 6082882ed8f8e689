"""Tiles of the kernels of `attention_importance`: chosen ahead of time, so that a first call never searches."""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Rows and keys of a tile, warps, and stages of the software pipeline."""

    rows: int
    keys: int
    warps: int
    stages: int


def fp32_tile(platform: str) -> Tile:
    """For every attention kernel: products that stay fp32 use no tensor cores, and hold their tiles in registers."""
    return Tile(16, 16, 4 if platform == "hip" else 8, 1)


def row_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `row_lse`; `rows` as of `row_block`, `block_d` the head size padded to a power of two, `size` bytes each."""
    if size > 2:
        return fp32_tile(platform)
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4, 1)
    if platform == "sm_90":
        return Tile(rows, 64, 4, 2) if rows > 64 and block_d > 64 else Tile(min(rows, 64), 64, 4, 3)
    return Tile(min(rows, 64), 64, 4, 2)


def column_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `column_sum`."""
    if size > 2:
        return fp32_tile(platform)
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4, 1)
    rows = min(rows, 64)
    if platform == "hip":
        return Tile(rows, 64, 4, 2)
    if block_d <= 64:
        return Tile(rows, 64, 4, 3)
    return Tile(rows, 128, 4, 2) if platform == "sm_90" else Tile(rows, 64, 8, 2)


def segment_tile(platform: str, block_d: int, longest: int, size: int) -> Tile | None:
    """For `column_sum_tile`, whose tile holds a whole segment; None where one does not fit, as none in fp32 does."""
    block = 16 if longest <= 16 else 32 if longest <= 32 else 64 if longest <= 64 else 128
    if longest > 128 or size > 2 or block * block_d > 128 * 128:
        return None
    return Tile(block, block, 8 if block == 128 else 4, 1)
