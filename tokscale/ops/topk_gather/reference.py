"""The definition of `topk_gather` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_positions(scores: Tensor, num_tokens: int, mask: Tensor | None = None) -> Tensor:
    """Positions (b, k), ascending, of the k largest scores (b, n); ties to the lowest index.

    NaN ranks below -inf, and what the mask rules out below NaN. `torch.sort` would put NaN first, so the order is built
    by two stable sorts: by value, then by rank of the kind.
    """
    kind = torch.where(scores.isnan(), 1, 2)
    if mask is not None:
        kind = kind.masked_fill(~mask, 0)
    value = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) + 0.0  # + 0.0: -0.0 becomes +0.0
    by_value = torch.sort(value, dim=-1, descending=True, stable=True).indices
    by_kind = torch.sort(kind.gather(-1, by_value), dim=-1, descending=True, stable=True).indices
    return by_value.gather(-1, by_kind)[:, :num_tokens].sort(-1).values


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Row `positions[i, j]` of `x[i]`, for every sample i: (b, n, ...) to (b, k, ...)."""
    return torch.stack([sample[index] for sample, index in zip(x, positions, strict=True)])
