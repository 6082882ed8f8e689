"""Pixels of one image for any family: what its `get_image_features` asks for says what they look like.

A writer returns every plausible set of arguments for picture `number`, best first; `build.py` takes the first that the
model encodes. The number of placeholders is then the number of features that the model makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

GRIDS = [(6, 8), (4, 6), (8, 4)]  # patches; tokens are 2 x 2 of them


def noise(number: int, *shape: int) -> Tensor:
    """Pixels that differ from picture to picture."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 + number), dtype=torch.float64)


def first(config: Any, *names: str, default: Any = None) -> Any:
    """The first of several settings that a config has, a pair as its first member."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value[0] if isinstance(value, (list, tuple)) else value
    return default


def patch_shapes(times: int, patch: int) -> list[tuple[int, ...]]:
    """Every shape in which a tower takes one of its flattened patches, `times` frames deep."""
    return [
        (3 * times * patch * patch,),
        (3 * patch * patch,),
        (3, patch, patch),
        (times, 3, patch, patch),
        (3, times, patch, patch),
        (times * 3 * patch * patch * 4,),
    ]


def pictures(
    names: tuple[str, ...], config: Any, number: int, write: str = "", side: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Candidates for the arguments `names` of `get_image_features`, for picture `number`."""
    vision = getattr(config, "vision_config", config)
    if write:
        yield WRITERS[write](config, number)
        return
    patch, size = first(vision, "patch_size", default=8), first(vision, "image_size", default=48)
    size = side or size
    h, w = GRIDS[number % 3]
    table = next(
        (name for name in ("image_grid_thw", "image_grid_hw", "spatial_shapes", "target_sizes") if name in names), ""
    )
    if table in ("image_grid_thw", "image_grid_hw"):
        sizes = [[1, h, w]] if table.endswith("thw") else [[h, w]]
        times = first(vision, "temporal_patch_size", "patch_temporal", default=1)
        more: dict[str, Tensor] = {table: torch.tensor(sizes)}
        if "image_merge_sizes" in names:
            more["image_merge_sizes"] = torch.tensor([2])
        for shape in patch_shapes(times, patch):
            yield {"pixel_values": noise(number, h * w, *shape), **more}
        return
    if table == "spatial_shapes":
        yield {
            "pixel_values": noise(number, 1, h * w, 3 * patch * patch),
            table: torch.tensor([[h, w]]),
            "pixel_attention_mask": torch.ones(1, h * w, dtype=torch.long),
        }
    if table == "target_sizes":
        yield {"pixel_values": noise(number, 1, 3, patch, h * w * patch), table: torch.tensor([[h, w]])}
        yield {"pixel_values": noise(number, h * w, 3 * patch * patch), table: torch.tensor([[h, w]])}
    if "image_position_ids" in names:
        places = (
            torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(1, h * w, 2).flip(-1)
        )
        for width in (3 * patch * patch, 3 * (patch * first(vision, "pooling_kernel_size", default=3)) ** 2):
            yield {"pixel_values": noise(number, 1, h * w, width), "image_position_ids": places}
    if "image_sizes" in names and getattr(config, "image_grid_pinpoints", None):
        wanted, tiles = [((size, size), 2), ((2 * size, size), 3), ((size, 2 * size), 3)][number % 3]
        yield {"pixel_values": noise(number, 1, tiles, 3, size, size), "image_sizes": torch.tensor([wanted])}
    if "image_sizes" in names and "pixel_values" in names:
        yield {
            "pixel_values": noise(number, 1, 3, h * patch, w * patch),
            "image_sizes": torch.tensor([[h * patch, w * patch]]),
        }
    if "pixel_attention_mask" in names:
        yield {"pixel_values": noise(number, 1, 1, 3, size, size)}
        yield {
            "pixel_values": noise(number, 1, 1, 3, size, size),
            "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
        }
    name = next((n for n in ("pixel_values", "pixel_values_images", "flattened_patches") if n in names), "pixel_values")
    if "pixel_values_images" in names:
        name = "pixel_values_images"
    extra = {}
    if "high_res_pixel_values" in names:
        high = getattr(config, "high_res_vision_config", None)
        side = first(high, "image_size", default=size)
        extra["high_res_pixel_values"] = noise(number + 500, 1, 3, side, side)
    if "qformer_input_ids" in names:
        extra["qformer_input_ids"] = torch.tensor([[3, 4, 5 + number % 5]])
        extra["qformer_attention_mask"] = torch.ones(1, 3, dtype=torch.long)
    yield {name: noise(number, 1, 3, size, size), **extra}
    yield {name: noise(number, 1, h * w, 3 * patch * patch), **extra}
    yield {name: noise(number, 1, 1, 3, size, size), **extra}


def _molmo2(config: Any, number: int) -> dict[str, Tensor]:
    """One overview crop of 6 x 6 patches pooled by 2 x 2, no high-resolution crops."""
    vision = config.vision_config
    side = 48 // vision.patch_size
    grid = torch.arange(side * side).view(side, side)
    pooled = grid.view(side // 2, 2, side // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
    return {
        "pixel_values": noise(number, 1, side * side, 3 * vision.patch_size**2),
        "image_token_pooling": pooled,
        "image_grids": torch.tensor([[side // 2, side // 2, 0, 0]]),
        "image_num_crops": torch.tensor([1]),
    }


def _minicpm(config: Any, number: int) -> dict[str, Tensor]:
    """Twice as many patches a side: the encoder and the merger halve each side once."""
    patch = config.vision_config.patch_size
    h, w = (2 * side for side in GRIDS[number % 3])
    return {"pixel_values": noise(number, 1, 3, patch, h * w * patch), "target_sizes": torch.tensor([[h, w]])}


def _inkling2(config: Any, number: int) -> dict[str, Tensor]:
    """A picture per token, channels last; the grid counts tokens."""
    h, w = (side // 2 for side in GRIDS[number % 3])
    side = 2 * config.vision_config.patch_size
    return {"pixel_values": noise(number, h * w, side, side, 3), "image_grid_thw": torch.tensor([[1, h, w]])}


def _inkling(config: Any, number: int) -> dict[str, Tensor]:
    """A picture per token, frames first, channels last."""
    vision = config.vision_config
    h, w = (side // 2 for side in GRIDS[number % 3])
    return {"pixel_values": noise(number, h * w, vision.temporal_patch_size, vision.patch_size, vision.patch_size, 3)}


def _instructblipvideo(config: Any, number: int) -> dict[str, Tensor]:
    """Two frames, and the question as its query transformer reads it."""
    size = config.vision_config.image_size
    return {
        "pixel_values": noise(number, 1, 2, 3, size, size),
        "qformer_input_ids": torch.tensor([[3, 4, 5 + number % 5]]),
        "qformer_attention_mask": torch.ones(1, 3, dtype=torch.long),
    }


def _kosmos2_5(config: Any, number: int) -> dict[str, Tensor]:
    """Patches behind their row and column, which count from 1; filled up to as many as an image can have."""
    h, w = GRIDS[number % 3]
    places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).view(1, h * w, 2) + 1
    patches = noise(number, 1, h * w, config.vision_config.patch_embed_hidden_size)
    flat = torch.cat([places, patches], -1)
    return {"flattened_patches": torch.nn.functional.pad(flat, (0, 0, 0, 48 - h * w))}


def _mllama(config: Any, number: int) -> dict[str, Tensor]:
    """One to three tiles side by side, filled up to as many as an image can have."""
    vision, tiles = config.vision_config, (2, 1, 3)[number % 3]
    filled = (torch.arange(vision.max_num_tiles) < tiles).long()
    pixels = noise(number, 1, 1, vision.max_num_tiles, 3, vision.image_size, vision.image_size)
    return {
        "pixel_values": pixels * filled[:, None, None, None],
        "aspect_ratio_ids": torch.tensor([[vision.supported_aspect_ratios.index([1, tiles]) + 1]]),
        "aspect_ratio_mask": filled[None, None],
    }


WRITERS = {
    "inkling2": _inkling2,
    "inkling": _inkling,
    "instructblipvideo": _instructblipvideo,
    "kosmos2_5": _kosmos2_5,
    "mllama": _mllama,
    "molmo2": _molmo2,
    "minicpm": _minicpm,
}
