"""`greedy_select` by Triton: one launch for the selection, one before it where the first pick looks at every pair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _triton
from . import kernel
from .configs import block_and_warps, factor_rows
from .reference import EXHAUSTED


@_triton.on_device
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
    b, n, _ = matrix.shape
    positions = torch.empty((b, num_tokens), dtype=torch.int64, device=matrix.device)
    gains = torch.empty((b, num_tokens), dtype=torch.float32, device=matrix.device)
    if b == 0:
        return positions, gains
    block, warps = block_and_warps(n)
    common: dict[str, Any] = {"BLOCK": block, "HAS_MASK": mask is not None, "num_warps": warps}
    seen = (matrix if mask is None else mask, *((0, 0) if mask is None else mask.stride()))
    if method == "dpp":
        diagonal = torch.diagonal(matrix, dim1=1, dim2=2).float().contiguous()
        other = diagonal if fallback is None else nearest(fallback, mask)
        factor = gains.new_empty((b, num_tokens, n))
        reserve = matrix if fallback is None else fallback
        kernel.dpp[(b,)](
            matrix,
            reserve,
            other,
            seen[0],
            factor,
            positions,
            gains,
            *matrix.stride(),
            *reserve.stride(),
            *seen[1:],
            n,
            num_tokens,
            EXHAUSTED,
            ROWS=factor_rows(n),
            HAS_FALLBACK=fallback is not None,
            **common,
        )
        return positions, gains
    from_all_pairs = start is None and relevance is None
    kernel.max_min[(b,)](
        matrix,
        nearest(matrix, mask) if from_all_pairs else gains,
        matrix if start is None else start,
        matrix if relevance is None else relevance,
        seen[0],
        positions,
        gains,
        *matrix.stride(),
        *((0, 0) if relevance is None else relevance.stride()),
        *seen[1:],
        n,
        num_tokens,
        HAS_START=start is not None,
        HAS_RELEVANCE=relevance is not None,
        **common,
    )
    return positions, gains


def nearest(distances: Tensor, mask: Tensor | None) -> Tensor:
    """min over allowed i != j of D_ij, for every j: (b, n, n) to (b, n); inf where there is no other."""
    b, n, _ = distances.shape
    out = torch.empty((b, n), dtype=torch.float32, device=distances.device)
    kernel.nearest[(_triton.cdiv(n, 64), b)](
        distances,
        distances if mask is None else mask,
        out,
        *distances.stride(),
        *((0, 0) if mask is None else mask.stride()),
        n,
        BI=32,
        BJ=64,
        HAS_MASK=mask is not None,
        num_warps=4,
    )
    return out
