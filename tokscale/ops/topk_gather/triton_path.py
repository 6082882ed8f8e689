"""`topk_gather` by Triton: one launch for the positions, one for each tensor's kept rows."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _triton
from . import kernel
from .configs import GATHER_ROWS, GATHER_WARPS, block_and_warps, gather_block

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


@_triton.on_device
def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of `x` (b, n, ...) at `positions` (b, k): bits are copied, so any dtype; x is read by its strides."""
    b, k = positions.shape
    out = torch.empty((b, k, *x.shape[2:]), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    source, target = (torch.view_as_real(t) if t.dtype == torch.complex128 else t for t in (x.resolve_conj(), out))
    integer = INTEGERS[source.element_size()]
    source, target = source.resolve_neg().view(integer), target.view(integer)
    axes = _merged(source)
    if len(axes) > 2:  # strides of three axes are more than the kernel takes
        source = source.contiguous()
        axes = _merged(source)
    (outer, x_outer), (inner, x_inner) = [(1, 0)] * (2 - len(axes)) + axes
    size = outer * inner
    kernel.gather[(_triton.cdiv(k, GATHER_ROWS), b)](
        source,
        positions,
        target,
        *source.stride()[:2],
        x_outer,
        x_inner,
        k,
        size,
        inner,
        R=GATHER_ROWS,
        BLOCK=gather_block(size),
        TWO=outer > 1,
        num_warps=GATHER_WARPS,
    )
    return out


def _merged(x: Tensor) -> list[tuple[int, int]]:
    """(length, stride) of the axes behind the first two, neighbours that lie as one merged."""
    axes: list[tuple[int, int]] = []
    for length, stride in zip(x.shape[2:], x.stride()[2:], strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1] == length * stride:
            axes[-1] = (axes[-1][0] * length, stride)
        else:
            axes.append((length, stride))
    return axes
