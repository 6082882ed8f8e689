"""Video tokens that changed: those least like the token at the same place one frame before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from .base import TokenCompressor
from .cells import anchors
from .compressed import Compressed, per_sample, take
from .registry import register_compressor
from .similarity import pair_distance


@register_compressor("evs")
class EVS(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens of a clip that differ most from the same place one frame before.

    `s = 1 - c` with that token, infinite in frame 0, which therefore stays whole; equal scores go to the lower index.
    A budget of no more than one frame, `k <= h w`, gives the tokens of `uniform` in frame 0.

    Args:
        num_tokens: tokens to keep of the whole clip, an integer >= 1.

    Shape: (b, n, d) and a grid (t, h, w) of n -> (b, k, d); `scores` (b, n) are s.

    Cost: n d, then n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> EVS(num_tokens=3).compress(x, grid=(3, 1, 2)).positions
        tensor([[0, 1, 3]])

    Source: Bagrov et al., Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference, 2025,
    arXiv 2510.14624. Differs from it in that a budget below one frame is served; an image is a clip of one frame.
    """

    needs = frozenset({"grid"})
    also_known_as = ("efficient_video_sampling", "temporal_difference")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        grid = context["grid"]
        b, n, _ = vision_tokens.shape
        k, places = self.output_length(n), grid[-2] * grid[-1]
        if k <= places:
            positions = per_sample(anchors(k, grid[-2:], vision_tokens.device), b)
            return Compressed(take(vision_tokens, positions), positions)
        change = pair_distance(vision_tokens[:, places:], vision_tokens[:, :-places])
        scores = torch.cat([change.new_full((b, places), torch.inf), change], 1)
        kept = ops.topk_gather(vision_tokens, scores, k)
        return Compressed(kept.tokens, kept.positions, None, scores.float())
