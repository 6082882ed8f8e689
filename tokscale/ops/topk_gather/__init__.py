"""Stable top-k and an order-preserving gather."""

from .op import TopKGather, topk_gather

__all__ = ["TopKGather", "topk_gather"]
