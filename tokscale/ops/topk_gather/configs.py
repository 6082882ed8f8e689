"""Size of the kernel of `topk_gather`, which holds one sample's scores in registers."""

from __future__ import annotations


def block_and_warps(n: int) -> tuple[int, int]:
    """The power of two that holds n scores, and the warps that share them."""
    block = max(64, 1 << (n - 1).bit_length())
    return block, 4 if block <= 1024 else 8 if block <= 4096 else 16
