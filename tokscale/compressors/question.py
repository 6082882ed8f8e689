"""How vision tokens meet the question: widths, the mask, cosines with the unmasked question tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ShapeError
from .compressed import wide
from .similarity import unit


def image_side(vision_tokens: Tensor, aligned_tokens: Tensor | None, text_tokens: Tensor) -> Tensor:
    """Return the tokens that meet the text, detached: `aligned_tokens` where given, else the vision tokens.

    Raises:
        ShapeError: they are not as wide as the text.
    """
    image = vision_tokens if aligned_tokens is None else aligned_tokens
    if image.shape[-1] != text_tokens.shape[-1]:
        raise ShapeError(
            f"{'vision' if aligned_tokens is None else 'aligned'}_tokens has width {image.shape[-1]} and "
            f"text_tokens {text_tokens.shape[-1]}; pass aligned_tokens= in the text's space"
        )
    return image.detach()


def question(text_tokens: Tensor, text_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the question with zeros where it is masked, detached, and its (b, t) mask, True = keep."""
    text = text_tokens.detach()
    if text_mask is None:
        return text, text.new_ones(text.shape[:2], dtype=torch.bool)
    return text.masked_fill(~text_mask.unsqueeze(-1), 0), text_mask


def text_cosine(image: Tensor, text: Tensor) -> Tensor:
    """Return the (b, n, t) cosines of tokens with a question from `question`; 0 where either is zero or masked."""
    direction = unit(image)
    return direction @ unit(text).to(direction.dtype).transpose(1, 2)


def mean_text_cosine(image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Return (b, n): the mean cosine with the unmasked question tokens; 0 for an empty question."""
    direction = unit(image)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    mean = unit(text).to(direction.dtype).sum(1) / count  # the mean cosine is the product with the mean direction
    twice = mean.unsqueeze(2).expand(-1, -1, 2)  # with one column, one sample would round otherwise than two
    return (direction @ twice)[..., 0]


def mean_question(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mean of the unmasked question tokens, (b, d_t) in float32 or wider, and whether there is one, (b, 1).

    Args:
        text: (b, t, d_t), t may be 0. mask: (b, t), True = keep; None keeps all.
    """
    if mask is None:
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    count = mask.sum(1, keepdim=True)
    total = text.to(wide(text.dtype)).masked_fill(~mask.unsqueeze(-1), 0).sum(1)
    return total / count.clamp(min=1), count > 0
