"""Tokens of the shrunken image read the tokens of their own cell."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .._checks import positive_int
from .attention_layers import CellAttention, two_layers
from .base import TokenCompressor
from .cells import inside, interpolation
from .compressed import Compressed, mixed, per_sample, wide
from .layers import check_width, layer_norm, module_dtype
from .registry import register_compressor


@register_compressor("token_packer")
class TokenPacker(TokenCompressor):
    """`k = min(num_tokens, n)` tokens, one a cell of the grid: a coarse token with its cell's detail put back.

        q = LN(W_q resize(x))                        `resize`: bilinear samples at the k cells' centres
        y = MLP(Attn(q, LN(MLP_k(x)), LN(MLP_v(x)))) each query over the tokens whose centre its cell holds

    Each MLP is `W2 GELU(W1 .)`; Attn is multi-head attention with a Linear behind it.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        dim: width of the vision tokens.
        num_heads: attention heads; divides `dim`.

    Shape: (b, n, dim) -> (b, k, dim).

    Raises:
        ArgumentError: `num_heads` does not divide `dim`.
        ShapeError: tokens of another width than `dim`.

    Cost: 6 n dim^2 + 3 k n dim multiply-adds a sample.

    Example:
        >>> TokenPacker(num_tokens=4, dim=16)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 4, 16])

    Source: Li, Yuan, Liu, Tang, Wang, Qin, Zhu, Zhang, TokenPacker: Efficient Visual Projector for Multimodal LLM,
    2024, arXiv 2407.02392. Differs from it in that any number of tokens is possible, in one level of features, and in
    that the tokens keep their width.
    """

    uses = frozenset({"grid"})
    trainable = True
    mixture = True
    also_known_as = ("tokenpacker", "region_to_point")

    def __init__(self, num_tokens: int, dim: int, num_heads: int = 8) -> None:
        super().__init__(num_tokens)
        self.dim, self.num_heads = positive_int(dim, "dim"), positive_int(num_heads, "num_heads")
        self.in_cells = CellAttention(self.dim, self.num_heads)
        self.to_queries = nn.Sequential(nn.Linear(self.dim, self.dim, bias=False), layer_norm(self.dim))
        self.mlp = two_layers(self.dim, self.dim)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x = vision_tokens
        b, n, _ = x.shape
        k, grid, dtype = self.output_length(n), context["grid"], module_dtype(self)
        check_width(self, "vision_tokens", x, self.dim)
        matrix, anchors = interpolation(k, grid, wide(x.dtype), x.device)
        queries = self.to_queries(mixed(x, matrix).to(dtype))
        tokens = self.mlp(self.in_cells(queries, x.to(dtype), inside(k, grid, x.device)))
        return Compressed(tokens.to(x.dtype), per_sample(anchors, b))
