"""The tokens that the question's relevant words attend to, at the embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from .base import TokenCompressor
from .compressed import Compressed, wide
from .question import image_side, question
from .registry import register_compressor
from .rules import norms
from .similarity import scale

SLACK = 1e-6  # of the mean: raters of equal relevance all count, however their sums were rounded


@register_compressor("text_rater")
class TextRater(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens that the image-related words of the question attend to most.

    `G_im = x_i.t_m/sqrt(d)`; relevance of a word `rho_m = mean_i softmax_m(G_i.)`; raters: the m with
    `rho_m >= mean rho`; `s_i = mean_{raters} softmax_i(G_.m)`. An empty question gives `s_i = ||x_i||`. Ties go to the
    lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.

    Shape: (b, n, d) and a question (b, t, d) -> (b, k, d); `scores` (b, n) are s.

    Raises:
        ShapeError: a question of another width than the tokens and no `aligned_tokens`.

    Cost: n d t, then n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> TextRater(num_tokens=3).compress(x, text_tokens=torch.tensor([[[1.0, 3], [2, 1]]])).positions
        tensor([[2, 3, 4]])

    Source: Zhang et al., SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, 2024,
    arXiv 2410.04417 (its raters). Differs from it in that embeddings are multiplied, where the published method reads
    the attention of decoder layers.
    """

    needs = frozenset({"text"})
    uses = frozenset({"aligned"})
    question_aware = True
    also_known_as = ("sparsevlm_rater", "raters", "text_guided")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x = vision_tokens
        text, mask = question(context["text_tokens"], context["text_mask"])
        image = image_side(x, context["aligned_tokens"], context["text_tokens"])
        scores = norms(x)
        if text.shape[1]:
            scores = torch.where(mask.any(1, keepdim=True), _rated(image, text, mask).double(), scores)
        kept = ops.topk_gather(x, scores, self.output_length(x.shape[1]))
        return Compressed(kept.tokens, kept.positions, None, scores.float())


def _rated(image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """(b, n) scores in float32 or wider."""
    product = _products(image, text) / image.shape[-1] ** 0.5  # b n t
    hidden = ~mask.unsqueeze(1)
    relevance = torch.softmax(product.masked_fill(hidden, -torch.inf), dim=2).nan_to_num().mean(1, keepdim=True)
    count = mask.sum(1).view(-1, 1, 1)
    raters = mask.unsqueeze(1) & (relevance >= (1 - SLACK) * relevance.sum(2, keepdim=True) / count)  # b 1 t
    return (torch.softmax(product, dim=1) * raters).sum(2) / raters.sum(2).clamp(min=1)


def _products(image: Tensor, text: Tensor) -> Tensor:
    """(b, n, t): huge numbers are divided out first, and their product then stands in float64."""
    image, text = image.to(wide(image.dtype)), text.to(wide(text.dtype))
    large, loud = scale(image, (1, 2)), scale(text, (1, 2))
    if large is None and loud is None:
        return image @ text.to(image.dtype).transpose(1, 2)
    one = image.new_ones(1, 1, 1)
    large, loud = one if large is None else large, one if loud is None else loud
    words = (text / large / loud).to(image.dtype).transpose(1, 2)
    return (image @ words).double() * (large.double() * loud.double())
