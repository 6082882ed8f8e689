"""Three tiers of attention: objects from a middle layer, their surroundings, and the tokens of the last layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .base import TokenCompressor
from .compressed import Compressed
from .layers import real
from .registry import register_compressor
from .rules import ranks


@register_compressor("hiprune")
class HiPrune(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: anchors of a middle layer, their neighbours, then the most important.

    Anchors: the `m = floor(k alpha/5 + 1/2)` tokens of largest shallow importance. Then their neighbours above, below,
    left and right in the same frame, by shallow importance from the largest down; all of it cut to k. The other places
    go to the largest importance among the tokens left. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        alpha: share of the budget for anchors with their four neighbours, >= 0.

    Shape: (b, n, d), importance and shallow importance (b, n), and a grid of n -> (b, k, d).

    Raises:
        ArgumentError: `alpha` is negative.

    Cost: n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> shallow = torch.tensor([[0.2, 0.1, 0.3, 0.05, 0.25, 0.1]])
        >>> module = HiPrune(num_tokens=3, alpha=1.7)
        >>> module.compress(x, importance=a, shallow_importance=shallow, grid=(2, 3)).positions
        tensor([[1, 2, 5]])

    Source: Liu et al., HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
    Models, 2025, arXiv 2508.00553. Differs from it in that neighbours do not wrap round the ends of rows.
    """

    needs = frozenset({"importance", "shallow_importance", "grid"})
    shallow_layer = 0.375
    also_known_as = ("hi_prune", "hierarchical_attention")

    def __init__(self, num_tokens: int, alpha: float = 0.1) -> None:
        super().__init__(num_tokens)
        self.alpha = real("alpha", alpha, least=0)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n = vision_tokens.shape[1]
        k = self.output_length(n)
        shallow = n - ranks(context["shallow_importance"].detach())  # 1 to n, the largest for the largest
        anchor = shallow > n - math.floor(k * self.alpha / 5 + 0.5)
        tier = torch.where(_beside(anchor, context["grid"]), n + shallow, n - ranks(context["importance"].detach()))
        tier = torch.where(anchor, 2 * n + shallow, tier)
        kept = ops.topk_gather(vision_tokens, tier.float(), k)  # distinct whole numbers below 2**24
        return Compressed(kept.tokens, kept.positions)


def _beside(anchor: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(b, n): the tokens that are above, below, left or right of a True in their frame."""
    frames = anchor.view(len(anchor), -1, *grid[-2:])  # b t h w
    found = torch.zeros_like(frames)
    found[:, :, 1:] |= frames[:, :, :-1]
    found[:, :, :-1] |= frames[:, :, 1:]
    found[..., 1:] |= frames[..., :-1]
    found[..., :-1] |= frames[..., 1:]
    return found.flatten(1)
