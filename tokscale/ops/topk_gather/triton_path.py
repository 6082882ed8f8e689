"""`topk_gather` by Triton: one launch for the positions; PyTorch gathers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _triton
from . import kernel
from .configs import block_and_warps


@_triton.on_device
def topk_positions(scores: Tensor, num_tokens: int, mask: Tensor | None) -> Tensor:
    """Positions (b, k), ascending, of the k largest scores; see `reference.topk_positions`."""
    b, n = scores.shape
    out = torch.empty((b, num_tokens), dtype=torch.int64, device=scores.device)
    block, warps = block_and_warps(n)
    if b:
        kernel.topk_positions[(b,)](
            scores,
            scores if mask is None else mask,
            out,
            *scores.stride(),
            *((0, 0) if mask is None else mask.stride()),
            n,
            num_tokens,
            BLOCK=block,
            HAS_MASK=mask is not None,
            num_warps=warps,
        )
    return out
