"""Tokens at even distances over the grid: the baseline without randomness."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import TokenCompressor
from .cells import anchors
from .compressed import Compressed, per_sample, take
from .registry import register_compressor


@register_compressor("uniform")
class UniformSampler(TokenCompressor):
    """The tokens that hold the centres of the `k = min(num_tokens, n)` cells of the grid (the anchors of `cells`).

    Args:
        num_tokens: tokens to keep, an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: k d a sample; the positions are cached per (k, grid).

    Example:
        >>> UniformSampler(num_tokens=4).compress(torch.zeros(1, 576, 2), grid=(24, 24)).positions
        tensor([[150, 162, 438, 450]])
    """

    uses = frozenset({"grid"})
    also_known_as = ("uniform_sampler", "strided", "grid_sample", "spatial")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        positions = per_sample(anchors(self.output_length(n), context["grid"], vision_tokens.device), b)
        return Compressed(take(vision_tokens, positions), positions)
