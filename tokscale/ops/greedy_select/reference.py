"""The definition of `greedy_select` in plain PyTorch, one sample at a time.

Every step is written out as the formula says, with no state kept from step to step: O(k^2 n) for max-min, and a
determinant for each candidate of each step for the DPP.
"""

from __future__ import annotations

import torch
from torch import Tensor

EXHAUSTED = 1e-6  # share of the largest diagonal entry at which a DPP has no volume left


def max_min(
    distances: Tensor,
    num_tokens: int,
    *,
    start: int | None = None,
    relevance: Tensor | None = None,
    allowed: Tensor | None = None,
    chosen: list[int] | None = None,
) -> tuple[list[int], list[float]]:
    """Indices and gains for `distances` (n, n); goes on from `chosen` if given."""
    n = distances.shape[0]
    free = [True] * n if allowed is None else allowed.tolist()
    picks = list(chosen or [])
    gains: list[float] = []
    while len(picks) < num_tokens:
        value = torch.full((n,), -torch.inf, dtype=distances.dtype)
        for j in range(n):
            if not free[j] or j in picks:
                continue
            if not picks and start is not None:
                value[j] = torch.inf if j == start else -torch.inf
            elif not picks and relevance is not None:
                value[j] = relevance[j]
            elif not picks:
                value[j] = min((distances[i, j] for i in range(n) if i != j and free[i]), default=torch.inf)
            else:
                value[j] = min(distances[i, j] for i in picks)
                if relevance is not None:
                    value[j] = relevance[j] + value[j]
        candidates = [j for j in range(n) if free[j] and j not in picks]
        best = max(candidates, key=lambda j: (float(value[j]), -j))
        picks.append(best)
        gains.append(float(value[best]))
    return picks, gains


def dpp(
    kernel: Tensor,
    num_tokens: int,
    *,
    fallback: Tensor | None = None,
    allowed: Tensor | None = None,
) -> tuple[list[int], list[float]]:
    """Indices and gains for a PSD `kernel` (n, n): each step takes the j that multiplies det(L_S) most.

    The gain is that factor, `det(L_{S+j}) / det(L_S)`, the squared distance of j from the span of S.
    """
    n = kernel.shape[0]
    free = [True] * n if allowed is None else allowed.tolist()
    limit = EXHAUSTED * max(float(kernel[i, i]) for i in range(n) if free[i])
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < num_tokens:
        candidates = [j for j in range(n) if free[j] and j not in picks]
        volume = torch.linalg.det(kernel[picks][:, picks].double()) if picks else torch.tensor(1.0)
        factor = {j: float(torch.linalg.det(kernel[[*picks, j]][:, [*picks, j]].double()) / volume) for j in candidates}
        best = max(candidates, key=lambda j: (factor[j], -j))
        if factor[best] <= limit:
            break
        picks.append(best)
        gains.append(factor[best])
    left = num_tokens - len(picks)
    if left and fallback is not None:
        picks, _ = max_min(fallback, num_tokens, allowed=allowed, chosen=picks)
    elif left:
        rest = [j for j in range(n) if free[j] and j not in picks]
        picks += sorted(rest, key=lambda j: (-float(kernel[j, j]), j))[:left]
    return picks, gains + [0.0] * left
