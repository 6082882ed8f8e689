"""`attention_importance` by Triton: launches, and what PyTorch does around them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _triton
from .._scores import Scores
from ..attention_backward import triton_path as attention_backward
from . import kernel, torch_path
from .configs import column_tile, row_tile


def log_sum_exp(a: Scores) -> Tensor:
    """Natural log-sum-exp of every row: (b, h, m) fp32, or (h, total) for packed segments; -inf where none is seen."""
    b, h, _, m, n, d = a.sizes
    a = a.packed().ascending()
    t = row_tile(_triton.platform(a.q.device), _triton.block_d(d), _triton.row_block(a.rows), a.q.element_size())
    blocks = _triton.cdiv(a.rows, t.rows)
    splits = _triton.splits(blocks * a.row_programs, n, t.keys, a.q.device)
    shape = a.q.shape[1:3] if a.ends_q is not None else (b, h, m)
    lse = a.q.new_empty((splits, *shape), dtype=torch.float32)
    if lse.numel():
        kernel.row_lse[(blocks, splits, a.row_programs)](
            a.call(), lse, *_strides(lse), splits, BM=t.rows, BN=t.keys, num_warps=t.warps, num_stages=t.stages
        )
    return lse[0] if splits == 1 else lse.logsumexp(0)


def _strides(lse: Tensor) -> tuple[int, int, int]:
    """Of splits, samples and heads."""
    return lse.stride(0), lse.stride(1) if lse.dim() == 4 else 0, lse.stride(-2)


def column_sums(a: Scores, lse: Tensor, per_head: bool, given: bool = False) -> Tensor:
    """What each key receives: (b, g, n) to be summed over the key heads, or (b, h, n); packed (g or h, total)."""
    b, h, g, _, n, d = a.sizes
    a = a if per_head else a.packed()
    t = column_tile(_triton.platform(a.q.device), _triton.block_d(d), _triton.row_block(a.rows), a.q.element_size())
    heads = h if per_head else g
    segments = a.ends_q is not None
    out = a.q.new_empty((heads, a.k.shape[2]) if segments else (b, heads, n), dtype=torch.float32)
    if out.numel():
        kernel.column_sum[(_triton.cdiv(n, t.keys), b * g)](
            a.call(),
            lse,
            out,
            0 if segments else lse.stride(0),
            lse.stride(-2),
            0 if segments else out.stride(0),
            out.stride(-2),
            BM=t.rows,
            BN=t.keys,
            PER_HEAD=per_head,
            GIVEN=given,
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return out


@_triton.on_device
def importance(a: torch_path.Inputs, reduce: str, group_size: int, voters: Tensor | float) -> Tensor:
    """The operator's result."""
    s = scores(a)
    lse = log_sum_exp(s) if a.lse is None else _exact(a.lse)
    sums = column_sums(s, lse, reduce == "none", a.lse is not None)
    return torch_path.reduced(sums, reduce, group_size, voters * (s.q.shape[1] // sums.shape[1]))


@_triton.on_device
def backward(
    a: torch_path.Inputs, grad: Tensor, reduce: str, group_size: int, voters: Tensor | float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of q, k and lse: `dS = P * (g - sum_k P g)`, or with a given lse `P * g` and `dlse = -sum_j P g`."""
    s = scores(a)
    received = torch_path.reduced_backward(grad, 1, reduce, group_size, voters * a.q.shape[1]).float().contiguous()
    lse = log_sum_exp(s) if a.lse is None else _exact(a.lse)
    return gradients(s, lse, received, a.lse is not None)


def gradients(a: Scores, lse: Tensor, received: Tensor, given: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """From the gradient of the column sums, (b, 1 or h, n) or packed (1 or h, total)."""
    c = attention_backward.Cotangents(lse, received)
    sums = attention_backward.received_sums(a, c)
    c = c._replace(delta=torch.zeros_like(sums) if given else sums)
    d_q, _ = attention_backward.query_gradient(a, c)
    d_k, _ = attention_backward.key_gradient(a, c)
    return d_q, d_k, -sums if given else None


def scores(a: torch_path.Inputs) -> Scores:
    """The operator's arguments as the kernels read them; only an inner stride other than 1 is copied."""
    (b, h, _, _), n = a.q.shape, a.k.shape[2]
    mask = a.attn_mask
    if mask is not None:  # one row for all: two rows at stride 0, since an axis of size 1 keeps its stride
        mask = mask.expand(b, h, 2 if mask.shape[2] == 1 else -1, n)
    return Scores(
        _triton.unit_stride(a.q),
        _triton.unit_stride(a.k),
        a.scale,
        a.visible,
        mask,
        None if a.positions is None else a.positions.expand(b, -1),
        a.offset,
        votes=a.votes,
    )


def _exact(lse: Tensor) -> Tensor:
    return lse.float().contiguous()
