"""A determinantal point process conditioned on the question: diverse tokens that matter to what is asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import one_of
from .base import TokenCompressor
from .compressed import Compressed, take
from .greedy import determinantal
from .layers import fraction
from .question import image_side, mean_text_cosine, question
from .registry import register_compressor
from .rules import FLAT

LEAST = 1e-6  # relevance of the least relevant token, before it is divided by the range


@register_compressor("cdpruner")
class CDPruner(TokenCompressor):
    """`k = min(num_tokens, n)` tokens by `dpp` with the kernel `L_ij = r_i c_ij r_j`, r the relevance to the question.

    `q_i = text_sign mean_m cos(x_i, t_m)`, `r = (q - min q + 1e-6)/(max q - min q)` within each sample, 1 where the
    range is at most 1e-12; with `theta`: `r <- exp(r theta/(2(1-theta)))`. An empty question gives r = 1: plain `dpp`.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        text_sign: 1 for text in the model's own space, -1 for CLIP towers, whose patch-text cosine is inverted.
        theta: weight of relevance against diversity, in [0, 1); None takes r as it is.

    Shape: (b, n, d) and a question (b, t, d) -> (b, k, d).

    Raises:
        ArgumentError: `text_sign` or `theta` is out of range.
        ShapeError: a question of another width than the tokens and no `aligned_tokens`.

    Cost: n^2 d for the cosines, n d t for the question, k^2 n for the choice. On the CPU some 2 k n d for cosines,
    where at most an eighth of 1024 or more tokens is kept.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> CDPruner(num_tokens=3).compress(x, text_tokens=torch.tensor([[[1.0, 3], [2, 1]]])).positions
        tensor([[2, 3, 5]])

    Source: Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs,
    2025, arXiv 2506.10967. Differs from it in that the range is taken per sample and not over the batch, in that the
    choice goes on past the kernel's rank without repeats, and in the sign: -1 is the published setting.
    """

    needs = frozenset({"text"})
    uses = frozenset({"aligned"})
    question_aware = True
    also_known_as = ("cd_pruner", "conditional_dpp", "conditional_diversity")

    def __init__(self, num_tokens: int, text_sign: int = 1, theta: float | None = None) -> None:
        super().__init__(num_tokens)
        self.text_sign = int(one_of("text_sign", text_sign, (1, -1)))
        self.theta = None if theta is None else fraction("theta", theta, below=True)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x, k = vision_tokens, self.output_length(vision_tokens.shape[1])
        image = image_side(x, context["aligned_tokens"], context["text_tokens"])
        r = self._relevance(
            self.text_sign * mean_text_cosine(image, *question(context["text_tokens"], context["text_mask"]))
        )
        positions = determinantal(x, k, r)
        return Compressed(take(x, positions), positions)

    def _relevance(self, q: Tensor) -> Tensor:
        """(b, n) in float64; all cosines of an empty question are 0, so its range is, too."""
        low, high = q.double().aminmax(dim=1, keepdim=True)
        size = high - low
        r = torch.where(size <= FLAT, 1.0, (q - low + LEAST) / size.clamp(min=FLAT))
        if self.theta is None:
            return r
        weight = self.theta / (2 * (1 - self.theta))
        return ((r - r.amax(1, keepdim=True)) * weight).exp()  # a common factor changes no choice, and may overflow
