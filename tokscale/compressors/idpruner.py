"""Maximal marginal relevance: each token chosen is important, and unlike those already chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import TokenCompressor
from .compressed import Compressed, take
from .greedy import marginal
from .layers import fraction
from .registry import register_compressor
from .rules import minmax


@register_compressor("idpruner")
class IDPruner(TokenCompressor):
    """`k = min(num_tokens, n)` tokens by maximal marginal relevance: importance against likeness to those chosen.

    Each step takes `argmax_{j not in S} balance minmax(a)_j - (1 - balance) max_{i in S} c_ij`; the first has no
    second term. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        balance: in [0, 1]: 1 looks at importance alone, 0 at diversity alone.

    Shape: (b, n, d) and importance (b, n) -> (b, k, d).

    Raises:
        ArgumentError: `balance` is out of range.

    Cost: n^2 d for the cosines, k n for the choice. On the CPU some 2 k n d for cosines, where
    at most an eighth of 1024 or more tokens is kept.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> IDPruner(num_tokens=3).compress(x, importance=a).positions
        tensor([[1, 3, 5]])

    Source: Tan et al., IDPruner: Harmonizing Importance and Diversity in Visual Token Pruning for MLLMs, 2026, arXiv
    2602.13315; maximal marginal relevance: Carbonell, Goldstein, The Use of MMR, 1998. Differs from it in `balance`,
    whose published value is unknown to us.
    """

    needs = frozenset({"importance"})
    also_known_as = ("id_pruner", "mmr", "maximal_marginal_relevance")

    def __init__(self, num_tokens: int, balance: float = 0.5) -> None:
        super().__init__(num_tokens)
        self.balance = fraction("balance", balance)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        worth = self.balance * minmax(context["importance"].detach())
        positions = marginal(vision_tokens, self.output_length(vision_tokens.shape[1]), worth, 1 - self.balance)
        return Compressed(take(vision_tokens, positions), positions)
