"""The tokens that a learned score, relative to the image as a whole, ranks highest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from .._checks import positive_int
from ..errors import CompressorError
from .base import TokenCompressor
from .compressed import Compressed, wide
from .layers import check_width, module_dtype, real
from .registry import register_compressor
from .soft_topk import straight_through


@register_compressor("vision_selector")
class VisionSelector(TokenCompressor):
    """The `k = min(num_tokens, n)` tokens of highest learned score, in their order.

        s_i = (W_q x_i + b) . mean_j(W_k x_j + b') / sqrt(hidden)

    Equal scores go to the lower index. While training, kept tokens are `x_i (1 + p_i - p_i.detach())`: bitwise x_i,
    with the gradient of a soft top-k `p_i = sigmoid(s_i/T + z)`, `sum p = k`: with v = p (1 - p) and g = dL/dp,
    `dL/ds = (v g - v sum(v g)/sum(v))/T`, so that tokens not kept learn too. Scores are products of two projections:
    at high rates they grow until every p is 0 or 1 and no gradient is left (inside the demo model at 2e-3, not 2e-4).

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        dim: width of the vision tokens.
        hidden: width of the two projections; `max(1, dim // 2)` if None.
        temperature: T > 0 of the soft top-k.

    Shape: (b, n, dim) -> (b, k, dim); `scores` (b, n).

    Raises:
        ArgumentError: `temperature` is no number above 0.
        ShapeError: tokens of another width than `dim`.

    Cost: n dim hidden multiply-adds a sample, then n log n.

    Example:
        >>> VisionSelector(num_tokens=4, dim=16)(torch.randn(2, 36, 16)).shape
        torch.Size([2, 4, 16])

    Source: Zhu, Zhu, Lu, Yan, Li, Liu, Fu, Zha, VisionSelector: End-to-End Learnable Visual Token Compression for
    Efficient Multimodal LLMs, 2025, arXiv 2510.16598. Differs from it in that projections start with a standard
    deviation of .02 (1e-4 leaves fresh scores to rounding), and in a temperature that the caller lowers.
    """

    trainable = True
    also_known_as = ("visionselector", "learned_selector")

    def __init__(self, num_tokens: int, dim: int, hidden: int | None = None, temperature: float = 1.0) -> None:
        super().__init__(num_tokens)
        self.dim = positive_int(dim, "dim")
        self.hidden = None if hidden is None else positive_int(hidden, "hidden")
        self.temperature = real("temperature", temperature, above=0)
        width = self.hidden or max(1, self.dim // 2)
        self.to_q, self.to_k = nn.Linear(self.dim, width), nn.Linear(self.dim, width)
        for layer in (self.to_q, self.to_k):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self._gap: Tensor | None = None

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        k = self.output_length(vision_tokens.shape[1])
        check_width(self, "vision_tokens", vision_tokens, self.dim)
        x = vision_tokens.to(module_dtype(self))
        dtype = wide(vision_tokens.dtype)
        key = self.to_k(x.mean(1, keepdim=True)).to(dtype)  # the mean of projections is the projection of the mean
        scores = (self.to_q(x).to(dtype) * key).sum(-1) / key.shape[-1] ** 0.5
        if self.training and torch.is_grad_enabled():
            tokens, positions, p = straight_through(vision_tokens, scores, k, self.temperature)
            self._gap = p - torch.zeros_like(p).scatter_(1, positions, 1)
        else:
            tokens, positions = ops.topk_gather(vision_tokens, scores.detach(), k)
        return Compressed(tokens, positions, None, scores.float())

    def constraint_loss(self) -> Tensor:
        """Return `mean (p - kept)^2` of the last training step, kept = 1 for a kept token, else 0; with a gradient.

        Added to the loss it drives the soft selection to a hard one. It holds that step's graph.

        Raises:
            CompressorError: there was no training step.

        Example:
            >>> selector = VisionSelector(num_tokens=4, dim=16).train()
            >>> loss = selector(torch.randn(2, 36, 16)).square().mean() + selector.constraint_loss()
        """
        if self._gap is None:
            raise CompressorError(
                "constraint_loss() is of the last call in train() with gradients on, and there was none; "
                "call the module before it"
            )
        return self._gap.square().mean()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gap": None}  # a graph can be neither copied nor pickled
