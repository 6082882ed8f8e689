"""The contract of `tokscale.patch` for videos: that of images, with a video in the place of each picture.

A video counts as one image, a temporal group as one with `unit="frame"`; timestamps between groups are text and stay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tokscale
from tests.families.case import Case, K, NotApplicable, Spread, Upstream, near, same
from tests.families.compressed import expected, first_two, receivers, subset
from tests.families.generation import batch, beams, cached, own_loop, recomputed, right
from tests.families.prompts import ONE, TWO
from tests.families.unchanged import gradients, keep_all, removal
from tests.tiny_models import Prompt
from tokscale.hf.families import FRAME_ENTRIES, VIDEO_AT_RUNS
from tokscale.hf.host import examine
from tokscale.hf.videos import refusal

BOTH: list[list[Any]] = [[2, "image", 3, "video", 2]]


class VideoCase(Case):
    """A family whose pictures are videos; where a call does not say what is one video, their temporal groups."""

    @property
    def in_pieces(self) -> bool:
        return self.family.name in FRAME_ENTRIES - VIDEO_AT_RUNS

    def prompt(self, rows: Any, **more: Any) -> Prompt:
        batch = super().prompt(_filmed(rows), **more)
        return grouped(self, batch) if self.in_pieces else batch

    def alone(self, rows: Any, row: int) -> Prompt:
        return super().alone(_filmed(rows), row)

    def patch(self, compressor: Any = None, **options: Any) -> Any:
        if self.in_pieces:
            options.setdefault("unit", "frame")
        return super().patch(compressor, **options)


class MixedCase(VideoCase):
    """The same, with images where the rows say so."""

    def prompt(self, rows: Any, **more: Any) -> Prompt:
        batch = Case.prompt(self, rows, **more)
        return grouped(self, batch) if self.in_pieces else batch


def _filmed(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [["video" if part == "image" else part for part in row] for row in rows]


def video(case: Case) -> None:
    """All that holds for images holds for videos; frames; an image beside a video."""
    host = examine(case.model)
    if "video" not in host.features:
        raise NotApplicable("it takes no videos of its own: frames are images to it")
    if not host.pixels["image"]:
        raise NotApplicable("it takes nothing but videos: all other checks are of them")
    if (why := refusal(host)) is not None:
        refused(case, why)
        raise NotApplicable(f"refused: {why}")
    filmed = VideoCase(case.family, case.model, case.batch)
    said = []
    rows = (batch, right, beams) if case.batch else ()  # else, unpatched, a row among others differs from it alone
    for check in (keep_all, subset, first_two, cached, onward, *rows, gradients, removal, recorded, frames):
        try:
            check(filmed)
        except (NotApplicable, Upstream) as error:
            if check in (keep_all, subset):
                raise
            said.append(f"{check.__name__}: {error}")
    try:
        both(MixedCase(case.family, case.model, case.batch))
    except Upstream as error:
        said.append(f"both: {error}")
    case.notes += said


def refused(case: Case, why: str) -> None:
    """A call with a video says why not, and the model still takes images."""
    batch = case.prompt(ONE)
    with case.patch() as handle:
        try:
            case.model(**batch.inputs, pixel_values_videos=torch.zeros(1, 2, 3, 48, 48, dtype=case.dtype))
        except tokscale.UnsupportedInputError as error:
            if f"no video can be shortened, {why}; remove the patch" not in str(error):
                raise AssertionError(f"refused with other words: {error}") from error
        else:
            raise AssertionError("a video passed in silence")
        case.forward(batch)
        if [record.k for record in handle.last.images] != [K]:
            raise AssertionError("an image after a refused video is not shortened")


def onward(filmed: Case) -> None:
    """The caller's own loop goes on where the unpatched model does; without positions of several axes, as `generate`.

    qwen2_5_vl: `generate` and a loop place the next token differently, unpatched too, so the two are not compared.
    """
    if not filmed.family.mrope:
        own_loop(filmed)
        return
    batch = filmed.prompt(TWO)
    inside = receivers(filmed, batch)[-1]

    def next_position() -> Tensor:
        seen: list[Any] = []
        output = filmed.forward(batch, use_cache=True)
        name = "cache" if hasattr(output, "cache") else "past_key_values"  # as this version calls it
        hook = inside.register_forward_pre_hook(lambda m, a, k: seen.append(k.get("position_ids")), with_kwargs=True)
        try:
            with torch.no_grad():
                filmed.model(input_ids=batch.ids[:, -1:], use_cache=True, **{name: getattr(output, name)})
        finally:
            hook.remove()
        return seen[0]

    plain = next_position()
    with filmed.patch():
        same(next_position(), plain, "position of the next token in the caller's loop")


def recorded(filmed: Case) -> None:
    """`handle.last` says n -> k of each video, and its grid (t, h, w) where its tokens are a box."""
    batch = filmed.prompt(TWO)
    with filmed.patch() as handle:
        filmed.forward(batch)
    for record, columns in zip(handle.last.images, batch.images[0], strict=True):
        if (record.modality, record.n, record.k) != ("video", len(columns), K):
            raise AssertionError(f"recorded {record}, the video has {len(columns)} tokens")
        if record.grid is not None and math.prod(record.grid) != record.n:
            raise AssertionError(f"the grid of {record.n} tokens is {record.grid}")


def frames(filmed: VideoCase) -> None:
    """`unit="frame"`: K tokens per temporal group, logits those of the reference, timestamps stay, (h, w) grids."""
    for rows in (ONE, TWO):
        batch = filmed.prompt(rows)
        apart = batch if filmed.in_pieces else grouped(filmed, batch)
        logits, keep = expected(filmed, apart, Spread())
        with filmed.patch(unit="frame") as handle:
            output = filmed.forward(batch)
        same(handle.last.keep[0], keep, "kept columns by frame")
        near(output.logits, logits, filmed.tolerance, "logits by frame")
        for record, group in zip(handle.last.images, apart.images[0], strict=True):
            if (record.modality, record.n, record.k) != ("video", len(group), min(K, len(group))):
                raise AssertionError(f"recorded {record}, the group has {len(group)} tokens")
            if record.grid is not None and (len(record.grid) != 2 or math.prod(record.grid) != len(group)):
                raise AssertionError(f"the grid of a group of {len(group)} is {record.grid}")


def grouped(case: Case, batch: Prompt) -> Prompt:
    """The batch with the columns of each temporal group apart; videos are numbered as `prompt` does, from 0."""
    numbers = itertools.count()
    rows = [[group for columns in row for group in _groups(case, columns, next(numbers))] for row in batch.images]
    return replace(batch, images=rows)


def _groups(case: Case, columns: list[int], number: int) -> list[list[int]]:
    """The columns of each temporal group: the runs, or equal parts of one run."""
    breaks = [i for i in range(1, len(columns)) if columns[i] != columns[i - 1] + 1]
    video = case.family.video(number)
    if not breaks and len(columns) == video.num_features:
        size = len(columns) // video.groups
        breaks = [size * i for i in range(1, video.groups)]
    edges = [0, *breaks, len(columns)]
    return [columns[first:last] for first, last in itertools.pairwise(edges)]


def both(case: VideoCase) -> None:
    """One row with an image and a video: logits of the reference, ids with and without a cache, both recorded."""
    batch = case.prompt(BOTH)
    try:
        case.forward(batch)
    except Exception as error:
        raise Upstream(f"unpatched: {type(error).__name__}: {str(error)[:80]}") from error
    logits, keep = expected(case, batch, Spread())
    with case.patch() as handle:
        output = case.forward(batch)
        last = handle.last
        same(case.generate(batch), recomputed(case, batch), "cached and recomputed ids, an image and a video")
    same(last.keep[0], keep, "kept columns of an image and a video")
    near(output.logits, logits, case.tolerance, "logits of an image and a video")
    if {record.modality for record in last.images} != {"image", "video"}:
        raise AssertionError("the record does not hold an image and a video")
