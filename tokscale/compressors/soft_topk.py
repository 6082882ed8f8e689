"""A soft top-k: weights in (0, 1) that sum to k, with an exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops

STEPS = 64  # bisections: more than the bits of a float64 mantissa


def soft_topk(scores: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Return `p_i = sigmoid(s_i/T + z)` with z such that `sum p = k`; at k = n, ones without a gradient.

    Args:
        scores: (b, n).
        k: 1 <= k <= n.
        temperature: T > 0; small values give nearly 0 and 1.

    Shape: (b, n) -> (b, n).

    Cost: 64 n a sample.

    Example:
        >>> soft_topk(torch.tensor([[1.0, 0, -1, 2]]), 2)
        tensor([[0.6225, 0.3775, 0.1824, 0.8176]])
    """
    if k == scores.shape[1]:
        return torch.ones_like(scores)
    return _SoftTopK.apply(scores, k, temperature)


def straight_through(
    vision_tokens: Tensor, scores: Tensor, k: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k tokens of highest score, their positions, and `p = soft_topk(scores, k, temperature)`.

    The tokens are `x_i (1 + p_i - p_i.detach())`: bitwise x_i, with the gradient of p to the scores.

    Args:
        vision_tokens: (b, n, d). scores: (b, n).

    Shape: -> (b, k, d), (b, k), (b, n).
    """
    tokens, positions = ops.topk_gather(vision_tokens, scores.detach(), k)
    p = soft_topk(scores, k, temperature)
    kept = p.gather(1, positions)
    gate = 1 + (kept - kept.detach())  # exactly 1
    return tokens * gate.unsqueeze(-1).to(tokens.dtype), positions, p


class _SoftTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int, temperature: float) -> Tensor:
        s = scores.double() / temperature
        low = -s.amax(1, keepdim=True) - 40
        high = -s.amin(1, keepdim=True) + 40
        for _ in range(STEPS):
            middle = (low + high) / 2
            enough = torch.sigmoid(s + middle).sum(1, keepdim=True) >= k
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        p = torch.sigmoid(s + (low + high) / 2)
        ctx.temperature = temperature
        ctx.save_for_backward(p)
        return p.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        v = p * (1 - p)
        g = grad.double()
        total = v.sum(1, keepdim=True)
        mean = (v * g).sum(1, keepdim=True) / total.clamp(min=torch.finfo(v.dtype).tiny)  # 0 where all p are 0 or 1
        return ((v * (g - mean)) / ctx.temperature).to(grad.dtype), None, None
