"""Density peaks: tokens with many near neighbours that lie far from any denser token."""

from __future__ import annotations

import torch
from torch import Tensor

from .similarity import gram

AT_ONCE = 2**25  # pairs of tokens whose distances are held at a time: samples are taken in turn above that
SAME = 1e-12  # a squared distance below this share of the squared norms is 0, so that duplicates tie exactly


def squared_distances(x: Tensor) -> Tensor:
    """Return (b, n, n) float64 `E_ij^2 = ||x_i - x_j||^2 / d` of tokens (b, n, d): symmetric, 0 between duplicates.

    In float64, where the norms may be taken apart: what cancels is beyond a float32's own digits.
    """
    product = gram(x.detach().double())
    norm = product.diagonal(dim1=1, dim2=2).clone()
    both = norm.unsqueeze(1) + norm.unsqueeze(2)
    square = torch.sub(both, product, alpha=2)
    square = torch.minimum(square, square.transpose(1, 2))
    square.masked_fill_(square <= both.mul_(SAME), 0)
    return square.div_(x.shape[-1])


def peaks(square: Tensor, neighbours: int, mask: Tensor | None = None) -> Tensor:
    """Return (b, n) float64 `log(rho delta)`, higher = a better centre: finite, and -inf for masked tokens.

    `rho_i = exp(-mean of the min(neighbours, n) smallest E_ij^2)`, itself among them; `delta_i` is the least E_ij to a
    token of larger rho (of equal rho: of lower index), for the densest one the largest E of all. Where delta is 0 the
    least number stands for the logarithm, which keeps the order where rho itself would be 0.

    Args:
        square: (b, n, n) from `squared_distances`.
        neighbours: at least 1.
        mask: (b, n), True = the token takes part; None for all.
    """
    n = square.shape[-1]
    if mask is not None:
        square = square.masked_fill(~(mask.unsqueeze(1) & mask.unsqueeze(2)), torch.inf)
    near = square.topk(min(neighbours, n), largest=False).values
    held = near.isfinite()
    near = near.masked_fill(~held, 0).sum(-1) / held.sum(-1).clamp(min=1)  # -log rho
    first = (square == 0).to(torch.uint8).argmax(-1)
    near = near.gather(1, first)  # copies share it exactly
    index = torch.arange(n, device=square.device)
    mine, other = near.unsqueeze(2), near.unsqueeze(1)
    denser = (other < mine) | ((other == mine) & (index < index.unsqueeze(1)))
    delta = square.masked_fill(~denser, torch.inf).amin(-1)
    largest = (square if mask is None else square.masked_fill(square.isinf(), 0)).amax((1, 2)).unsqueeze(1)
    delta = torch.where(delta.isinf(), largest, delta)
    least = torch.finfo(square.dtype).min
    scores = torch.where(delta > 0, delta.log() / 2 - near, least)
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def in_turn(x: Tensor) -> int:
    """Return of how many samples (b, n, d) the distances are held at a time."""
    return max(1, AT_ONCE // x.shape[1] ** 2)
