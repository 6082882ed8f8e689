"""Attention over vision and question keys under one softmax."""

from .arguments import FusionOutput
from .op import fusion_attention

__all__ = ["FusionOutput", "fusion_attention"]
