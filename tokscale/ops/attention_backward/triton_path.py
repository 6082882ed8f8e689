"""Launches of the backward kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _triton
from .._scores import Scores
from . import kernel
from .configs import key_tile, query_tile


class Call(NamedTuple):
    """Cotangents and what they meet, as a kernel gets them."""

    v: Any
    d_out: Any
    received: Any
    lse: Any
    delta: Any
    v_b: Any
    v_g: Any
    v_n: Any
    d_out_b: Any
    d_out_h: Any
    d_out_m: Any
    received_b: Any
    received_h: Any
    lse_b: Any
    lse_h: Any
    ALIGN: Any  # from here on constants of the compilation
    HAS_OUT: Any
    HAS_RECEIVED: Any
    SUM_ROWS: Any


class Cotangents(NamedTuple):
    """Of one segment. `lse` and `delta`: (b, h, m), or (h, total) for packed segments, contiguous."""

    lse: Tensor
    received: Tensor | None = None  # b (1 or h) n, or packed (1 or h) total: gradient of the column sums
    v: Tensor | None = None  # b g n d
    d_out: Tensor | None = None  # b h m d
    delta: Tensor | None = None

    def fitting(self, a: Scores) -> Scores:
        """Heads packed, unless each has a cotangent of its own."""
        return a if self.received is not None and self.received.shape[-2] > 1 else a.packed()

    def call(self, a: Scores, sum_rows: bool = False) -> Call:
        """The second argument of the backward kernels."""
        lse, received = self.lse, self.received
        batched = lse.dim() == 3
        v, d_out = (None if tensor is None else tensor.stride() for tensor in (self.v, self.d_out))
        flags = (_triton.alignment(v, d_out), d_out is not None, received is not None, sum_rows)
        values: list[Any] = [
            self.v,
            self.d_out,
            lse if received is None else received,
            lse,
            self.delta,
            *((0, 0, 0) if v is None else v[:3]),
            *((0, 0, 0) if d_out is None else d_out[:3]),
            received.stride(0) if received is not None and batched else 0,
            received.stride(-2) if received is not None and received.shape[-2] > 1 else 0,
            lse.stride(0) if batched else 0,
            lse.stride(-2),
            *_triton.constants(*flags),
        ]
        return Call(*values)


def received_sums(a: Scores, c: Cotangents) -> Tensor:
    """`sum_j P_ij g_j` of every row, as `lse`."""
    a = c.fitting(a)
    t, blocks, splits = _row_grid(a)
    out = c.lse.new_empty((splits, *c.lse.shape))
    if out.numel():
        kernel.received_sum[(blocks, splits, a.row_programs)](
            a.call(),
            c.call(a),
            out,
            out.stride(0),
            splits,
            BM=t.rows,
            BN=t.keys,
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return out[0] if splits == 1 else out.sum(0)


def query_gradient(a: Scores, c: Cotangents, partial: bool = False, sum_rows: bool = False) -> tuple[Tensor, Tensor]:
    """(dQ, shaped as q: in its dtype, or with `partial` in fp32 to be added to; the rows' sums of dS, if asked for)."""
    a = c.fitting(a)
    t, blocks, splits = _row_grid(a)
    dtype = torch.float32 if partial or splits > 1 else a.q.dtype
    out = a.q.new_empty((splits, *a.q.shape), dtype=dtype)
    sums = c.lse.new_empty((splits, *c.lse.shape) if sum_rows else (1, 1))
    if out.numel():
        strides = (out.stride(0), 0 if a.ends_q is not None else out.stride(1), out.stride(2), out.stride(3))
        kernel.query_gradient[(blocks, splits, a.row_programs)](
            a.call(),
            c.call(a, sum_rows),
            out,
            sums,
            *strides,
            sums.stride(0),
            splits,
            BM=t.rows,
            BN=t.keys,
            num_warps=t.warps,
            num_stages=t.stages,
        )
    d_q = (out[0] if splits == 1 else out.sum(0)).to(dtype if partial else a.q.dtype)
    return d_q, sums[0] if splits == 1 else sums.sum(0)


def key_gradient(a: Scores, c: Cotangents) -> tuple[Tensor, Tensor]:
    """dK and dV, shaped as k; without `d_out` the second is empty."""
    b, _, g, _, n, d = a.sizes
    a = c.fitting(a)
    t = key_tile(_triton.platform(a.q.device), _triton.block_d(d), _triton.row_block(a.rows), a.q.element_size())
    d_k = torch.empty(a.k.shape, dtype=a.k.dtype, device=a.k.device)
    d_v = torch.empty_like(d_k) if c.d_out is not None else d_k.new_empty(0)
    if d_k.numel():
        kernel.key_gradient[(_triton.cdiv(n, t.keys), b * g)](
            a.call(),
            c.call(a),
            d_k,
            d_v if c.d_out is not None else d_k,
            0 if a.ends_q is not None else d_k.stride(0),
            d_k.stride(1),
            d_k.stride(2),
            BM=t.rows,
            BN=t.keys,
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return d_k, d_v


def _row_grid(a: Scores) -> tuple[Any, int, int]:
    *_, n, d = a.sizes
    t = query_tile(_triton.platform(a.q.device), _triton.block_d(d), _triton.row_block(a.rows), a.q.element_size())
    blocks = _triton.cdiv(a.rows, t.rows)
    return t, blocks, _triton.splits(blocks * a.row_programs, n, t.keys, a.q.device)
