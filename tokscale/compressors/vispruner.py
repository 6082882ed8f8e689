"""Attention first, then diversity: the most attended tokens, and of the others those that repeat no other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .compressed import Compressed, take
from .layers import fraction
from .registry import register_compressor
from .rules import order
from .similarity import cosine_matrix


@register_compressor("vispruner")
class VisPruner(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: `floor(k important_ratio)` by importance, the others by pruning duplicates.

    R: the other tokens from the most important down, K of them to keep. While |R| > K: A = R[0::2], B = R[1::2],
    `m_i = max_{j in B} c_ij` for i in A; the `min(step, |R| - K, |A|)` of A with the largest m leave, and R becomes
    the rest of A by descending m, then B. Ties go to the earlier.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        important_ratio: share of the budget that goes by importance, in [0, 1].
        step: tokens that leave in a round, an integer >= 1; fewer rounds and coarser choices with more.

    Shape: (b, n, d) and importance (b, n) -> (b, k, d).

    Raises:
        ArgumentError: `important_ratio` is out of range.
        BudgetError: `step` is no integer >= 1.

    Cost: n^2 d for the cosines, then about n^3 / (12 step).

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> VisPruner(num_tokens=3, step=1).compress(x, importance=a).positions
        tensor([[0, 1, 5]])

    Source: Zhang et al., Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs,
    2024, arXiv 2412.01818. Differs from it in that an odd number of tokens can be paired, so that any n and k work.
    """

    needs = frozenset({"importance"})
    also_known_as = ("vis_pruner", "visual_pruner")

    def __init__(self, num_tokens: int, important_ratio: float = 0.5, step: int = 8) -> None:
        super().__init__(num_tokens)
        self.important_ratio = fraction("important_ratio", important_ratio)
        self.step = positive_int(step, "step")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        k = self.output_length(vision_tokens.shape[1])
        ordered = order(context["importance"].detach())
        first = math.floor(k * self.important_ratio)
        important, others = ordered[:, :first], ordered[:, first:]
        diverse = self._diverse(cosine_matrix(vision_tokens), others, k - first) if k > first else others[:, :0]
        positions = torch.cat([important, diverse], 1).sort(dim=1).values
        return Compressed(take(vision_tokens, positions), positions)

    def _diverse(self, c: Tensor, left: Tensor, size: int) -> Tensor:
        """The `size` >= 1 tokens of `left` (b, r) that the rounds leave; every sample has as many in every round."""
        b, n, _ = c.shape
        rows = c.flatten(0, 1)
        start = torch.arange(b, device=c.device).unsqueeze(1) * n
        while left.shape[1] > size:
            ours, theirs = left[:, 0::2], left[:, 1::2]
            # the maximum of whole rows, then A's entries of it: c is symmetric, and rows are read at once
            near = rows.index_select(0, (theirs + start).flatten()).view(b, -1, n).amax(1).gather(1, ours)
            drop = min(self.step, left.shape[1] - size, ours.shape[1])
            left = torch.cat([ours.gather(1, order(near)[:, drop:]), theirs], 1)
        return left
