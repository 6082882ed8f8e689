"""Coverage of the question and of the image at once, by the same tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import TokenCompressor
from .compressed import Compressed, take
from .coverage import cover
from .layers import real
from .question import image_side, question, text_cosine
from .registry import register_compressor
from .similarity import cosine_matrix


@register_compressor("mmtok")
class MMTok(TokenCompressor):
    """`k = min(num_tokens, n)` tokens that cover, as in `scope`, the question's tokens and the image's own.

    Rows to cover: `softmax_j(cos(t_m, x_j)/text_temperature)/M` for each question token m = 1..M, and
    `vision_weight softmax_j(c_ij/vision_temperature)/n` for each token i. With C these rows and b = 0, k times:
    `j = argmax_{j not in S} sum_r max(0, C_rj - b_r)`, then `b = max(b, C_.j)`. Ties go to the lower index. An empty
    question leaves the image's rows alone.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        text_temperature, vision_temperature: > 0; small ones make each row look at its nearest tokens only.
        vision_weight: of the image's rows against the question's, >= 0.

    Shape: (b, n, d) and a question (b, t, d) -> (b, k, d).

    Raises:
        ArgumentError: a temperature or weight is out of range.
        ShapeError: a question of another width than the tokens and no `aligned_tokens`.

    Cost: n^2 d for the cosines, n d t for the question, at most k n (n + t) for the choice; on the
    CPU about n (n + t) log k.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> MMTok(num_tokens=3).compress(x, text_tokens=torch.tensor([[[1.0, 3], [2, 1]]])).positions
        tensor([[2, 3, 5]])

    Source: Dong et al., MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs, 2025, arXiv
    2508.18264. Differs from it in that gains are summed exactly, so that tokens that add the same tie.
    """

    needs = frozenset({"text"})
    uses = frozenset({"aligned"})
    question_aware = True
    also_known_as = ("mm_tok", "multimodal_coverage")

    def __init__(
        self,
        num_tokens: int,
        text_temperature: float = 0.01,
        vision_temperature: float = 0.2,
        vision_weight: float = 0.5,
    ) -> None:
        super().__init__(num_tokens)
        self.text_temperature = real("text_temperature", text_temperature, above=0)
        self.vision_temperature = real("vision_temperature", vision_temperature, above=0)
        self.vision_weight = real("vision_weight", vision_weight, least=0)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        image = image_side(vision_tokens, context["aligned_tokens"], context["text_tokens"])
        text, mask = question(context["text_tokens"], context["text_mask"])
        words = torch.softmax(text_cosine(image, text) / self.text_temperature, dim=1)  # b n t, over the image's tokens
        words = words * mask.unsqueeze(1) / mask.sum(1).clamp(min=1).view(b, 1, 1)
        likeness = torch.softmax(cosine_matrix(vision_tokens).div_(self.vision_temperature), dim=2)
        rows = torch.empty(b, text.shape[1] + n, n, dtype=torch.float64, device=likeness.device)
        rows[:, : text.shape[1]] = words.transpose(1, 2)
        rows[:, text.shape[1] :] = likeness.mul_(self.vision_weight / n)
        positions = cover(rows, self.output_length(n), total=1 + self.vision_weight).sort(dim=1).values
        return Compressed(take(vision_tokens, positions), positions)
