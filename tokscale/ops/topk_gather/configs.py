"""Sizes of the kernels of `topk_gather`: one holds a sample's scores in registers, the other copies rows."""

from __future__ import annotations


def block_and_warps(n: int) -> tuple[int, int]:
    """The power of two that holds n scores, and the warps that share them."""
    block = max(64, 1 << (n - 1).bit_length())
    return block, 4 if block <= 1024 else 8 if block <= 4096 else 16


GATHER_ROWS, GATHER_WARPS = 8, 4


def gather_block(size: int) -> int:
    """Elements of a row that are copied at a time."""
    return min(256, max(16, 1 << (size - 1).bit_length()))
