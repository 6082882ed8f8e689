"""The tokens that receive most attention: the plainest use of the tower's own scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from .base import TokenCompressor
from .compressed import Compressed
from .registry import register_compressor


@register_compressor("attention_topk")
class AttentionTopK(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens of largest importance, in their order; equal ones go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.

    Shape: (b, n, d) and importance (b, n) -> (b, k, d); `scores` (b, n) is the importance.

    Cost: n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> AttentionTopK(num_tokens=3).compress(x, importance=a).positions
        tensor([[1, 3, 4]])

    Source: Zhang et al., [CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference
    Faster (FasterVLM), 2024, arXiv 2412.01818 (version 1). Differs from it in that a tower without a [CLS] token gives
    the mean attention that each token receives.
    """

    needs = frozenset({"importance"})
    also_known_as = ("fastervlm", "faster_vlm", "cls_attention", "attention")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        importance = context["importance"].detach()
        kept = ops.topk_gather(vision_tokens, importance, self.output_length(vision_tokens.shape[1]))
        return Compressed(kept.tokens, kept.positions, None, importance.float())
