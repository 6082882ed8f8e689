"""Coverage weighted by attention: each token chosen stands for much that none before it stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from .base import TokenCompressor
from .compressed import Compressed, take
from .coverage import cover
from .layers import real
from .registry import register_compressor
from .similarity import cosine_matrix


@register_compressor("scope")
class SCOPE(TokenCompressor):
    """`k = min(num_tokens, n)` tokens that cover all tokens by cosine, where a token of more importance counts more.

    With b = 0, k times: `j = argmax_{j not in S} a_j^alpha sum_i max(0, c_ij - b_i)`, then `b = max(b, c_.j)`. Ties go
    to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        alpha: power of the importance, >= 0; 0 is facility location, which needs no importance.

    Shape: (b, n, d) and importance (b, n) -> (b, k, d).

    Raises:
        ArgumentError: `alpha` is negative, or an importance is.

    Cost: n^2 d for the cosines, at most k n^2 for the choice; on the CPU about n^2 log k.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> SCOPE(num_tokens=3).compress(x, importance=a).positions
        tensor([[1, 3, 5]])

    Source: Deng et al., SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs, 2025, arXiv
    2510.24214. Differs from it in that gains are summed exactly, so that tokens that add the same tie.
    """

    needs = frozenset({"importance"})
    also_known_as = ("saliency_coverage", "facility_location", "coverage")

    def __init__(self, num_tokens: int, alpha: float = 1.0) -> None:
        super().__init__(num_tokens)
        self.alpha = real("alpha", alpha, least=0)
        self.needs = frozenset({"importance"} if self.alpha > 0 else ())

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n = vision_tokens.shape[1]
        weight = self._weight(context["importance"].detach().double()) if self.alpha > 0 else None
        chosen = cover(cosine_matrix(vision_tokens), self.output_length(n), total=n, weight=weight)
        positions = chosen.sort(dim=1).values
        return Compressed(take(vision_tokens, positions), positions)

    def _weight(self, a: Tensor) -> Tensor:
        if self.check_finite and not torch.compiler.is_compiling() and a.device.type != "meta" and bool((a < 0).any()):
            row, column = (a < 0).nonzero()[0].tolist()
            raise ArgumentError(
                f"importance must be >= 0, as its power {self.alpha:g} is a weight, "
                f"got {a[row, column]:g} at token {column} of sample {row}"
            )
        return (a / a.amax(1, keepdim=True).clamp(min=torch.finfo(a.dtype).tiny)).pow(self.alpha)
