"""Tiles of the backward kernels: chosen ahead of time, so that a first call never searches."""

from __future__ import annotations

from ..attention_importance.configs import Tile, fp32_tile


def query_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `received_sum` and `query_gradient`."""
    if size > 2:
        return fp32_tile(platform)
    if block_d > 128:
        if platform == "hip":
            return Tile(min(rows, 32), 32, 4, 1)
        return Tile(min(rows, 32), 32 if rows <= 16 else 16, 8, 1)
    rows = min(rows, 64)
    if platform == "hip":
        return Tile(min(rows, 32), 64, 4, 1) if block_d > 64 else Tile(rows, 32, 4, 2)
    if platform == "sm_90":
        return Tile(rows, 64, 4, 3)
    warps = 8 if rows > (16 if block_d > 64 else 32) else 4
    return Tile(rows, 32 if block_d > 64 or rows > 32 else 64, warps, 2)  # mma.sync holds both operands in registers


def key_tile(platform: str, block_d: int, rows: int, size: int = 2) -> Tile:
    """For `key_gradient`: two accumulators of the keys' height leave room for few rows."""
    if size > 2:
        return Tile(16, 16, 4, 1) if block_d <= 128 else fp32_tile(platform)  # 8 warps have too few registers each
    if block_d > 128:
        return Tile(16, 32, 4 if platform == "hip" else 8, 1)
    if platform == "sm_90" and block_d > 64:
        return Tile(min(rows, 32), 32, 4, 1)  # larger ones spill; 64 x 64 was faster all the same, before one loop
    if platform == "sm_90":
        return Tile(64 if rows > 64 else min(rows, 32), 64, 4, 1)
    if block_d > 64:
        return Tile(16, 32, 4, 1) if platform == "sm_80" else Tile(16, 64, 8, 1)
    return Tile(min(rows, 32), 64, 4, 1)
