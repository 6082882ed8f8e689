"""Floor 2: modules that turn (batch, vision tokens, dim) into exactly `num_tokens` tokens; one method per file.

A new method is one file with `@register_compressor(name)` and one import line here: the command line, the docs' table
and the contract tests pick it up.
"""

from __future__ import annotations

from .adaptive_pooler import AdaptivePooler
from .base import TokenCompressor
from .budgets import allocate, content_weights
from .cells import Cells, cells
from .compressed import Compressed
from .cross_attention_fuser import CrossAttentionFuser
from .divprune import DivPrune
from .random_sampler import RandomSampler
from .registry import create_compressor, list_compressors, register_compressor
from .topk_selector import TopKSelector
from .uniform_sampler import UniformSampler

__all__ = [
    "AdaptivePooler",
    "Cells",
    "Compressed",
    "CrossAttentionFuser",
    "DivPrune",
    "RandomSampler",
    "TokenCompressor",
    "TopKSelector",
    "UniformSampler",
    "allocate",
    "cells",
    "content_weights",
    "create_compressor",
    "list_compressors",
    "register_compressor",
]
