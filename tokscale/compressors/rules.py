"""The small rules that methods share: stable order and ranks, the range from 0 to 1, norms.

Equal scores go to the lower index everywhere: every order here comes from a stable sort (`torch.topk` promises none).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.topk_gather import topk_positions
from .compressed import wide
from .similarity import HUGE, visible

FLAT = 1e-12  # scores that lie within this of one another are one score


def order(scores: Tensor) -> Tensor:
    """Return the indices of (..., n) scores from the largest down, int64; equal scores in ascending index."""
    return scores.sort(dim=-1, descending=True, stable=True).indices


def top(scores: Tensor, m: int) -> Tensor:
    """Return (..., m) indices of the m largest scores, largest first; equal scores go to the lower index."""
    return order(scores)[..., :m]


def best(scores: Tensor, k: int) -> Tensor:
    """Return (b, k) positions, ascending, of the k >= 1 largest of (b, n) scores; equal ones go to the lower index."""
    return topk_positions(scores.detach(), k, None, "auto")


def ranks(scores: Tensor) -> Tensor:
    """Return each score's place in `order`, int64 of the same shape: 0 is the largest."""
    by_rank = order(scores)
    place = torch.arange(scores.shape[-1], device=scores.device).expand_as(by_rank)
    return torch.empty_like(by_rank).scatter_(-1, by_rank, place)


def kept(mask: Tensor, k: int) -> Tensor:
    """Return (b, k) int64: where a (b, n) mask that holds k True a sample is True, ascending; no synchronisation."""
    return mask.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[:, :k]


def minmax(scores: Tensor) -> Tensor:
    """Return `(v - min)/(max - min)` over the last axis in float32 or wider; 1 where the range is at most 1e-12."""
    v = scores.double()
    low, high = v.aminmax(dim=-1, keepdim=True)
    size = high - low
    return torch.where(size <= FLAT, 1.0, (v - low) / size.clamp(min=FLAT)).to(wide(scores.dtype))


def norms(x: Tensor, p: int = 2) -> Tensor:
    """Return the (b, n) p-norms of tokens in float64; powers that leave the range of x's dtype are no matter."""
    x = x.detach().to(wide(x.dtype))
    norm = torch.linalg.vector_norm(x, p, dim=-1)
    plain = (norm >= 1 / HUGE) & (norm <= HUGE)
    if visible(x) and bool(plain.all()):
        return norm.double()
    size = torch.linalg.vector_norm(x, math.inf, dim=-1)
    scaled = torch.linalg.vector_norm(x / size.masked_fill(size == 0, 1).unsqueeze(-1), p, dim=-1)
    return torch.where(plain, norm.double(), scaled.double() * size.double())
