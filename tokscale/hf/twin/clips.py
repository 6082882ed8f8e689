"""Videos written for a model, as `pictures.py` writes images: pixels that it encodes and a prompt that it takes.

How a processor writes a video differs: one run of placeholders or one per temporal group, with ids of its own or with
the image's. `written_clip` takes the first way that the unpatched model accepts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cutting import encode
from ..features import field_of, flatten
from ..host import Host, examine
from ..videos import MASK
from .pictures import GRIDS, first, noise, patch_shapes
from .sizes import END, IMAGE, START, TEXT, TYPES, VIDEO, VIDEO_END, VIDEO_START

TIMES = (2, 4, 2)  # temporal groups of a video
FRAMES = 3  # where videos of a batch are stacked
WAYS = list(itertools.product((VIDEO, IMAGE), (True, False)))  # whose placeholder, a run per group


class Clip(NamedTuple):
    """One video: `ids` as a processor writes it, its pixels, the placeholder's id, and its temporal groups."""

    ids: list[int]
    pixels: dict[str, Tensor]
    placeholder: int
    groups: int


def clips(names: tuple[str, ...], config: Any, number: int) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Candidates for the arguments `names` of `get_video_features`, for video `number`, and its temporal groups."""
    vision = getattr(config, "vision_config", config)
    patch, size = first(vision, "patch_size", default=8), first(vision, "image_size", default=48)
    (h, w), t = GRIDS[number % 3], TIMES[number % 3]
    key = "pixel_values_videos"
    if "video_grid_thw" in names:
        times = first(vision, "temporal_patch_size", "patch_temporal", default=1)
        for groups in (t, 1):  # some versions take single groups
            yield from ((pixels, groups) for pixels in _with_grid(names, times, patch, (groups, h, w), number))
        return
    if "video_token_pooling" in names:
        side = size // patch
        grid = torch.arange(t * side * side).view(t, side // 2, 2, side // 2, 2)
        yield (
            {
                key: noise(number, t, side * side, 3 * patch * patch),
                "video_token_pooling": grid.permute(0, 1, 3, 2, 4).reshape(-1, 4),
                "video_grids": torch.tensor([[t, side // 2, side // 2]]),
            },
            t,
        )
        return
    if "target_sizes_videos" in names:
        for scale in (2, 1):
            sizes = torch.tensor([[scale * h, scale * w]] * t)
            pixels = {key: noise(number, 1, 3, patch, t * scale**2 * h * w * patch), "target_sizes_videos": sizes}
            yield pixels, t
        return
    if "video_position_ids" in names:
        wide = 3 * (patch * first(vision, "pooling_kernel_size", default=3)) ** 2  # a token per patch: fewer of them
        single = "num_frames_per_video" in names  # else videos of a batch have as many frames
        t = t if single else FRAMES
        for width, high, across in ((3 * patch * patch, h, w), (wide, h // 2, w // 2)):
            rows, columns = torch.meshgrid(torch.arange(high), torch.arange(across), indexing="ij")
            places = torch.stack([columns, rows], -1).view(1, high * across, 2).expand(t, -1, -1)
            pixels = {key: noise(number, t, high * across, width), "video_position_ids": places}
            if single:
                yield {**pixels, "num_frames_per_video": torch.tensor([t])}, t
            else:
                yield {name: value[None] for name, value in pixels.items()}, t
    times = first(config, "video_temporal_patch_size", default=1)
    yield {key: noise(number, 1, FRAMES, 3 * times, size, size)}, FRAMES


def _with_grid(
    names: tuple[str, ...], times: int, patch: int, size: tuple[int, int, int], number: int
) -> Iterator[dict[str, Tensor]]:
    t, h, w = size
    more = {"video_grid_thw": torch.tensor([[t, h, w]])}
    if "video_second_per_grid" in names:
        more["video_second_per_grid"] = torch.tensor([1.0 + number % 3])
    if "video_merge_sizes" in names:
        more["video_merge_sizes"] = torch.tensor([2])
    if MASK in names:  # the first token of each group leaves
        more[MASK] = torch.arange(t * h * w // 4) % (h * w // 4) > 0
    for shape in patch_shapes(times, patch):
        yield {"pixel_values_videos": noise(number, t * h * w, *shape), **more}


def written_clip(model: Any, model_type: str, number: int) -> Clip:
    """Return one video that the unpatched model takes, for a model with `get_video_features`.

    Raises:
        RuntimeError: none of the known kinds of pixels or ways of writing fits.
    """
    host, weight = examine(model), next(p for p in model.parameters() if p.is_floating_point())
    failures, known = [], _known(host)
    for pixels, groups in clips((*host.features["video"].names, *host.forward_names), model.config, number):
        fitting = {
            k: v.to(weight.device, weight.dtype if v.is_floating_point() else v.dtype) for k, v in pixels.items()
        }
        try:
            with torch.no_grad():
                output = encode(host, "video", fitting)
            count = len(flatten(getattr(output, field_of(output)))[0])
            count = int(fitting[MASK].sum()) if MASK in fitting else count
        except Exception as error:  # whatever a model says to pixels that are not its own
            shapes = {name: tuple(value.shape) for name, value in fitting.items()}
            failures.append(f"{shapes}: {type(error).__name__}: {str(error)[:120]}")
            continue
        groups = _joined(pixels, count, groups)
        stacked = fitting["pixel_values_videos"].ndim == 5
        for placeholder, apart in WAYS:
            if (apart and (stacked or count % groups)) or placeholder not in known:
                continue
            ids = [known.get(token, token) for token in _ids(placeholder, count, groups if apart else 1)]
            clip = Clip(ids, fitting, known[placeholder], groups)
            if (why := _refusal(model, host, clip)) is None:
                return clip
            failures.append(f"placeholder {clip.placeholder}, {'runs' if apart else 'one run'}: {why}")
    raise RuntimeError(f"{model_type}: no video fits; " + " | ".join(failures))


def _joined(pixels: dict[str, Tensor], count: int, groups: int) -> int:
    """Return the temporal groups that are left of `groups`: some encoders join neighbours."""
    if (grid := pixels.get("video_grid_thw")) is None:
        return groups
    left, more = divmod(count, int(grid[0, 1] * grid[0, 2]) // 4)
    return left if left and not more and groups % left == 0 else groups


def _known(host: Host) -> dict[int, int]:
    """Return the model's own ids in place of those of a tiny one."""
    found = {ours: host.tokens[m] for ours, m in ((VIDEO, "video"), (IMAGE, "image")) if m in host.tokens}
    markers = {START: "vision_start", END: "vision_end", VIDEO_START: "video_start", VIDEO_END: "video_end"}
    for ours, name in markers.items():
        if isinstance(theirs := getattr(host.config, f"{name}_token_id", None), int):
            found[ours] = theirs
    return found


def _ids(placeholder: int, count: int, runs: int) -> list[int]:
    """One video: per run a timestamp, start, placeholders, end; between video markers for an id that images have."""
    ids: list[int] = []
    for run in range(runs):
        ids += [TEXT + 1 + run] if runs > 1 else []
        ids += [START, *[placeholder] * (count // runs), END]
    return [VIDEO_START, *ids, VIDEO_END] if placeholder == IMAGE else ids


def types_of(clip: Clip) -> list[int]:
    """Return what marks the columns of a video in a prompt: 2 at placeholders."""
    return [2 * (token == clip.placeholder) for token in clip.ids]


def _refusal(model: Any, host: Host, clip: Clip) -> str | None:
    """Return what the unpatched model says against a prompt with this video, or None."""
    ids = torch.tensor([[TEXT + 9, *clip.ids, TEXT + 10]], device=clip.pixels["pixel_values_videos"].device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **clip.pixels}
    if name := next((name for name in TYPES if name in host.forward_names), None):
        inputs[name] = torch.tensor([[0, *types_of(clip), 0]], device=ids.device)
    for module in model.modules():
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return None
