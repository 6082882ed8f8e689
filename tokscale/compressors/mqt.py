"""One set of learned queries for all budgets: the first k of them read the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import one_of, positive_int
from .attention_layers import Attention, sine_cosine
from .base import TokenCompressor
from .cells import anchors
from .compressed import Compressed, per_sample
from .layers import check_queries, check_width, layer_norm, module_dtype
from .registry import register_compressor


@register_compressor("mqt")
class MQTResampler(TokenCompressor):
    """`k = min(num_tokens, n)` tokens, one for each of the first k learned queries E.

        y = Attn(LN(E[:k] + pos(anchor)), LN(x + pos), LN(x))

    Attn is multi-head attention of queries, keys, values, with a Linear behind it; pos is the 2-D sine-cosine code of a
    token's row and column, anchor the token at the centre of each of the k cells of the grid. `keys="position"` takes
    LN(pos) as keys: where a query looks then does not depend on the image. Train with a random budget per step.

    Args:
        num_tokens: tokens to return, an integer from 1 to `num_queries`.
        dim: width of the vision tokens.
        num_queries: learned queries, the largest budget.
        num_heads: attention heads; divides `dim`.
        keys: "content" or "position".

    Shape: (b, n, dim) -> (b, k, dim).

    Raises:
        BudgetError: `num_tokens` above `num_queries`.
        ArgumentError: `num_heads` does not divide `dim`, or an unknown option.
        ShapeError: tokens of another width than `dim`.

    Cost: 2 n dim^2 + 2 k n dim multiply-adds a sample.

    Example:
        >>> MQTResampler(num_tokens=4, dim=16)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 4, 16])

    Source: Hu, Dou, Li, Kamath, Peng, Chang, Matryoshka Query Transformer for Large Vision-Language Models, 2024, arXiv
    2405.19315. Differs from it in that the keys hold the image's content (`keys="position"` is the published code), in
    that a query's position is the anchor of its cell at the asked budget, and in one Linear behind the attention.
    """

    uses = frozenset({"grid"})
    trainable = True
    mixture = True
    also_known_as = ("matryoshka_query_transformer", "mqt_resampler", "mqt_llava")

    def __init__(
        self, num_tokens: int, dim: int, num_queries: int = 256, num_heads: int = 8, keys: str = "content"
    ) -> None:
        self.num_queries = positive_int(num_queries, "num_queries")
        super().__init__(num_tokens)
        self.dim, self.num_heads = positive_int(dim, "dim"), positive_int(num_heads, "num_heads")
        self.keys = one_of("keys", keys, ("content", "position"))
        self.attention = Attention(self.dim, self.num_heads)
        self.queries = nn.Parameter(0.02 * torch.randn(self.num_queries, self.dim))
        self.norm_queries, self.norm_keys, self.norm_values = (layer_norm(self.dim) for _ in range(3))

    def check_budget(self, num_tokens: int) -> None:
        check_queries(self, num_tokens)
        super().check_budget(num_tokens)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        k, grid, dtype = self.output_length(n), context["grid"], module_dtype(self)
        check_width(self, "vision_tokens", vision_tokens, self.dim)
        x, places = vision_tokens.to(dtype), anchors(k, grid, vision_tokens.device)
        positions = sine_cosine(grid, self.dim, dtype, x.device)  # n dim
        keys = self.norm_keys(x + positions if self.keys == "content" else positions.expand(b, -1, -1))
        queries = self.norm_queries(self.queries[:k] + positions[places]).expand(b, -1, -1)
        tokens = self.attention(queries, keys, self.norm_values(x))
        return Compressed(tokens.to(vision_tokens.dtype), per_sample(places, b))
