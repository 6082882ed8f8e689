"""Sizes of the kernels of `greedy_select`, which hold one sample's state in registers."""

from __future__ import annotations


def block_and_warps(n: int) -> tuple[int, int]:
    """The power of two that holds n tokens, and the warps that share them."""
    block = max(64, 1 << (n - 1).bit_length())
    return block, 4 if block <= 1024 else 8 if block <= 2048 else 16


def factor_rows(n: int) -> int:
    """Rows of the DPP's factor read together: more would spill."""
    return 16 if n <= 1024 else 4
