"""Floor 2: modules that turn (batch, vision tokens, dim) into exactly `num_tokens` tokens; one method per file.

A new method is one file with `@register_compressor(name)` and one import line here: the command line, the docs' table
and the contract tests pick it up.
"""

from __future__ import annotations

from .adaptive_pooler import AdaptivePooler
from .attention_topk import AttentionTopK
from .base import TokenCompressor
from .budgets import allocate, content_weights
from .cdpruner import CDPruner
from .cells import Cells, cells
from .compressed import Compressed
from .cross_attention_fuser import CrossAttentionFuser
from .dart import DART
from .divprune import DivPrune
from .dpp_selector import DPPSelector
from .dycoke import DyCoke
from .evs import EVS
from .grid_resize import GridResize
from .hiprune import HiPrune
from .holov import HoloV
from .idpruner import IDPruner
from .matryoshka_pooler import MatryoshkaPooler
from .mmtok import MMTok
from .random_sampler import RandomSampler
from .registry import create_compressor, list_compressors, register_compressor
from .scope import SCOPE
from .text_rater import TextRater
from .topk_selector import TopKSelector
from .uniform_sampler import UniformSampler
from .vidcom2 import VidCom2
from .vispruner import VisPruner

__all__ = [
    "AdaptivePooler",
    "AttentionTopK",
    "CDPruner",
    "Cells",
    "Compressed",
    "CrossAttentionFuser",
    "DART",
    "DivPrune",
    "DPPSelector",
    "DyCoke",
    "EVS",
    "GridResize",
    "HiPrune",
    "HoloV",
    "IDPruner",
    "MatryoshkaPooler",
    "MMTok",
    "RandomSampler",
    "SCOPE",
    "TextRater",
    "TokenCompressor",
    "TopKSelector",
    "UniformSampler",
    "VidCom2",
    "VisPruner",
    "allocate",
    "cells",
    "content_weights",
    "create_compressor",
    "list_compressors",
    "register_compressor",
]
