"""Queries pooled from image and question read the tokens of their own cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import positive_int
from .attention_layers import CellAttention, two_layers
from .base import TokenCompressor
from .cells import inside, pooling
from .compressed import Compressed, mixed, per_sample, wide
from .layers import check_width, layer_norm, module_dtype
from .question import mean_question
from .registry import register_compressor


@register_compressor("quecc")
class QueCC(TokenCompressor):
    """`k = min(num_tokens, n)` tokens, one a cell of the grid, whose queries know the question.

        z = x + LN(W_t mean_m t_m)              no shift if the question is empty
        q = P LN(MLP(z))                        P (k, n): the weights of `cells(k, grid)`
        y = Attn(q, LN(MLP_k(x)), LN(MLP_v(x))) each query over the tokens whose centre its cell holds

    Each MLP is `W2 GELU(W1 .)`; Attn is multi-head attention with a Linear behind it.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        dim: width of the vision tokens.
        text_dim: width of the question's tokens; `dim` if None.
        num_heads: attention heads; divides `dim`.

    Shape: (b, n, dim) and (b, t, text_dim) -> (b, k, dim).

    Raises:
        ArgumentError: `num_heads` does not divide `dim`.
        ShapeError: tokens of another width than the module was built for.

    Cost: 8 n dim^2 + 3 k n dim multiply-adds a sample.

    Example:
        >>> QueCC(num_tokens=4, dim=16)(torch.randn(2, 36, 16), text_tokens=torch.randn(2, 5, 16)).shape
        torch.Size([2, 4, 16])

    Source: Li, Goyal, Semedo, Kolter, Inference Optimal VLMs Need Fewer Visual Tokens and More Parameters, 2024, arXiv
    2411.03312. Differs from it in that a cell's mean stands for the strided convolution, so that any number of tokens
    is possible, in the mean of the question for its last token, and in one level of features.
    """

    needs = frozenset({"text"})
    uses = frozenset({"grid"})
    trainable = True
    question_aware = True
    mixture = True
    also_known_as = ("que_cc", "query_based_convolutional_cross_attention")

    def __init__(self, num_tokens: int, dim: int, text_dim: int | None = None, num_heads: int = 8) -> None:
        super().__init__(num_tokens)
        self.dim, self.num_heads = positive_int(dim, "dim"), positive_int(num_heads, "num_heads")
        self.text_dim = self.dim if text_dim is None else positive_int(text_dim, "text_dim")
        self.in_cells = CellAttention(self.dim, self.num_heads)
        self.from_text = nn.Sequential(nn.Linear(self.text_dim, self.dim), layer_norm(self.dim))
        self.to_queries = nn.Sequential(two_layers(self.dim, self.dim), layer_norm(self.dim))

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        k, grid, dtype, device = self.output_length(n), context["grid"], module_dtype(self), vision_tokens.device
        check_width(self, "vision_tokens", vision_tokens, self.dim)
        check_width(self, "text_tokens", context["text_tokens"], self.text_dim, "text_dim")
        x = vision_tokens.to(dtype)
        question, asked = mean_question(context["text_tokens"], context["text_mask"])
        shift = torch.where(asked, self.from_text(question.to(dtype)), 0)
        matrix, anchors = pooling(k, grid, wide(dtype), device)
        queries = mixed(self.to_queries(x + shift.unsqueeze(1)), matrix)
        tokens = self.in_cells(queries.to(dtype), x, inside(k, grid, device))
        return Compressed(tokens.to(vision_tokens.dtype), per_sample(anchors, b))
