"""The same random tokens for every sample: the baseline that a selector must beat."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from .base import TokenCompressor
from .compressed import Compressed, per_sample, take
from .registry import register_compressor


@register_compressor("random")
class RandomSampler(TokenCompressor):
    """`k = min(num_tokens, n)` tokens at `torch.randperm(n, generator=seed)[:k]`, ascending.

    The positions are the same for all samples and on all devices, and those of a smaller budget are among those of a
    larger one. Another `seed` gives other positions; no global random state is read or written.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        seed: an integer from 0 to 2**63 - 1.

    Shape: (b, n, d) -> (b, k, d).

    Raises:
        ArgumentError: `seed` is no such integer.

    Cost: n + k d.

    Example:
        >>> RandomSampler(num_tokens=3, seed=0).compress(torch.zeros(1, 6, 2)).positions
        tensor([[2, 3, 5]])
    """

    also_known_as = ("random_sampler", "random_drop", "random_select")

    def __init__(self, num_tokens: int, seed: int = 0) -> None:
        super().__init__(num_tokens)
        self.seed = _checked(seed)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        generator = torch.Generator("cpu").manual_seed(self.seed)
        order = torch.randperm(n, generator=generator, device="cpu")[: self.output_length(n)]
        positions = per_sample(order.sort().values.to(vision_tokens.device), b)
        return Compressed(take(vision_tokens, positions), positions)


def _checked(seed: Any) -> int:
    fits = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not fits or not 0 <= int(seed) < 2**63:
        raise ArgumentError(f"seed must be an integer from 0 to 2**63 - 1, got {seed!r}")
    return int(seed)
