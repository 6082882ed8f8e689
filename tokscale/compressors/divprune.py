"""Max-min diversity: each token chosen is the one farthest from those already chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from .base import TokenCompressor
from .compressed import Compressed, take
from .registry import register_compressor
from .similarity import cosine_distance


@register_compressor("divprune")
class DivPrune(TokenCompressor):
    """`k = min(num_tokens, n)` tokens that lie far apart in cosine distance `D = 1 - c`.

    First `argmax_j min_{i != j} D_ij`, then `argmax_{j not in S} min_{i in S} D_ij`; ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: n^2 d for the distances, k n for the choice.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> DivPrune(num_tokens=3).compress(x).positions
        tensor([[0, 3, 5]])

    Source: Alvar, Singh, Akbari, Zhang, DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models,
    2025, arXiv 2503.02175. Differs from it in that a chosen token is taken out, so equal tokens never repeat one.
    """

    also_known_as = ("div_prune", "max_min", "diversity")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        k = self.output_length(vision_tokens.shape[1])
        chosen = ops.greedy_select(cosine_distance(vision_tokens), k, method="max_min")
        positions = chosen.positions.sort(dim=1).values
        return Compressed(take(vision_tokens, positions), positions)
