"""Duplication counted from a few pivots: each pivot keeps the tokens that are least like it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from ..errors import ShapeError
from .base import TokenCompressor
from .compressed import Compressed, take
from .layers import whole
from .question import question
from .registry import register_compressor
from .rules import best, kept, norms, top
from .similarity import cosine_between


@register_compressor("dart")
class DART(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: a few pivots of large norm, and those that duplicate a pivot least.

    Image pivots: the `min(image_pivots, k)` tokens of largest `||x_i||_1`; they are kept. Text pivots: the
    `min(text_pivots, M)` question tokens of largest `||t_m||_1`. The other places are dealt over all pivots, image
    pivots first, each in ascending position, the first of them one more; in turn each claims its number of tokens of
    lowest cosine to it among those left. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        image_pivots: an integer >= 1.
        text_pivots: an integer >= 0; 0 needs no question.

    Shape: (b, n, d) and a question (b, t, d) -> (b, k, d).

    Raises:
        BudgetError: `image_pivots` is no integer >= 1.
        ArgumentError: `text_pivots` is no integer >= 0.
        ShapeError: a question of another width than the tokens.

    Cost: n d (image_pivots + text_pivots), and as many sorts of n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> text = torch.tensor([[[1.0, 3], [2, 1]]])
        >>> DART(num_tokens=3, image_pivots=1, text_pivots=1).compress(x, text_tokens=text).positions
        tensor([[0, 4, 5]])

    Source: Wen et al., Stop Looking for "Important Tokens" in Multimodal Language Models: Duplication Matters More,
    2025, arXiv 2502.11494. Differs from it in that exactly k tokens are kept, and in that embeddings are compared and
    not the keys of a decoder layer.
    """

    needs = frozenset({"text"})
    question_aware = True
    also_known_as = ("duplication", "duplication_aware")

    def __init__(self, num_tokens: int, image_pivots: int = 4, text_pivots: int = 4) -> None:
        super().__init__(num_tokens)
        self.image_pivots = positive_int(image_pivots, "image_pivots")
        self.text_pivots = whole("text_pivots", text_pivots)
        self.needs = frozenset({"text"} if self.text_pivots else ())
        self.question_aware = self.text_pivots > 0

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x = vision_tokens.detach()
        b, n, d = x.shape
        k = self.output_length(n)
        own = best(norms(x, 1), min(self.image_pivots, k))
        cosine = cosine_between(take(x, own), x)  # b pivots n
        real = torch.ones_like(own, dtype=torch.bool)  # a pivot that only fills a shorter question's row claims none
        if self.text_pivots:
            text_tokens = context["text_tokens"]
            if text_tokens.shape[-1] != d:
                raise ShapeError(
                    f"text_tokens has width {text_tokens.shape[-1]} and vision_tokens {d}; dart compares the two "
                    "directly: pass the question in the tokens' space, or set text_pivots=0"
                )
            pivots, present = self._of_question(*question(text_tokens, context["text_mask"]))
            likeness = cosine_between(pivots, x)
            likeness = likeness.masked_fill(~pivots.any(-1, keepdim=True), 0)  # between image and text: 0, not 1
            cosine, real = torch.cat([cosine, likeness.to(cosine.dtype)], 1), torch.cat([real, present], 1)
        count = real.sum(1, keepdim=True)
        left = k - own.shape[1]
        quota = (left // count + (torch.arange(real.shape[1], device=x.device) < left % count)) * real
        taken = torch.zeros(b, n, dtype=torch.bool, device=x.device).scatter_(1, own, True)
        for nearest_last, claims in zip(
            cosine.sort(dim=2, stable=True).indices.unbind(1), quota.unbind(1), strict=True
        ):
            free = ~taken.gather(1, nearest_last)
            claimed = free & (free.cumsum(1) <= claims.unsqueeze(1))
            taken.scatter_(1, nearest_last, claimed | ~free)
        positions = kept(taken, k)
        return Compressed(take(vision_tokens, positions), positions)

    def _of_question(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The (b, p, d) text pivots in ascending position, those that are there first, and which are there."""
        size = norms(text, 1).masked_fill(~mask, -1)
        chosen = top(size, min(self.text_pivots, text.shape[1]))
        absent = size.gather(1, chosen) < 0
        chosen = chosen.masked_fill(absent, text.shape[1]).sort(dim=1).values
        present = chosen < text.shape[1]
        return take(text, chosen.clamp(max=max(0, text.shape[1] - 1))), present
