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
from .dpc_knn import DPCKNN
from .dpp_selector import DPPSelector
from .dycoke import DyCoke
from .evs import EVS
from .fastvid import FastVID
from .grid_resize import GridResize
from .hiprune import HiPrune
from .holov import HoloV
from .idpruner import IDPruner
from .matryoshka_pooler import MatryoshkaPooler
from .mmtok import MMTok
from .mqt import MQTResampler
from .prumerge import PruMerge
from .quecc import QueCC
from .random_sampler import RandomSampler
from .registry import create_compressor, list_compressors, register_compressor
from .scissor import Scissor
from .scope import SCOPE
from .text_rater import TextRater
from .token_packer import TokenPacker
from .tome import ToMe
from .topk_selector import TopKSelector
from .trim import TRIM
from .uniform_sampler import UniformSampler
from .vidcom2 import VidCom2
from .vision_selector import VisionSelector
from .visionzip import VisionZip
from .vispruner import VisPruner
from .vscan import VScan

__all__ = [
    "AdaptivePooler",
    "AttentionTopK",
    "CDPruner",
    "Cells",
    "Compressed",
    "CrossAttentionFuser",
    "DART",
    "DPCKNN",
    "DPPSelector",
    "DivPrune",
    "DyCoke",
    "EVS",
    "FastVID",
    "GridResize",
    "HiPrune",
    "HoloV",
    "IDPruner",
    "MMTok",
    "MQTResampler",
    "MatryoshkaPooler",
    "PruMerge",
    "QueCC",
    "RandomSampler",
    "SCOPE",
    "Scissor",
    "TRIM",
    "TextRater",
    "ToMe",
    "TokenCompressor",
    "TokenPacker",
    "TopKSelector",
    "UniformSampler",
    "VScan",
    "VidCom2",
    "VisPruner",
    "VisionSelector",
    "VisionZip",
    "allocate",
    "cells",
    "content_weights",
    "create_compressor",
    "list_compressors",
    "register_compressor",
]
