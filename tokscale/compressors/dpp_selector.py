"""A determinantal point process: the tokens whose directions span the largest volume."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import TokenCompressor
from .compressed import Compressed, take
from .greedy import determinantal
from .registry import register_compressor


@register_compressor("dpp")
class DPPSelector(TokenCompressor):
    """`k = min(num_tokens, n)` tokens whose cosine kernel L = c has, step by step, the largest determinant.

    Each step takes the j with the largest `det(L_{S+j}) / det(L_S)`: its squared distance from the span of those
    chosen. Once that is at most 1e-6 of the largest `L_ii` the rank is used up, and the rest is the token farthest in
    `1 - c` from those chosen, time and again, as in `divprune`. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: n^2 d for the cosines, k^2 n for the choice. On the CPU some 2 k n d for cosines, where
    at most an eighth of 1024 or more tokens is kept.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> DPPSelector(num_tokens=3).compress(x).positions
        tensor([[0, 3, 5]])

    Source: Chen, Zhang, Zhou, Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation
    Diversity, 2018, arXiv 1709.05135. Differs from it in that it goes on past the kernel's rank, to exactly k.
    """

    also_known_as = ("k_dpp", "k-dpp", "determinantal", "dpp_selector")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        positions = determinantal(vision_tokens, self.output_length(vision_tokens.shape[1]))
        return Compressed(take(vision_tokens, positions), positions)
