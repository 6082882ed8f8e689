"""Fast paths of `greedy_select`: a running minimum (max-min) or an incremental Cholesky factor (DPP).

On the CPU a step costs a few vector operations of n numbers, so the calls themselves rule: numpy on views for few
samples, a batched loop in PyTorch for many. The two compute the same numbers for max-min (minima, one addition), bit
for bit; the DPP accumulates products, whose rounding would depend on the batch, so on the CPU it always runs sample by
sample.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from .one_sample import nearest, select
from .reference import EXHAUSTED

NUMPY_SAMPLES = 16  # up to this batch one numpy loop per sample beats one batched loop (measured: n 144 to 2880)


def greedy(
    matrix: Tensor,
    num_tokens: int,
    method: str,
    start: Tensor | None,
    relevance: Tensor | None,
    fallback: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Positions (b, k) in the order of choice, and gains."""
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    matrix = matrix.to(dtype)
    relevance = None if relevance is None else relevance.to(dtype)
    fallback = None if fallback is None else fallback.to(dtype)
    if num_tokens == 0 or matrix.shape[0] == 0:
        size = (matrix.shape[0], num_tokens)
        return torch.zeros(size, dtype=torch.int64, device=matrix.device), matrix.new_zeros(size)
    by_sample = matrix.device.type == "cpu" and (method == "dpp" or matrix.shape[0] <= NUMPY_SAMPLES)
    if by_sample:
        picked = [
            select(
                matrix[i],
                num_tokens,
                method,
                *(None if t is None else t[i] for t in (start, relevance, fallback, mask)),
            )
            for i in range(matrix.shape[0])
        ]
        positions = torch.from_numpy(numpy.stack([p for p, _ in picked]))
        return positions, torch.from_numpy(numpy.stack([g for _, g in picked]))
    if method == "dpp":
        return _dpp_batched(matrix, num_tokens, fallback, mask)
    return _max_min_batched(matrix, num_tokens, start, relevance, mask)


def _max_min_batched(
    matrix: Tensor, num_tokens: int, start: Tensor | None, relevance: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    b, n, _ = matrix.shape
    barrier = _barrier(matrix, mask)
    positions = torch.empty((num_tokens, b), dtype=torch.int64, device=matrix.device)
    gains = matrix.new_empty((num_tokens, b))
    sample = torch.arange(b, device=matrix.device)
    least = matrix.new_full((b, n), torch.inf)
    for step in range(num_tokens):
        if step:
            least = torch.minimum(least, matrix[sample, positions[step - 1]])
            value = least if relevance is None else relevance + least
        elif start is None:
            value = nearest(matrix, mask) if relevance is None else relevance
        else:
            value = matrix.new_full((b, n), -torch.inf).scatter_(1, start.long()[:, None], torch.inf)
        _take_batched(value, positions, gains, barrier, step)
    return positions.T.contiguous(), gains.T.contiguous()


def _dpp_batched(
    matrix: Tensor, num_tokens: int, fallback: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `_dpp`, without a look at the values: an exhausted sample goes on by the other rule."""
    b, n, _ = matrix.shape
    barrier = _barrier(matrix, mask)
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    left = diagonal.clone()
    limit = EXHAUSTED * (left + barrier).amax(-1)
    other = diagonal if fallback is None else nearest(fallback, mask)
    alive = torch.ones(b, dtype=torch.bool, device=matrix.device)
    factor = matrix.new_empty((b, num_tokens, n))
    positions = torch.empty((num_tokens, b), dtype=torch.int64, device=matrix.device)
    gains = matrix.new_empty((num_tokens, b))
    sample = torch.arange(b, device=matrix.device)
    for step in range(num_tokens):
        alive = alive & ((left + barrier).amax(-1) > limit)
        _take_batched(torch.where(alive[:, None], left, other), positions, gains, barrier, step)
        gains[step].masked_fill_(~alive, 0)
        best = positions[step]
        row = matrix[sample, best]
        if step:
            row = row - torch.bmm(factor[sample, :step, best][:, None], factor[:, :step])[:, 0]
        factor[:, step] = torch.where(alive[:, None], row / left[sample, best].sqrt()[:, None], 0)
        left = (left - factor[:, step].square()).clamp_min(0)
        if fallback is not None:
            near = fallback[sample, best]
            other = near if step == 0 else torch.minimum(other, near)
    return positions.T.contiguous(), gains.T.contiguous()


def _barrier(matrix: Tensor, mask: Tensor | None) -> Tensor:
    barrier = matrix.new_zeros(matrix.shape[:2])
    return barrier if mask is None else barrier.masked_fill_(~mask, -torch.inf)


def _take_batched(value: Tensor, positions: Tensor, gains: Tensor, barrier: Tensor, step: int) -> None:
    blocked = value + barrier
    best = blocked.argmax(-1, keepdim=True)  # the first of equal maxima
    best = torch.where(barrier.gather(1, best) == 0, best, barrier.argmax(-1, keepdim=True))
    positions[step] = best[:, 0]
    gains[step] = value.gather(1, best)[:, 0]
    barrier.scatter_(1, best, -torch.inf)
