"""Videos: where their placeholders stand, which features are one video or one temporal group, and their grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import UnsupportedInputError
from . import families
from .features import clone, field_of, flatten, refill
from .host import Host
from .images import runs_of
from .patches import scaled
from .shapes import picture_sizes, tile_size

if TYPE_CHECKING:
    from .attention import Encoded

MASK = "video_compression_mask"  # of features that the model itself drops before it places them (video_llama_3)
Grid = tuple[int, ...] | None


def place(host: Host, ids: Tensor, masks: dict[str, Tensor]) -> None:
    """Write the placeholders (B, S) of the video of a call into `masks`, which holds those of its ids.

    Where no video id stands in the prompt, the image id stands for it: between the video markers, if there are any
    (glm4v writes its frames so), else everywhere (molmo2, nemotron_h_omni).

    Raises:
        UnsupportedInputError: there is a video that cannot be shortened, or one without placeholders.
    """
    if (why := refusal(host)) is not None:
        raise UnsupportedInputError(f"{host.model_type}: no video can be shortened, {why}; remove the patch")
    if ("video" not in masks or not bool(masks["video"].any())) and "image" in host.tokens:
        masks["video"] = _borrowed(host, ids)
        if "image" in masks:
            masks["image"] = masks["image"] & ~masks["video"]
    if "video" not in masks or not bool(masks["video"].any()):
        raise UnsupportedInputError(
            f"{host.model_type}: this call holds a video and input_ids hold no video placeholder "
            f"(id {host.tokens.get('video')}), so there is nothing to shorten. Was the prompt written without it?"
        )


def refusal(host: Host) -> str | None:
    """Return why no video of this model can be shortened, or None."""
    if "video" not in host.features:
        return "it has no method of its own that encodes one (get_video_features)"
    if host.model_type in families.VIDEO_NEWLINE and host.features["video"].pixels is not None:
        return "its forward itself adds a newline to a video in this version of transformers"
    if rate := getattr(host.config, "video_pruning_rate", None):
        return f"it drops video tokens itself (video_pruning_rate={rate})"
    return None


def _borrowed(host: Host, ids: Tensor) -> Tensor:
    """Return the image ids that stand for a video."""
    images = ids == host.tokens["image"]
    start, end = (getattr(host.config, f"video_{name}_token_id", None) for name in ("start", "end"))
    if isinstance(start, int) and isinstance(end, int) and bool((ids == start).any()):
        return images & ((ids == start).cumsum(-1) > (ids == end).cumsum(-1))
    return images


def drop_masked(encoded: Encoded, named: dict[str, Any]) -> None:
    """Take out of the encoded video what the call's own mask drops: placeholders are written for the rest alone."""
    mask = named.get(MASK)
    if "video" not in encoded or not isinstance(mask, Tensor):
        return
    output = encoded["video"]
    name = field_of(output)
    value = getattr(output, name)
    flat, entries = flatten(value)
    if len(mask) != len(flat):
        raise UnsupportedInputError(f"{MASK} has {len(mask)} entries, the model made {len(flat)} video features")
    kept = [int(part.sum()) for part in mask.split(entries)]
    encoded["video"] = clone(output, **{name: refill(value, flat[mask.to(flat.device)], kept, kept)})
    encoded.noted = {
        what: {m: noted[mask.to(noted.device)] if m == "video" and noted is not None else noted
               for m, noted in found.items()}
        for what, found in encoded.noted.items()
    }  # fmt: skip


def ready(host: Host, named: dict[str, Any], taken: dict[str, Any] | None, output: Any) -> dict[str, Any] | None:
    """Return the arguments for the original (None: the caller's own) with what only videos need.

    A mask of features is applied already. A video that the method for images encodes is handed over ready, as no seam
    can tell it from an image.
    """
    if not host.handed and named.get(MASK) is None:
        return taken
    taken = dict(named if taken is None else taken)
    taken.pop(MASK, None)
    if host.handed:
        taken.pop(host.pixels["video"][0], None)
        taken["mm_encoder_outputs"] = {**(taken.get("mm_encoder_outputs") or {}), "video": clone(output)}
    return taken


@dataclass(frozen=True)
class Unit:
    """What gets a budget of its own: `groups` temporal groups (0: unknown) of video number `video`, n features."""

    n: int
    video: int
    groups: int


def units(host: Host, unit: str, named: dict[str, Any], entries: list[int], mask: Tensor) -> list[Unit]:
    """Return what gets a budget each: a video, or with `unit="frame"` a temporal group of one.

    Args:
        host, named: the model and the call's arguments.
        unit: "image" (a video counts as one), "frame", or "tile" (an entry of the container).
        entries: features per entry of the container, which is a video, or a group in `families.FRAME_ENTRIES`.
        mask: (B, S) bool, the placeholders.

    Raises:
        UnsupportedInputError: nothing in the call says what is one video, or how many groups it has.
    """
    if host.model_type in families.FRAME_ENTRIES:
        if unit != "image":
            return [Unit(n, i, 1) for i, n in enumerate(entries)]
        stacked = _stacked(host, named)
        if stacked is None and host.model_type in families.VIDEO_AT_RUNS:
            return [Unit(run.end - run.start, i, 0) for i, run in enumerate(runs_of(mask))]
        if stacked is None or sum(stacked) != len(entries):
            raise UnsupportedInputError(
                f"{host.model_type}: a video reaches the model in pieces, and the call does not say which of them are "
                'one video; pass unit="frame" for num_tokens of each piece'
            )
        each = iter(entries)
        return [Unit(sum(next(each) for _ in range(t)), i, t) for i, t in enumerate(stacked)]
    entries = _by_grid(host, named, entries)
    counts = _counts(host, named, entries)
    if unit != "frame":
        return [Unit(n, i, t) for i, (n, t) in enumerate(zip(entries, counts or [0] * len(entries)))]
    if isinstance(given := named.get(MASK), Tensor):
        sizes = [(i, h * w) for i, (t, h, w) in enumerate(_sizes(host, named)) for _ in range(t)]
        kept = [int(part.sum()) for part in given.split([size for _, size in sizes])]
        return [Unit(n, i, 1) for n, (i, _) in zip(kept, sizes) if n]
    if counts is None:
        raise UnsupportedInputError('unit="frame" needs video_grid_thw, which this call does not pass')
    found: list[Unit] = []
    for i, (n, count) in enumerate(zip(entries, counts)):
        each_group, more = divmod(n, count)
        if more and host.model_type not in families.VIDEO_NEWLINE:
            raise UnsupportedInputError(f"{n} video tokens are no whole number for each of {count} frames")
        found += [Unit(each_group, i, 1)] * (count - 1)
        found.append(Unit(each_group + more, i, 1))  # a newline at the end goes with the last
    return found


def _by_grid(host: Host, named: dict[str, Any], entries: list[int]) -> list[int]:
    """Return the length of each video where the container does not tell them apart and the patch grids do."""
    if not isinstance(named.get("video_grid_thw"), Tensor):
        return entries
    lengths = [math.prod(size) for size in _sizes(host, named)]
    return lengths if len(lengths) != len(entries) and sum(lengths) == sum(entries) else entries


def _stacked(host: Host, named: dict[str, Any]) -> list[int] | None:
    """Return the frames of each video of a stack (videos, frames, channels, height, width)."""
    pixels = next((named[name] for name in host.pixels["video"] if named.get(name) is not None), None)
    return [pixels.shape[1]] * len(pixels) if isinstance(pixels, Tensor) and pixels.ndim == 5 else None


def _counts(host: Host, named: dict[str, Any], entries: list[int]) -> list[int] | None:
    """Return the temporal groups of each video, where the call says them."""
    if isinstance(named.get("video_grid_thw"), Tensor):
        sizes = _sizes(host, named)
        if named.get(MASK) is not None:
            return [t for t, _, _ in sizes]
        return [_groups(n, *size) for n, size in zip(entries, sizes)]
    if isinstance(given := named.get("num_frames_per_video"), Tensor):
        return [int(count) for count in given.tolist()]
    if isinstance(given := named.get("video_grids"), Tensor):
        return [int(count) for count in given[:, 0].tolist()]
    if isinstance(given := named.get("video_position_ids"), Tensor) and given.ndim == 4:
        return [int(frames) for frames in (given >= 0).any(-1).any(-1).sum(1).tolist()]  # others are padding
    return _stacked(host, named)


def _groups(n: int, t: int, h: int, w: int) -> int:
    """Return the temporal groups of n tokens: t, or fewer where the encoder joins neighbours (ernie4_5_vl_moe)."""
    left, more = divmod(n, h * w)
    return left if left and not more and t % left == 0 else t


def _sizes(host: Host, named: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Return (t, h, w) of each video in tokens, t as `video_grid_thw` counts it."""
    vision, table = getattr(host.config, "vision_config", None), named["video_grid_thw"].tolist()
    names = ("spatial_merge_size", "merge_size", "merge_kernel_size")
    own: Any = next((value for name in names if (value := getattr(vision, name, None))), 1)
    merges = [own[0] if isinstance(own, (list, tuple)) else own] * len(table)
    if isinstance(given := named.get("video_merge_sizes"), Tensor):
        merges = given.tolist()
    return [(t, h // merge, w // merge) for (t, h, w), merge in zip(table, merges)]


def grids(host: Host, unit: str, named: dict[str, Any], found: Sequence[Unit]) -> list[Grid]:
    """Return the token grid of each unit: (t, h, w) of a video, (h, w) of a temporal group, None for no rectangle."""
    mask = named.get(MASK)
    if host.model_type in families.LEARNED or (isinstance(mask, Tensor) and not bool(mask.all())):
        return [None] * len(found)
    made: list[Grid] = []
    for each, (h, w) in zip(found, _rectangles(host, named, found)):
        if not each.groups or h * w * each.groups != each.n:
            made.append(None)
        else:
            made.append((h, w) if unit == "frame" else (each.groups, h, w))
    return made


def _rectangles(host: Host, named: dict[str, Any], found: Sequence[Unit]) -> list[tuple[int, int]]:
    """Return the tokens of a temporal group of each unit, height and width; (0, 0) where they make no rectangle."""
    tables = None
    if isinstance(named.get("video_grid_thw"), Tensor):
        tables = [(h, w) for _, h, w in _sizes(host, named)]
    elif isinstance(given := named.get("video_grids"), Tensor):
        tables = [(int(h), int(w)) for _, h, w in given.tolist()]
    if tables is not None:
        return [tables[each.video] if each.video < len(tables) else (0, 0) for each in found]
    frames = picture_sizes("video", named)
    if frames is None:  # every frame has the shape of the stack
        shapes = [tile_size("video", named) or (1, 1, 1)] * len(found)
    elif len(frames) == len(found):
        shapes = frames
    else:  # a video is a rectangle where all of its frames are alike
        ends = [0, *accumulate(each.groups for each in found)]
        inside = [frames[first:last] if ends[-1] == len(frames) else [] for first, last in pairwise(ends)]
        shapes = [of[0] if len(set(of)) == 1 else (1, 0, 0) for of in inside]
    return [
        scaled([shape], each.n // max(each.groups, 1))[0][1:] if math.prod(shape) else (0, 0)
        for each, shape in zip(found, shapes)
    ]
