"""Segments of a video: the salient tokens of each frame, and density peaks of a few frames with the rest merged in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .cells import share
from .compressed import Compressed, take, wide
from .density import in_turn, peaks, squared_distances
from .groups import averages, themselves
from .layers import fraction, real
from .registry import register_compressor
from .rules import best, ranks
from .similarity import cosine_between, pair_distance, unit

NEIGHBOURS = 4


@register_compressor("fastvid")
class FastVID(TokenCompressor):
    """`k = min(num_tokens, n)` tokens of a clip: salient ones, unchanged, and centres that stand for their segment.

    *Segments.* A frame's vector is the mean of its unit tokens. The clip is cut after frame f if the cosine of f and
    f + 1 is below `threshold`, or among the `min(segments, t) - 1` smallest.
    *Frames.* Frame f has `r_f` tokens, an equal share of k; `floor(r_f context_ratio)` of them are context, the rest
    are salient: the frame's largest importances.
    *Centres.* In a segment the last frame and every `period`-th before it are anchors, and share the segment's context
    tokens. An anchor frame's centres are the density peaks (`dpc_knn`, 4 neighbours) of its tokens that are not
    salient, as many as there are.
    *Merging.* Of each anchor frame, every token of the segment that is not salient joins the centre of largest cosine
    (ties: the lower index). Out comes `w x_c + (1 - w) mean(joined)`, `w = max(anchor_weight, 1/(count + 1))`. What is
    short of k is made up by the largest importances of the rest.

    Args:
        num_tokens: tokens of the whole clip, an integer >= 1.
        segments: segments at least, where there are as many frames; an integer >= 1.
        threshold: cosine of neighbouring frames below which a segment ends.
        context_ratio: share of context tokens, from 0 to 1.
        period: an integer >= 1, in frames.
        anchor_weight: least weight of a centre itself, from 0 to 1.

    Shape: (b, n, d), importance (b, n), grid (t, h, w) -> (b, k, d).

    Raises:
        ArgumentError: a number out of its range.

    Cost: n h w d multiply-adds a sample for the density in float64, 2 k n d for the merging.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> method = FastVID(4, segments=1, threshold=-1, context_ratio=0.5, period=2)
        >>> method.compress(x, importance=a, grid=(3, 1, 2)).positions
        tensor([[1, 3, 4, 5]])

    Source: Shen, Gong, He, Zhang, Liu, Zhao, Ding, FastVID: Dynamic Density Pruning for Fast Video Large Language
    Models, 2025, arXiv 2503.11187. Differs from it in the mean of a frame's tokens for its vector, and in that exactly
    k come out.
    """

    needs = frozenset({"importance", "grid"})
    mixture = True
    also_known_as = ("fast_vid", "dynamic_density_pruning")

    def __init__(
        self,
        num_tokens: int,
        segments: int = 8,
        threshold: float = 0.9,
        context_ratio: float = 0.4,
        period: int = 4,
        anchor_weight: float = 0.6,
    ) -> None:
        super().__init__(num_tokens)
        self.segments, self.period = positive_int(segments, "segments"), positive_int(period, "period")
        self.threshold = real("threshold", threshold, least=-1)
        self.context_ratio = fraction("context_ratio", context_ratio)
        self.anchor_weight = fraction("anchor_weight", anchor_weight)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x, grid = vision_tokens.detach(), context["grid"]
        b, n, d = x.shape
        k, t = self.output_length(n), grid[0] if len(grid) == 3 else 1
        importance = context["importance"].double()
        budgets = share(k, t)
        contextual = torch.tensor([math.floor(r * self.context_ratio) for r in budgets], device=x.device)
        salient = torch.tensor(budgets, device=x.device) - contextual
        rest = ranks(importance.view(b, t, -1)) >= salient.unsqueeze(1)  # b t hw: not salient

        segment = self._segments(unit(x).view(b, t, -1, d).mean(2))
        centres = self._shares(segment, contextual)
        frames = x.reshape(b * t, -1, d)
        parts = zip(frames.split(in_turn(frames)), rest.flatten(0, 1).split(in_turn(frames)), strict=True)
        peak = torch.cat([peaks(squared_distances(f), NEIGHBOURS, mask) for f, mask in parts]).view(b, t, -1)
        is_centre = (rest & (ranks(peak) < centres.unsqueeze(-1))).flatten(1)
        rest = rest.flatten(1)
        positions = best(importance.masked_fill(~rest | is_centre, torch.inf), k)

        frame = positions // (n // t)  # b k
        of_token = segment.repeat_interleave(n // t, 1)
        joins = is_centre.gather(1, positions).unsqueeze(2) & rest.unsqueeze(1)
        joins &= segment.gather(1, frame).unsqueeze(2) == of_token.unsqueeze(1)
        near = cosine_between(take(x, positions), x).masked_fill_(~joins, -torch.inf)
        joined = joins & _first_best(near, frame, t)
        count = joined.sum(-1, keepdim=True)
        dtype = wide(x.dtype)
        weight = (1 / (count.to(dtype) + 1)).clamp(min=self.anchor_weight)  # 1 where none joined
        mixture = weight * themselves(positions, n, dtype) + (1 - weight) * averages(joined, dtype)
        return Compressed.mix(vision_tokens, mixture, positions)

    def _segments(self, frames: Tensor) -> Tensor:
        """Return (b, t): the number of the segment of each frame, from its vectors (b, t, d)."""
        frames, t = unit(frames), frames.shape[1]
        far = pair_distance(frames[:, :-1], frames[:, 1:]).clamp(max=2)  # b t-1
        cut = (1 - far < self.threshold) | (ranks(far) < min(self.segments, t) - 1)
        return torch.nn.functional.pad(cut.cumsum(1), (1, 0))

    def _shares(self, segment: Tensor, contextual: Tensor) -> Tensor:
        """Return (b, t): how many centres each frame is to have; 0 in frames that are no anchors."""
        index = torch.arange(segment.shape[1], device=segment.device)
        together = segment.unsqueeze(2) == segment.unsqueeze(1)  # b t t
        last = (together * index).amax(-1)
        anchor = (last - index) % self.period == 0
        anchors = together & anchor.unsqueeze(1)
        total, parts = (together * contextual).sum(-1), anchors.sum(-1)
        part = (anchors & (index < index.unsqueeze(1))).sum(-1)  # anchors before
        return anchor * ((part + 1) * total // parts - part * total // parts)


def _first_best(near: Tensor, frame: Tensor, t: int) -> Tensor:
    """Return (b, k, n) bool: for every token the first of the largest `near` among the outputs of each frame (b, k)."""
    b, k, n = near.shape
    frames = frame.unsqueeze(2).expand(b, k, n)
    best = near.new_full((b, t, n), -torch.inf).scatter_reduce(1, frames, near, "amax")
    index = torch.arange(k, device=near.device).view(1, k, 1)
    tied = torch.where(near == best.gather(1, frames), index, k)
    first = tied.new_full((b, t, n), k).scatter_reduce(1, frames, tied, "amin")
    return index == first.gather(1, frames)
