"""Means over nested grids: one model trained at many lengths, each a coarser view of the same image."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .cells import pooling
from .compressed import Compressed, wide
from .registry import register_compressor


@register_compressor("m3")
class MatryoshkaPooler(TokenCompressor):
    """Means of `k = min(num_tokens, n)` cells of the grid, as `adaptive_pool`, with the nested budgets to train at.

    The method is its training: `nested_budgets(h, w)` lists the lengths of the nested grids, and the language model
    is tuned with a random one of them in each step; then any of them can be asked for.

    Args:
        num_tokens: cells, an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: k n d multiply-adds a sample; the matrix is cached per (k, grid, dtype, device).

    Example:
        >>> MatryoshkaPooler.nested_budgets(24, 24)
        [576, 144, 36, 9, 4, 1]
        >>> MatryoshkaPooler(num_tokens=1)(torch.arange(8.0).view(1, 4, 2))
        tensor([[[3., 4.]]])

    Source: Cai, Yang, Gao, Lee, Matryoshka Multimodal Models, 2024, arXiv 2405.17430. Differs from it in that any
    budget and any grid are possible: cells of `cells` stand for the 2 x 2 pooling of a square grid.
    """

    uses = frozenset({"grid"})
    mixture = True
    also_known_as = ("matryoshka", "matryoshka_pooler", "matryoshka_multimodal")

    @staticmethod
    def nested_budgets(h: int, w: int) -> list[int]:
        """Return `h w`, then both sides halved upwards time and again, down to 1.

        Raises:
            BudgetError: a side is no integer >= 1.
        """
        h, w = positive_int(h, "h"), positive_int(w, "w")
        found = [h * w]
        while h * w > 1:
            h, w = (h + 1) // 2, (w + 1) // 2
            found.append(h * w)
        return found

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x = vision_tokens
        matrix, anchors = pooling(self.output_length(x.shape[1]), context["grid"], wide(x.dtype), x.device)
        return Compressed.mix(x, matrix, anchors)
