"""Video tokens that are unusual, with more of the budget for frames that are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import TokenCompressor
from .compressed import Compressed, take
from .registry import register_compressor
from .rules import kept, order, ranks
from .similarity import tamed, unit

COLD = 0.01  # temperature of the frames' shares
BORDER = 1e-6  # a quota that ends in one half by arithmetic is rounded up, however it was summed


@register_compressor("vidcom2")
class VidCom2(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens of a clip that are least like the clip's and their frame's mean.

    y: the `max(1, d//2)` channels of least variance over the clip, normalised. With
    `g(y, m) = sum_{e=-3..1} exp(-||y-m||^2/2^(e+1))`, V at the mean of all y and F at that of the frame: `s = V + F`,
    small = unusual. Share of a frame `p = softmax_f(-mean V/0.01)`; of each frame the
    `clip(floor(h w min(1, (k/n)(1 + p_f - mean p)) + 1/2 + 1e-6), 1, h w)` smallest s. Too many: the largest s leave;
    too few: the smallest s of the others come. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep of the whole clip, an integer >= 1.

    Shape: (b, n, d) and a grid (t, h, w) of n -> (b, k, d); `scores` (b, n) are -s.

    Cost: n d, then n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> VidCom2(num_tokens=3).compress(x, grid=(3, 1, 2)).positions
        tensor([[0, 1, 4]])

    Source: Liu et al., Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language
    Models (VidCom2), 2025, arXiv 2505.14454. Differs from it in that exactly k tokens are kept.
    """

    needs = frozenset({"grid"})
    also_known_as = ("vid_com2", "video_compression_commander")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        grid = context["grid"]
        b, n, d = vision_tokens.shape
        k, places = self.output_length(n), grid[-2] * grid[-1]
        y = _steady(vision_tokens.detach(), max(1, d // 2)).view(b, -1, places, max(1, d // 2))  # b t hw channels
        near_all = _likeness(y, y.mean((1, 2), keepdim=True))
        s = near_all + _likeness(y, y.mean(2, keepdim=True))  # b t hw
        p = torch.softmax(-near_all.mean(2) / COLD, dim=1)
        wanted = places * (k / n * (1 + p - p.mean(1, keepdim=True))).clamp(max=1)
        quota = (wanted + (0.5 + BORDER)).floor().clamp(1, places)
        flat = s.flatten(1)
        chosen = (ranks(-s) < quota.unsqueeze(2)).flatten(1)
        place = ranks(torch.where(chosen, flat, -torch.inf))  # among the chosen, the largest s first
        excess = chosen.sum(1, keepdim=True) - k
        late = ranks(torch.where(chosen, torch.inf, flat).neg())  # among the others, the smallest s first
        chosen = (chosen & (place >= excess)) | (~chosen & (late < -excess))
        positions = kept(chosen, k)
        return Compressed(take(vision_tokens, positions), positions, None, flat.neg().float())


def _steady(x: Tensor, channels: int) -> Tensor:
    """(b, n, channels): the channels of least population variance over the sample, normalised token by token."""
    x = tamed(x, (1, 2))
    chosen = order(-x.var(1, correction=0))[:, :channels]
    return unit(x.gather(2, chosen.unsqueeze(1).expand(-1, x.shape[1], -1)))


def _likeness(y: Tensor, mean: Tensor) -> Tensor:
    """`sum_{e=-3..1} exp(-||y - mean||^2 / 2^(e+1))`, in float64."""
    square = (y - mean).square().sum(-1).double()
    return sum((torch.exp(-square / 2 ** (e + 1)) for e in range(-3, 2)), torch.zeros_like(square))
