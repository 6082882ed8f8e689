"""The k tokens of highest score, by norm, by likeness to the question, by attention received, or by a learned score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._checks import one_of, positive_int
from ..errors import ArgumentError
from .base import TokenCompressor
from .compressed import Compressed, wide
from .layers import check_width, layer_norm, module_dtype, real
from .question import image_side, mean_text_cosine, question, text_cosine
from .registry import register_compressor
from .rules import norms
from .soft_topk import straight_through

NEEDS = {"norm": (), "text": ("text",), "importance": ("importance",), "learned": ()}


@register_compressor("topk")
class TopKSelector(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens of highest score `s`, in their order; equal scores go to the lower index.

    `score="norm"`: `s_i = ||x_i||_2`. `"text"`: `s_i = text_sign * mean_m cos(x_i, t_m)` over the question's tokens
    (`text_reduce="max"`: the maximum over m of `text_sign * cos`); an empty question gives the norm. `"importance"`:
    the attention received. `"learned"`: `W2 GELU(W1 LayerNorm(x))`; while training, kept tokens are
    `x_i (1 + p_i - p_i.detach())`: bitwise x_i, with the gradient of a soft top-k `p_i = sigmoid(s_i/T + z)`,
    `sum p = k`, so that tokens not kept learn too.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        score: "norm", "text", "importance" or "learned".
        dim: width of the vision tokens; needed by "learned".
        hidden: width of the learned score's hidden layer; `max(1, dim // 4)` if None.
        text_sign: 1, or -1 for CLIP towers, whose patch-text cosine is inverted.
        text_reduce: "mean" or "max" over the question's tokens.
        temperature: T > 0 of the soft top-k.

    Shape: (b, n, d) -> (b, k, d); `scores` (b, n).

    Raises:
        ArgumentError: an unknown option, or "learned" without `dim`.
        ShapeError: a question of another width than the tokens and no `aligned_tokens`; tokens of another width than
            `dim`.

    Cost: n d for the norm, n d t for the question, n dim hidden for the learned score, then n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> TopKSelector(num_tokens=3).compress(x).positions
        tensor([[0, 1, 4]])

    Source: straight-through gradients: Bengio, Leonard, Courville, Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation, 2013, arXiv 1308.3432; differs from it in that the soft values sum
    to k.
    """

    also_known_as = ("top_k", "topk_selector", "top_k_selector")

    def __init__(
        self,
        num_tokens: int,
        score: str = "norm",
        dim: int | None = None,
        hidden: int | None = None,
        text_sign: int = 1,
        text_reduce: str = "mean",
        temperature: float = 1.0,
    ) -> None:
        super().__init__(num_tokens)
        self.score = one_of("score", score, NEEDS)
        self.dim = None if dim is None else positive_int(dim, "dim")
        self.hidden = None if hidden is None else positive_int(hidden, "hidden")
        self.text_sign = int(one_of("text_sign", text_sign, (1, -1)))
        self.text_reduce = one_of("text_reduce", text_reduce, ("mean", "max"))
        self.temperature = real("temperature", temperature, above=0)
        self.needs = frozenset(NEEDS[score])
        self.uses = frozenset({"aligned"} if score == "text" else ())
        self.question_aware = score == "text"
        self.trainable = score == "learned"
        if self.trainable:
            if self.dim is None:
                raise ArgumentError('score="learned" needs dim, the width of the vision tokens')
            width = self.hidden or max(1, self.dim // 4)
            self.norm = layer_norm(self.dim)
            self.mlp = nn.Sequential(nn.Linear(self.dim, width), nn.GELU(), nn.Linear(width, 1))

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        k = self.output_length(vision_tokens.shape[1])
        scores = self._scores(vision_tokens, **context)
        if self.trainable and self.training and torch.is_grad_enabled():
            tokens, positions, _ = straight_through(vision_tokens, scores, k, self.temperature)
        else:
            tokens, positions = ops.topk_gather(vision_tokens, scores.detach(), k)
        return Compressed(tokens, positions, None, scores.float())

    def _scores(
        self,
        x: Tensor,
        *,
        text_tokens: Tensor | None = None,
        text_mask: Tensor | None = None,
        aligned_tokens: Tensor | None = None,
        importance: Tensor | None = None,
    ) -> Tensor:
        """(b, n), higher = keep, in float32 or wider."""
        if importance is not None:
            return importance.to(wide(importance.dtype))
        if self.score == "learned":
            check_width(self, "vision_tokens", x, self.dim)
            return self.mlp(self.norm(x.to(module_dtype(self.norm)))).squeeze(-1).to(wide(x.dtype))
        norm = norms(x)  # float64: it may be larger than any number of float32
        if text_tokens is None:
            return norm
        image = image_side(x, aligned_tokens, text_tokens)
        text, mask = question(text_tokens, text_mask)
        if text.shape[1] == 0:
            return norm
        if self.text_reduce == "mean":
            scores = self.text_sign * mean_text_cosine(image, text, mask)
        else:
            cosine = self.text_sign * text_cosine(image, text)  # b n t
            scores = cosine.masked_fill(~mask.unsqueeze(1), -math.inf).amax(-1)
        return torch.where(mask.any(1, keepdim=True), scores.to(norm.dtype), norm)
