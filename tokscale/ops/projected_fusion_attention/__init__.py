"""Attention over raw vision tokens and a projected question; the K/V projection is folded in where that is cheaper."""

from .op import projected_fusion_attention

__all__ = ["projected_fusion_attention"]
