"""Encoding, and the features of a call cut into images: what the front door knows before the compressor is asked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import TileWarning, UnsupportedInputError
from . import families, videos
from .compress import Budgets
from .features import field_of, flatten
from .host import PIXELS, Host
from .images import Image, cut, join_runs, presized, runs_of
from .patches import scaled
from .shapes import merge_of, picture_sizes, tile_size, token_grids

if TYPE_CHECKING:
    from .handle import PatchHandle

Grid = tuple[int, ...] | None


@dataclass
class Modality:
    """The images (or videos) of one call: features, cut into images."""

    name: str
    mask: Tensor  # (B, S) bool, placeholders
    output: Any
    flat: Tensor  # (N, d)
    entries: list[int]
    images: list[Image]
    grids: list[Grid]
    widths: list[int]  # placeholders of each image: n, or k where the prompt was shortened before
    presized: bool = False


def encode(host: Host, modality: str, named: dict[str, Any]) -> Any:
    """Return the encoder output of one modality, by the model's own method and the call's arguments."""
    method = host.features[modality]
    keywords = {name: named[name] for name in method.names if named.get(name) is not None}
    for name in method.required:
        if name in PIXELS[modality] and name not in keywords:  # forward may have another name for its pixels
            keywords[name] = next(named[p] for p in PIXELS[modality] if named.get(p) is not None)
        if name not in keywords:
            for part in (host.config, getattr(host.config, "vision_config", None)):
                if getattr(part, name, None) is not None:
                    keywords[name] = getattr(part, name)
                    break
    if method.pixels is not None:
        keywords[method.pixels[1]] = keywords.pop(method.pixels[0])
    return method.call(**keywords, return_dict=True)


def cut_modality(
    handle: PatchHandle,
    modality: str,
    named: dict[str, Any],
    output: Any,
    mask: Tensor,
    rows: list[int],
    budgets: Budgets,
    first: int,
) -> Modality:
    """Return the features of one modality cut into images, after checking that they match the placeholders.

    Args:
        handle: the patch.
        modality, named, output: "image" or "video", the call's arguments, the encoder output.
        mask, rows: the placeholders (B, S), and how many each row has.
        budgets, first: what tells whether the prompt was shortened before, and the number of the first image.
    """
    host = handle._host
    value = getattr(output, field_of(output))
    flat, entries = flatten(value)
    by_entry = entries_are_images(host, modality, value, named)
    if len(flat) != sum(rows):
        found = None
        units = videos.units(host, handle._unit, named, entries, mask) if modality == "video" else []
        if budgets.allocate is None:  # shares depend on all images of a row, which a short prompt no longer shows
            lengths = [unit.n for unit in units] or entries
            found = presized(
                lengths, rows, runs_of(mask), by_entry, lambda i, n: budgets.length(n, budgets.of(first + i, n, None))
            )
        if found is None:
            raise UnsupportedInputError(
                f"input_ids hold {sum(rows)} {modality} placeholders, the model made {len(flat)} {modality} features. "
                "Were placeholders truncated, or generated in an earlier turn?"
            )
        if host.rope is not None and named.get("position_ids") is None:
            raise UnsupportedInputError(
                f"the prompt already holds k placeholders per {modality}: {host.model_type} then needs position_ids"
            )
        images = [image for image, _ in found]
        shapes = videos.grids(host, handle._unit, named, units) if units else grids(host, modality, named, images)
        return Modality(modality, mask, output, flat, entries, images, shapes, [k for _, k in found], True)
    images, shapes = cut_entries(handle, modality, named, entries, by_entry, mask, rows)
    return Modality(modality, mask, output, flat, entries, images, shapes, [image.n for image in images])


def cut_entries(
    handle: PatchHandle,
    modality: str,
    named: dict[str, Any],
    entries: list[int],
    by_entry: bool,
    mask: Tensor,
    rows: list[int],
) -> tuple[list[Image], list[Grid]]:
    """Return the images of features that are as many as the placeholders, and their grids."""
    host, tiles = handle._host, handle._unit == "tile"
    groups = None
    if not by_entry and not (tiles and host.model_type in families.TILE_ENTRIES):
        runs = runs_of(mask)
        groups = [[run] for run in runs]
        if handle._join is not None and not tiles:
            groups = join_runs(runs, named["input_ids"].tolist(), handle._join)
        elif not tiles and families.has_markers(host.model_type) and len({run.row for run in runs}) < len(runs):
            _warn_once(handle)
    if modality == "video" and (groups is None or named.get("video_grid_thw") is not None):
        units = videos.units(host, handle._unit, named, entries, mask)
        return cut([unit.n for unit in units], rows, None), videos.grids(host, handle._unit, named, units)
    images = cut(entries, rows, groups)
    return images, grids(host, modality, named, images)


def entries_are_images(host: Host, modality: str, value: Any, named: dict[str, Any]) -> bool:
    if isinstance(value, Tensor) and (value.ndim == 2 or value.shape[-2] == 1):  # an entry per token is no image
        return False
    table = named.get(f"{modality}_grid_thw")
    if isinstance(table, Tensor) and isinstance(value, Tensor) and len(value) < len(table):  # (1, N, d): all of them
        return False
    return modality == "video" or host.model_type not in families.CUT_AT_RUNS


def _warn_once(handle: PatchHandle) -> None:
    if not handle._warned:
        handle._warned = True
        warnings.warn(
            f"{handle._host.model_type} writes marker tokens between the tiles of one image: without processor= each "
            'run of placeholders counts as an image. Pass processor=, or unit="tile" if that is what you want',
            TileWarning,
            stacklevel=2,
        )


def grids(host: Host, modality: str, named: dict[str, Any], images: list[Image]) -> list[Grid]:
    """Return the token grid of each image, (h, w) or (t, h, w), or None where its tokens are no rectangle."""
    if host.model_type in families.NO_GRID or modality == "video":
        return [None] * len(images)
    patch = getattr(getattr(host.config, "vision_config", None), "patch_size", None)
    sizes = picture_sizes(modality, named, patch)
    if sizes is not None:
        found = token_grids(sizes, [image.n for image in images], merge_of(host))
        return [grid[1:] if grid and grid[0] == 1 else grid for grid in found]
    tile = tile_size(modality, named) or (1, 1, 1)
    alone = [image.n if image.tile else 0 for image in images]
    return [grid[1:] if n and (grid := scaled([tile], n)[0])[0] else None for n in alone]
