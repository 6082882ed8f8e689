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
_CROSS = "the image is read by cross-attention, so there is no prompt to shorten; use a model with placeholders"
_ONE = "image and text are one encoder sequence; there are no vision tokens to compress"
_MASK = "placeholders are given by image_embeds_position_mask, which patch() does not read yet"

REFUSED = {  # model type -> why
    "git": _PREFIX,
    "blip": _CROSS,
    "pi0": _PREFIX,
    "instructblipvideo": "its generate reads the video in a way of its own, which patch() does not know yet",
    "kosmos-2": _MASK,
    "kosmos-2.5": _MASK,
    "idefics": _CROSS,
    "mllama": "the image is read by cross-attention, which patch() does not shorten yet; use a model with placeholders",
    "pix2struct": _ONE,
    "udop": _ONE,
    "pp_formulanet": _ONE,
    "vision-encoder-decoder": "the decoder reads the image by cross-attention; there are no vision tokens to compress",
    "evolla": "it reads proteins, not images; there are no vision tokens to compress",
    "mistral4": "it reads text only; patch() needs an image-text model",
    "diffusion_gemma": "it does not decode from left to right, and patch() does not know its generate yet",
}

# The entry of the container is a tile, or holds all images of a row: images are cut at runs of placeholders.
TILE_ENTRIES = frozenset(
    {"internvl", "qianfan_ocr", "got_ocr2", "aya_vision", "cohere2_vision", "llama4", "lfm2_vl"}
    | {"minicpmv4_6", "minicpmv4_7", "minicpm_ocr"}
)
ROW_ENTRIES = frozenset({"idefics2", "idefics3", "smolvlm", "granite_docling"})
CUT_AT_RUNS = TILE_ENTRIES | ROW_ENTRIES

NO_VIDEO = {  # model type -> why a video cannot be shortened
    "glm4v": "its video path rewrites placeholders between video markers",
    "glm4v_moe": "its video path rewrites placeholders between video markers",
    "glm46v": "its video path rewrites placeholders between video markers",
    "glm_ocr": "its video path rewrites placeholders between video markers",
    "video_llama_3": "it takes a mask of compressed video tokens of its own",
}
VIDEO_AT_RUNS = frozenset({"video_llava"})  # entries are frames of a video

NO_POSITIONS = frozenset({"blip-2", "instructblip"}) | {  # their forward passes no position ids
    "exaone4_5",  # its generate passes none
    "hyperclovax_vision_v2",
}
FORGETS_DELTA = frozenset({"hunyuan_vl"})  # forward with a cache counts columns and leaves its rope_deltas out
NO_GRID = frozenset(  # newline features: no rectangle
    {"llava_next", "llava_onevision", "llava_next_video", "granite4_vision"}
)


@dataclass(frozen=True)
class Join:
    """Marker ids: `last` precedes an image's last tile, `ends` closes an image, `markers` may stand between tiles."""

    last: frozenset[int]
    ends: frozenset[int]
    markers: frozenset[int]


_JOINS = {  # model type -> token that precedes the last tile, token that closes an image, tokens between tiles
    "idefics3": (r"<global-img>", None, r"<fake_token_around_image>|<row_\d+_col_\d+>"),
    "smolvlm": (r"<global-img>", None, r"<fake_token_around_image>|<row_\d+_col_\d+>"),
    "granite_docling": (r"<global-img>", None, r"<fake_token_around_image>|<row_\d+_col_\d+>"),
    "aya_vision": (None, r"<\|END_OF_IMG\|>", r"<\|START_OF_IMG\|>|TILE_\d+|TILE_GLOBAL|<TILE_\d+>|<TILE_GLOBAL>"),
    "cohere2_vision": (None, r"<\|END_OF_IMG\|>", r"<\|IMG_LINE_BREAK\|>"),
    "llama4": (None, r"<\|image_end\|>", r"<\|image\|>|<\|tile_x_separator\|>|<\|tile_y_separator\|>"),
    "lfm2_vl": (None, r"<\|image_end\|>", r"<\|img_row_\d+_col_\d+\|>|<\|img_thumbnail\|>"),
}
_BLANKS = str.maketrans({"Ċ": "\n", "Ġ": " ", "▁": " ", "ĉ": "\t"})  # how byte-level vocabularies write white space


def has_markers(model_type: str) -> bool:
    """Return whether the processor of this family writes tokens between the tiles of one image."""
    return model_type in _JOINS


def join_of(model_type: str, processor: Any) -> Join | None:
    """Return the marker ids of a family from its processor, or None for a family without markers."""
    if model_type not in _JOINS or processor is None:
        return None
    last, ends, markers = (re.compile(pattern) if pattern else None for pattern in _JOINS[model_type])
    tokenizer = getattr(processor, "tokenizer", processor)
    found: tuple[set[int], set[int], set[int]] = (set(), set(), set())
    for token, index in tokenizer.get_vocab().items():
        for pattern, ids in zip((last, ends, markers), found):
            if pattern is not None and pattern.fullmatch(token):
                ids.add(index)
        if not token.translate(_BLANKS).strip() and "\n" in token.translate(_BLANKS):
            found[2].add(index)
    found[2].update(found[0])
    return Join(*(frozenset(ids) for ids in found))


# How patches become tokens (`patches.token_importance`); families that are not named have no map.
IMPORTANCE = {
    "llava": "same",
    "vipllava": "same",
    "qwen2_vl": "consecutive",
    "qwen3_vl": "consecutive",
    "qwen2_5_vl": "window",
    "internvl": "raster",
    "gemma3": "raster",
    "idefics3": "raster",
    "smolvlm": "raster",
}

NO_IMPORTANCE = {  # model type -> why
    "llava_next": "padding cut off, newline features",
    "llava_onevision": "padding cut off, newline features",
    "llava_next_video": "padding cut off, newline features",
    "blip-2": "its tokens are learned queries",
    "instructblip": "its tokens are learned queries",
    "aria": "its tokens are learned queries",
    "got_ocr2": "its encoder does not use the attention interface",
}
