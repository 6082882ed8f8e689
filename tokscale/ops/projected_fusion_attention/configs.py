"""Tiles of the kernels of the folded path, which are bound by memory: few rows, so that many programs run."""

from __future__ import annotations

ROWS = 8  # of all heads; also how many rows one partial column sum covers
WARPS = 8


def keys_block(width: int) -> int:
    """Keys in a tile."""
    return 128 if width <= 128 else 256
