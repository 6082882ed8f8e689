"""The tokens most like the question, and one mean of the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import one_of
from .base import TokenCompressor
from .compressed import Compressed, wide
from .groups import averages, members
from .question import image_side, mean_question
from .registry import register_compressor
from .rules import norms, top
from .similarity import unit


@register_compressor("trim")
class TRIM(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: the k - 1 of highest `s`, unchanged, and the mean of all the others.

    `s_i = text_sign * cos(x_i, mean_m t_m)`; for an empty question `||x_i||`. Ties go to the lower index. The mean
    stands where the best of the others is.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        text_sign: 1, or -1 for CLIP towers, whose patch-text cosine is inverted.

    Shape: (b, n, d) and (b, t, d) -> (b, k, d); `scores` (b, n). With `aligned_tokens` (b, n, d_t) the question is
    (b, t, d_t).

    Raises:
        ShapeError: a question of another width than the tokens and no `aligned_tokens`.

    Cost: n d for the scores, n log n, k n d multiply-adds for the mixture.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> TRIM(num_tokens=3)(x, text_tokens=torch.tensor([[[1.0, 3], [2, 1]]])).tolist()
        [[[1.25, 2.0], [3.0, 2.0], [0.0, 4.0]]]

    Source: Song, Wang, Chen, Wang, Guan, Wang, Less is More: A Simple yet Effective Token Reduction Method for
    Efficient Multi-modal LLMs, 2024, arXiv 2409.10994. Differs from it in that k is given; published, it is the number
    of outliers by the interquartile range.
    """

    needs = frozenset({"text"})
    uses = frozenset({"aligned"})
    question_aware = True
    mixture = True
    also_known_as = ("less_is_more", "clip_metric")

    def __init__(self, num_tokens: int, text_sign: int = 1) -> None:
        super().__init__(num_tokens)
        self.text_sign = int(one_of("text_sign", text_sign, (1, -1)))

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n, dtype = vision_tokens.shape[1], wide(vision_tokens.dtype)
        k = self.output_length(n)
        image = unit(image_side(vision_tokens, context["aligned_tokens"], context["text_tokens"]))
        mean, asked = mean_question(context["text_tokens"].detach(), context["text_mask"])
        likeness = (image * unit(mean).to(image.dtype).unsqueeze(1)).sum(-1)  # row by row: equal tokens tie exactly
        scores = torch.where(asked, self.text_sign * likeness.to(dtype), norms(vision_tokens))
        ranked = top(scores, k)
        positions = ranked.sort(1).values
        last = ranked[:, -1:]  # the best of the others
        owner = last.repeat(1, n).scatter_(1, ranked, ranked)  # a kept token is its own
        return Compressed.mix(vision_tokens, averages(members(owner, positions), dtype), positions, scores.float())
