"""The products that both folded paths share: rows of a key head times its slice of a projection's weight."""

from __future__ import annotations

import torch
from torch import Tensor


def by_key_head(rows: Tensor, key_heads: int) -> Tensor:
    """(b, h, m, d) as (b, g, h/g m, d)."""
    b, h, m, d = rows.shape
    return rows.reshape(b, key_heads, h // key_heads * m, d)


def to_tokens(rows: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """`scale` times (b, g, r, d) times (g, d, C): one product per key head over all samples."""
    b, g, r, d = rows.shape
    flat = rows.transpose(0, 1).reshape(g, b * r, d)
    return _scaled(flat, weight, scale).view(g, b, r, -1).transpose(0, 1).contiguous()


def to_heads(tokens: Tensor, weight: Tensor) -> Tensor:
    """(b, g, r, C) times (g, d, C)': back into the heads."""
    b, g, r, c = tokens.shape
    flat = tokens.transpose(0, 1).reshape(g, b * r, c)
    return torch.bmm(flat, weight.transpose(1, 2)).view(g, b, r, -1).transpose(0, 1).contiguous()


def weight_gradient(rows: Tensor, tokens: Tensor, scale: float = 1.0) -> Tensor:
    """`scale` times rows' tokens per key head, summed over samples: (g d, C)."""
    b, g, r, d = rows.shape
    left = rows.transpose(0, 1).reshape(g, b * r, d)
    right = tokens.transpose(0, 1).reshape(g, b * r, tokens.shape[3])
    return _scaled(left.transpose(1, 2), right, scale).view(g * d, -1)


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`scale left right`; the scale is applied before the result is rounded."""
    if scale == 1.0:
        return torch.bmm(left, right)
    out = left.new_empty((left.shape[0], left.shape[1], right.shape[2]))
    return torch.baddbmm(out, left, right, beta=0, alpha=scale)
