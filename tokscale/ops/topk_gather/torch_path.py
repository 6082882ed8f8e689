"""Fast PyTorch for `topk_gather`: find the k-th largest, never rely on the order of `torch.topk`."""

from __future__ import annotations

import torch
from torch import Tensor

SORT_BELOW = 1024  # tokens; under this a stable sort costs less than the threshold's extra passes


def topk_positions(scores: Tensor, num_tokens: int, mask: Tensor | None) -> Tensor:
    """Positions (b, k), ascending, of the k largest scores; see `reference.topk_positions`."""
    b, n = scores.shape
    if num_tokens == n:  # also: every token is allowed, or the budget check has raised
        return torch.arange(n, device=scores.device).repeat(b, 1)
    rank = comparable(scores, mask)
    if n < SORT_BELOW or scores.device.type != "cpu":  # nonzero() below would wait for a GPU
        order = torch.sort(rank, dim=-1, descending=True, stable=True).indices
        return order[:, :num_tokens].sort(-1).values
    threshold = torch.topk(rank, num_tokens, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above = rank > threshold
    equal = rank == threshold
    missing = num_tokens - above.sum(-1, keepdim=True)
    take = above | (equal & (equal.cumsum(-1) <= missing))
    return take.nonzero()[:, 1].reshape(b, num_tokens)


def comparable(scores: Tensor, mask: Tensor | None) -> Tensor:
    """What `<` and `==` order as the rules say: on a CPU the scores themselves, unless NaN or a mask asks for more."""
    if mask is None and scores.device.type == "cpu" and not bool(scores.isnan().any()):
        return scores if scores.dtype == torch.float64 else scores.float()
    rank = ordered_bits(scores)
    return rank if mask is None else rank.masked_fill(~mask, torch.iinfo(rank.dtype).min)


def ordered_bits(scores: Tensor) -> Tensor:
    """Integers that order as the floats do, with NaN one above the least integer (which masked tokens take).

    A float's bits read as an integer already order the positive numbers; flipping all but the sign bit of the negative
    ones reverses those. The negative NaNs would come out lowest anyway, the positive ones highest, so NaN is set by
    hand.
    """
    if scores.dtype == torch.float64:
        integer, sign, magnitude = torch.int64, 63, 0x7FFF_FFFF_FFFF_FFFF
    else:
        integer, sign, magnitude = torch.int32, 31, 0x7FFF_FFFF
        scores = scores.float()
    bits = (scores + 0.0).view(integer)  # + 0.0: -0.0 becomes +0.0
    bits = bits ^ ((bits >> sign) & magnitude)
    return bits.masked_fill(scores.isnan(), torch.iinfo(integer).min + 1)


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of `x` (b, n, ...) at `positions` (b, k), bitwise; differentiable, the gradient is a scatter."""
    b, n = x.shape[:2]
    if x.device.type == "cpu" and x.is_contiguous():  # whole rows at once: 3 to 14 times as fast as element by element
        rows = positions + n * torch.arange(b)[:, None]
        return x.flatten(0, 1).index_select(0, rows.flatten()).view(*positions.shape, *x.shape[2:])
    sample = torch.arange(b, device=x.device)[:, None]
    return x[sample, positions].contiguous()  # indexing keeps the order in which the axes of x lie
