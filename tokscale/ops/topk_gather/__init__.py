"""Stable top-k and an order-preserving gather."""

from .op import TopKGather, topk_gather, topk_positions
from .torch_path import gather_tokens

__all__ = ["TopKGather", "gather_tokens", "topk_gather", "topk_positions"]
