"""The settings by which image processors make fewer vision tokens: a short table of kinds, found by what they have.

`KNOBS` is read from the top and the first kind that fits turns. Each kind is one rule: the largest setting of its own
that makes at most k tokens of a picture, whatever its size (kind `pixels` says which pictures that are).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import BudgetError, UnsupportedModelError
from .count import by_running
from .turned import image_processor_of, turned

Keywords = dict[str, Any]
SOFT_TOKENS = (70, 140, 280, 560, 1120)  # the poolings that Gemma 4 was trained at; its processor takes no others


class Knob(NamedTuple):
    """A kind of image processor: how it is recognised, and its keywords for at most k tokens per picture."""

    has: Callable[[Any, Any], bool]  # of the processor and its image processor
    turn: Callable[[Any, Any, int], Keywords]


def _pooled(processor: Any, images: Any, k: int) -> Keywords:
    """Gemma 4: pooled to one of five numbers of tokens."""
    fitting = [n for n in SOFT_TOKENS if n <= k]
    if not fitting:
        raise _least(processor, k, SOFT_TOKENS[0], f"it pools to at most one of {', '.join(map(str, SOFT_TOKENS))}")
    return {"max_soft_tokens": fitting[-1]}


def _pixels(processor: Any, images: Any, k: int) -> Keywords:
    """Qwen2-VL and its kin: sides rounded to multiples of u = patch x merge, area within [shortest, longest].

    One token is u x u pixels. A picture that must shrink gets floor(sqrt(k/r)) x floor(sqrt(k r)) tokens at aspect
    ratio r, at most k while r <= k; one that must grow rounds up, at most to four times its area: hence the quarter.
    """
    token = (images.patch_size * images.merge_size) ** 2 * _frames(images)
    return {"size": {"shortest_edge": min(images.size["shortest_edge"], k * token // 4), "longest_edge": k * token}}


def _frames(images: Any) -> int:
    """Return by what a picture's pixels are multiplied before they are compared (GLM counts it as a clip of 2)."""
    patches, frames = getattr(images, "get_number_of_image_patches", None), getattr(images, "temporal_patch_size", 1)
    if patches is None:
        return 1
    unit = images.patch_size * images.merge_size
    size = {"shortest_edge": unit**2, "longest_edge": 100 * unit**2 * frames}
    found = patches(40 * unit, 40 * unit, {"size": size})
    if not isinstance(found, int):
        raise UnsupportedModelError(
            f"{type(images).__name__} describes the patches of a picture by {type(found).__name__} and no number: how "
            "many tokens they become is not known. Compress them with tokscale.patch"
        )
    return frames if found <= 100 * images.merge_size**2 else 1


def _pinpoints(processor: Any, images: Any, k: int) -> Keywords:
    """LLaVA-NeXT, LLaVA-OneVision: the resolutions that make at most k tokens of picture, tiles and newlines."""
    side = _side(images)
    across = getattr(processor, "num_image_tokens", None)
    base = across or (side // processor.patch_size) ** 2 + processor.num_additional_image_tokens
    across = math.isqrt(across) if across else side // processor.patch_size
    base -= processor.vision_feature_select_strategy == "default"
    limit = str(getattr(processor, "vision_aspect_ratio", "")).rpartition("anyres_max_")[2]

    def most(height: int, width: int) -> int:
        rows, columns = across * (height // side), across * (width // side)
        tiles = rows * columns
        if limit.isdigit():  # shrunk to this many tiles, once it is 1.1 times beyond in each direction
            tiles = min(tiles, int(1.21 * int(limit) * across**2))
        return base + tiles + rows

    known = [list(pair) for pair in images.image_grid_pinpoints]
    fitting = [pair for pair in known if most(*pair) <= k]
    least = most(side, side)
    with turned(processor, {"image_grid_pinpoints": [[side, side]]}):
        found = by_running(processor, (side, side))
    if found != least:
        raise UnsupportedModelError(
            f"{type(processor).__name__} makes {found} vision tokens of a picture of one tile, where picture, tile and "
            f"newlines are {least}: its other counts are not known. Compress them with tokscale.patch"
        )
    if not fitting and least > k:
        raise _least(
            processor, k, least, f"the picture of {base} tokens, one tile of {across**2} and {across} newlines"
        )
    return {"image_grid_pinpoints": fitting or [[side, side]]}


def _tiles(processor: Any, images: Any, k: int) -> Keywords:
    """InternVL, Aya Vision, Command A Vision: m tiles, and a thumbnail if they are several."""
    side = _side(images)
    one = _one_tile(processor, images, side, {"min_patches": 1, "max_patches": 1})
    if one > k:
        raise _least(processor, k, one, "one tile")
    own = getattr(processor, "images_kwargs", {})  # go before the image processor's
    fewest, most = (own.get(name, getattr(images, name)) for name in ("min_patches", "max_patches"))
    most = max(1, min(most, k // one - 1))
    return {"min_patches": min(fewest, most), "max_patches": most}


def _splits(processor: Any, images: Any, k: int) -> Keywords:
    """Idefics3, SmolVLM: c x c tiles at most, and the whole picture beside them if they are several."""
    side = images.max_image_size["longest_edge"]
    one = _one_tile(processor, images, side, {"size": {"longest_edge": side - side % 2}})
    if one > k:
        raise _least(processor, k, one, "one tile, the whole picture")
    across = math.isqrt(k // one - 1) if k // one > 4 else 1
    edge = min(across * side, images.size["longest_edge"])
    return {"size": {"longest_edge": edge - edge % 2}}  # an odd shorter side is rounded up, into one more row of tiles


def _capped(processor: Any, images: Any, k: int) -> Keywords:
    """LFM2-VL: a cap on the tokens of an unsplit picture, which is also the thumbnail beside 2 or more tiles."""
    cap, fewest = images.max_image_tokens, getattr(images, "min_tiles", 1)
    if images.do_image_splitting:
        per_tile = math.ceil(images.tile_size // images.encoder_patch_size / images.downsample_factor) ** 2
        tiles = min(images.max_tiles, (k - cap) // per_tile)
        if tiles >= fewest:
            return {"do_image_splitting": True, "max_tiles": tiles}
    cap = min(cap, k)
    return {
        "do_image_splitting": False,
        "max_image_tokens": cap,
        "min_image_tokens": min(images.min_image_tokens, max(1, cap // 4)),
    }


def _edge(processor: Any, images: Any, k: int) -> Keywords:
    """Pixtral, Mistral 3: the longer side; a square picture of a x a patches has the most tokens."""
    unit = processor.patch_size * processor.spatial_merge_size
    return {"size": {"longest_edge": min(math.isqrt(k) * unit, images.size["longest_edge"])}}


def _keys(value: Any) -> set[str]:
    """Return the sides that a size fixes."""
    read = value.get if isinstance(value, Mapping) else lambda name: getattr(value, name, None)
    return {name for name in ("shortest_edge", "longest_edge", "height", "width") if read(name) is not None}


def _has(*names: str) -> Callable[[Any, Any], bool]:
    return lambda processor, images: all(getattr(images, name, None) is not None for name in names)


def _is_pixels(processor: Any, images: Any) -> bool:
    numbers = all(isinstance(getattr(images, name, None), int) for name in ("patch_size", "merge_size"))
    return numbers and {"shortest_edge", "longest_edge"} <= _keys(getattr(images, "size", None))


def _is_edge(processor: Any, images: Any) -> bool:
    numbers = all(isinstance(getattr(processor, name, None), int) for name in ("patch_size", "spatial_merge_size"))
    return numbers and _keys(getattr(images, "size", None)) == {"longest_edge"}


def _is_pinpoints(processor: Any, images: Any) -> bool:
    counts = hasattr(processor, "num_image_tokens") or hasattr(processor, "num_additional_image_tokens")
    return counts and bool(getattr(images, "image_grid_pinpoints", None))


KNOBS: dict[str, Knob] = {
    "pooled": Knob(_has("max_soft_tokens"), _pooled),
    "pixels": Knob(_is_pixels, _pixels),
    "pinpoints": Knob(_is_pinpoints, _pinpoints),
    "tiles": Knob(_has("max_patches", "min_patches", "crop_to_patches"), _tiles),
    "splits": Knob(_has("max_image_size", "do_image_splitting"), _splits),
    "capped": Knob(_has("max_image_tokens", "min_image_tokens", "tile_size", "encoder_patch_size"), _capped),
    "edge": Knob(_is_edge, _edge),
}


def knob_of(processor: Any) -> Knob | None:
    """Return the first kind that a processor is of, or None."""
    images = image_processor_of(processor)
    return next((knob for knob in KNOBS.values() if knob.has(processor, images)), None)


def _side(images: Any) -> int:
    """Return the side of a tile in pixels."""
    for size in (getattr(images, "crop_size", None) or {}, images.size):
        for name in ("height", "shortest_edge"):
            if name in _keys(size):
                return int(size[name])
    raise UnsupportedModelError(f"{type(images).__name__} has tiles of no known size: its size is {images.size!r}")


def _one_tile(processor: Any, images: Any, side: int, keywords: Keywords) -> int:
    """Return the tokens of a picture of one tile, or raise where tiles are switched off and a knob would do nothing."""
    with turned(processor, keywords):
        one = by_running(processor, (side, side))
    if by_running(processor, (4 * side, 2 * side)) == one:
        raise UnsupportedModelError(
            f"{type(processor).__name__} makes {one} vision tokens of every picture, because it cuts none into tiles: "
            "resizing changes no count. Compress them with tokscale.patch"
        )
    return one


def _least(processor: Any, k: int, least: int, why: str) -> BudgetError:
    return BudgetError(
        f"num_tokens={k} is below {least}, the least that {type(processor).__name__} can be told to make of a picture "
        f"({why}). Use num_tokens >= {least}, or compress with tokscale.patch, which reaches any budget"
    )
