"""Tiles of the kernels of `fusion_attention`: chosen ahead of time, so that a first call never searches."""

from __future__ import annotations

from ..attention_importance.configs import Tile, fp32_tile


def forward_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `forward`."""
    if size > 2:
        return fp32_tile(platform)
    if block_d > 128:
        return Tile(min(rows, 32), 32, 4 if platform == "hip" else 8, 1)
    if platform == "hip" and block_d > 64:
        return Tile(min(rows, 32), 64, 4, 1)
    rows = min(rows, 64)
    if platform == "sm_90" and (rows == 64 or block_d <= 64):
        return Tile(rows, 64, 4, 3)
    return Tile(rows, 64, 8 if block_d > 64 and rows > 16 else 4, 3 if rows < 64 and block_d <= 64 else 2)


def combine_rows(numbers: int) -> int:
    """For `combine`: rows of a program, each of so many numbers; a power of two."""
    return max(1, 4096 // numbers)


def bias_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `bias_gradient`."""
    if size > 2:
        return fp32_tile(platform)
    return Tile(min(rows, 32), 32 if block_d > 128 else 64, 4, 1)
