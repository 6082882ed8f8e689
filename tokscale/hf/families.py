"""Exceptions and refusals, each with its reason. Everything else works for any model by the same code.

A model that is not named here has an image per entry of its feature container, no marker tokens inside an image, and no
importance map.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_PREFIX = (
    "the image is a prefix without placeholder tokens, so there is no prompt to shorten; use a model with placeholders"
)
_DECODER = (
    "its decoder reads what an encoder made of the image, and its prompt holds no image, so there is nothing in it to "
    "shorten; use a model with placeholders"
)
_ONE = "image and text are one encoder sequence; there are no vision tokens to compress"

REFUSED = {  # model type -> why
    "git": _PREFIX,
    "blip": _DECODER.replace("a model with placeholders", "blip-2"),
    "pi0": _PREFIX,
    "idefics": "its layers read all image states anew at every step, which patch() cannot shorten; use idefics3",
    "pix2struct": _ONE,
    "udop": _ONE,
    "pp_formulanet": _DECODER,
    "vision-encoder-decoder": _DECODER,
    "evolla": "it reads proteins, not images; there are no vision tokens to compress",
    "mistral4": "it reads text only; patch() needs an image-text model",
}

# The entry of the container is a tile, or holds all images of a row: images are cut at runs of placeholders.
TILE_ENTRIES = frozenset(
    {"internvl", "qianfan_ocr", "got_ocr2", "aya_vision", "cohere2_vision", "llama4", "lfm2_vl"}
    | {"minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "ovis2", "aria", "perception_lm"}
)
ROW_ENTRIES = frozenset({"idefics2", "idefics3", "smolvlm", "granite_docling"})
CUT_AT_RUNS = TILE_ENTRIES | ROW_ENTRIES

FRAME_ENTRIES = frozenset(  # the entry of a video's container is a frame or a chunk of it, not the video
    {"video_llava", "perception_lm", "kimi_k25", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr"}
)
VIDEO_AT_RUNS = frozenset({"video_llava", "perception_lm"})  # of these, a video is one run of placeholders
VIDEO_NEWLINE = frozenset({"llava_onevision"})  # one feature more behind the last frame

NO_POSITIONS = frozenset({"blip-2", "instructblip"}) | {  # their forward passes no position ids
    "exaone4_5",  # its generate passes none
    "hyperclovax_vision_v2",
    "kosmos-2",
    "kosmos-2.5",
    "diffusion_gemma",
}
FORGETS_DELTA = frozenset({"hunyuan_vl"})  # forward with a cache counts columns and leaves its rope_deltas out
LEARNED = frozenset(  # tokens that are learned queries
    {"blip-2", "instructblip", "instructblipvideo", "aria", "idefics2", "deepseek_ocr2", "kosmos-2", "kosmos-2.5"}
)
NO_GRID = LEARNED | frozenset(
    {"llava_next", "llava_onevision", "llava_next_video", "granite4_vision", "hunyuan_vl", "hy_v4_vl"}  # newlines
    | {"unlimited_ocr", "emu3"}  # newlines
    | {"molmo2", "florence2"}  # an overview, and more of the same picture
    | {"fuyu"}  # its pictures have any shape, and no argument says which
)


@dataclass(frozen=True)
class Join:
    """Marker ids: `last` precedes an image's last tile and `first` its first, `ends` closes an image, `markers` may
    stand between tiles."""

    last: frozenset[int]
    ends: frozenset[int]
    markers: frozenset[int]
    first: frozenset[int] = frozenset()


_FAKE = (r"<global-img>", None, r"<fake_token_around_image>|<row_\d+_col_\d+>", r"<row_1_col_1>")
_SLICES = (None, None, r"{image_end_token}|{slice_start_token}|{slice_end_token}")
_JOINS: dict[str, tuple[str | None, ...]] = {  # model type -> `last`, `ends`, `markers`, `first`
    "idefics3": _FAKE,
    "smolvlm": _FAKE,
    "granite_docling": _FAKE,
    "aya_vision": (None, r"<\|END_OF_IMG\|>", r"TILE_\d+|TILE_GLOBAL|<TILE_\d+>|<TILE_GLOBAL>"),
    "cohere2_vision": (None, r"<\|END_OF_IMG\|>", r"<\|IMG_LINE_BREAK\|>"),
    "llama4": (None, r"<\|image_end\|>", r"<\|image\|>|<\|tile_x_separator\|>|<\|tile_y_separator\|>"),
    "lfm2_vl": (None, r"<\|image_end\|>", r"<\|img_row_\d+_col_\d+\|>|<\|img_thumbnail\|>"),
    "ovis2": (None, r"<IMG_END>", r"<IMG_GRID>|<IMG_COL>|<IMG_ROW>"),
    "minicpmv4_6": _SLICES,
    "minicpmv4_7": _SLICES,
    "minicpm_ocr": _SLICES,
}
_BLANKS = str.maketrans({"Ċ": "\n", "Ġ": " ", "▁": " ", "ĉ": "\t"})  # how byte-level vocabularies write white space


def has_markers(model_type: str) -> bool:
    """Return whether the processor of this family writes tokens between the tiles of one image."""
    return model_type in _JOINS


def join_of(model_type: str, processor: Any) -> Join | None:
    """Return the marker ids of a family from its processor, or None for a family without markers."""
    if model_type not in _JOINS or processor is None:
        return None
    tokenizer = getattr(processor, "tokenizer", processor)

    def named(match: re.Match[str]) -> str:  # {image_end_token}: as the processor calls it
        return re.escape(str(getattr(processor, match[1], None) or getattr(tokenizer, match[1], "")))

    patterns = [pattern and re.compile(re.sub(r"\{(\w+)\}", named, pattern)) for pattern in _JOINS[model_type]]
    found: list[set[int]] = [set() for _ in patterns]
    for token, index in tokenizer.get_vocab().items():
        for pattern, ids in zip(patterns, found):
            if pattern and pattern.fullmatch(token):
                ids.add(index)
        if not token.translate(_BLANKS).strip() and "\n" in token.translate(_BLANKS):
            found[2].add(index)
    found[2].update(found[0], *found[3:])
    return Join(*map(frozenset, found))


# How patches become tokens (`patches.to_tokens`). tests/hf/test_maps.py differentiates the features of every row.
_CONSECUTIVE = (
    "qwen2_vl qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe qwen3_omni_moe_thinker qwen4_exp glm4v glm4v_moe glm46v "
    "glm_ocr glmga glm5_next video_llama_3 ernie4_5_vl_moe cosmos3_omni cosmos3_edge cohere_compass dots3_note lfm3_vl "
    "minimax_m3_vl inkling2 inkling2_loop"
)
_RASTER = (
    "mistral3 mistral_large4 lighton_ocr lfm2_vl kimi_k25 gemma4 diffusion_gemma minicpmv4_6 minicpmv4_7 minicpm_ocr "
    "paddleocr_vl muse_glimmer muse_spark nemotron_h_omni internvl qianfan_ocr llama4 gemma3 shieldgemma2 t5gemma2 "
    "idefics3 smolvlm granite_docling cohere2_vision aya_vision"
)
_SAME = "llava vipllava video_llava paligemma ovis2 deepseek_vl deepseek_vl_hybrid janus"
_KINDS = {
    "consecutive": _CONSECUTIVE,
    "window": "qwen2_5_vl qwen2_5_omni_thinker exaone4_5 hyperclovax_vision_v2",
    "raster": _RASTER,
    "same": _SAME,
    "pooled": "molmo2",
}
IMPORTANCE = {model_type: kind for kind, names in _KINDS.items() for model_type in names.split()}
CLS_LAST = frozenset({"llama4"})  # [CLS] stands behind the patches

_NEWLINES = "newline features between the rows"
_UNPADDED = "padding cut off, newline features"
_VQ = "its tokens come from a tokenizer of pictures made of convolutions"
_TIMM = "its tower is a timm model, which does not use the attention interface"
_OWN = "its encoder does not use the attention interface"
_NONE = "it has no tower, pixels go straight into the language model"

NO_IMPORTANCE = {  # model type -> why
    "llava_next": _UNPADDED,
    "llava_onevision": _UNPADDED,
    "llava_next_video": _UNPADDED,
    "hunyuan_vl": _NEWLINES,
    "hy_v4_vl": _NEWLINES,
    "unlimited_ocr": f"{_NEWLINES}, from two encoders one after the other",
    **dict.fromkeys(sorted(LEARNED | {"granite4_vision"}), "its tokens are learned queries"),
    "mllama": "its tokens join several layers of the tower",
    "got_ocr2": _OWN,
    "pp_chart2table": _OWN,
    "florence2": "its encoder attends within windows and over channels",
    "inkling_mm_model": "its encoder has no attention",
    "step3p7": "each is made by convolutions from patches that others are made from too",
    "fast_vlm": _TIMM,
    "gemma3n": _TIMM,
    "perception_lm": _TIMM,
    "chameleon": _VQ,
    "emu3": _VQ,
    "apertus1p5": _VQ,
    "fuyu": _NONE,
    "gemma4_unified": _NONE,
}
