"""The tokens that get most attention, each with its neighbours added, and one token for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from ..errors import ShapeError
from ._guards import check_finite
from .base import TokenCompressor
from .compressed import Compressed, take, wide
from .groups import themselves
from .registry import register_compressor
from .rules import best, top
from .similarity import cosine_between


@register_compressor("prumerge")
class PruMerge(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: k - 1 with their neighbours added by importance a, and one for all the others.

    Kept are the k - 1 of largest a. Each becomes `x_i + sum_j a_j x_j` over the `min(neighbours, n - 1)` other tokens
    (kept ones too) of largest key cosine. The last token is `sum_j a_j x_j` over all that are not kept; it stands where
    the largest a of these is. Ties go to the lower index.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        neighbours: tokens added to each kept one, an integer >= 1.

    Shape: (b, n, d), importance (b, n), keys (b, n, key dim) -> (b, k, d).

    Cost: k n (d + key dim) multiply-adds a sample, and k n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> PruMerge(num_tokens=3, neighbours=2).compress(x, importance=a, keys=x).positions
        tensor([[1, 3, 4]])

    Source: Shang, Cai, Xu, Lee, Yan, LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models,
    2024, arXiv 2403.15388. Differs from it in that k is given; `suggest_num_tokens` counts outliers as it does.
    """

    needs = frozenset({"importance", "keys"})
    mixture = True
    keys_reduce = "cat"
    also_known_as = ("pru_merge", "llava_prumerge")

    def __init__(self, num_tokens: int, neighbours: int = 32) -> None:
        super().__init__(num_tokens)
        self.neighbours = positive_int(neighbours, "neighbours")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n, dtype = vision_tokens.shape[1], wide(vision_tokens.dtype)
        k = self.output_length(n)
        a, keys = context["importance"], context["keys"]
        positions, kept = best(a, k), top(a, k - 1)  # the former also holds the best of the others
        is_kept = torch.zeros_like(a, dtype=torch.bool).scatter_(1, kept, True)
        whole = is_kept.gather(1, positions).unsqueeze(-1)  # b k 1; False in the row of the others
        near = cosine_between(take(keys, positions), keys)
        near.scatter_(2, positions.unsqueeze(-1), -torch.inf)  # no neighbour of its own
        chosen = top(near, min(self.neighbours, n - 1))
        added = torch.zeros_like(near, dtype=torch.bool).scatter_(2, chosen, True)
        added = torch.where(whole, added, ~is_kept.unsqueeze(1))
        weights = added * a.to(dtype).unsqueeze(1) + themselves(positions, n, dtype) * whole
        return Compressed.mix(vision_tokens, weights, positions)

    @staticmethod
    def suggest_num_tokens(importance: Tensor) -> list[int]:
        """Return for each sample 1 + the number of outliers, `a > Q3 + 1.5 (Q3 - Q1)`: the published budget.

        Args:
            importance: (b, n), finite.

        Raises:
            ShapeError, NonFiniteError: it is no such tensor.

        Example:
            >>> PruMerge.suggest_num_tokens(torch.tensor([[1.0, 1, 1, 1, 1, 9], [1, 2, 3, 4, 5, 6]]))
            [2, 1]
        """
        if importance.ndim != 2 or importance.shape[1] < 1:
            raise ShapeError(f"importance must be (batch, tokens), got shape {tuple(importance.shape)}")
        check_finite([("importance", importance)])
        a = importance.double()
        first, third = torch.quantile(a, 0.25, dim=1, keepdim=True), torch.quantile(a, 0.75, dim=1, keepdim=True)
        return (1 + (a > third + 1.5 * (third - first)).sum(1)).tolist()
