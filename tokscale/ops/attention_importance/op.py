"""`attention_importance`: signature, checks, registration and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError
from .. import _backend, _checks, _numerics, _register
from . import torch_path
from .arguments import check_groups, first_row, four_axes, row_indices

NAME = "attention_importance"
REDUCTIONS = ("mean", "none", "sum")


def attention_importance(
    q: Tensor,
    k: Tensor,
    *,
    lse: Tensor | None = None,
    rows: int | slice | Tensor | None = None,
    row_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
    offset: int | None = None,
    scale: float | None = None,
    reduce: str = "sum",
    group_size: int = 1,
    backend: str = "auto",
) -> Tensor:
    """How much attention each key receives from the voting rows, without the m x n matrix.

    `s_hij = scale q_hi . k_hj`, `p_hij = exp(s_hij - lse_hi)` over the visible keys, `c_hj = sum over voting rows i of
    p_hij`. Without `lse`, the sum of all c is heads times rows that see a key.

    Args:
        q, k: queries and keys; query head i reads key head `i // (h / g)`.
        lse: the rows' natural log-sum-exp if an attention kernel gave it, also of a larger softmax; -inf: the row does
            not vote. None: computed.
        rows: which query rows vote: None (all), an int (-1: the last), a slice, int64 (r,), or (b, r) for other rows
            per sample. A repeated row votes twice.
        row_mask: rows with False do not vote; indexed by `rows` when both are given.
        key_mask, key_lengths: the keys that are seen; one of the two.
        attn_mask: bool, joined with the others by "and".
        causal: row i sees key j iff `j <= i + offset`.
        offset: None: `n - m`, so that the last row sees all keys.
        scale: None: `head_dim ** -0.5`.
        reduce: "sum" over heads; "mean": divided by heads times voting rows (0 if none votes); "none": per head.
        group_size: sums that many consecutive keys: the patches of a merged token.
        backend: "auto", "torch" or "triton".

    Shape:
        q (b, h, m, d), k (b, g, n, d), lse (b, h, m), row_mask (b, m), key_mask (b, n), key_lengths (b,), attn_mask
        broadcastable to (b, h, m, n) -> (b, n / group_size), or (b, h, n / group_size) with "none"; fp32 (fp64 for
        fp64).

    Raises:
        ShapeError, DtypeError, ArgumentError: tensors or options that do not go together.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        2 b h r n d FLOPs and b h r n exponentials; memory O(r + n) per head. Differentiable in q, k and lse.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 1, 4, 9, 16).unbind()
        >>> attention_importance(q, k).shape, round(float(attention_importance(q, k).sum()))  # 4 heads x 9 rows
        (torch.Size([1, 9]), 36)

    Source:
        Dao et al., FlashAttention, 2022, arXiv 2205.14135 (blocks; differs from it in summing columns, not values).
    """
    _checks.option(NAME, "reduce", reduce, REDUCTIONS)
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    _checks.queries_and_keys(NAME, q, k)
    (b, h, m, d), n = q.shape, k.shape[2]
    check_groups(NAME, n, group_size)
    _checks.visibility(NAME, "key", k, key_mask, key_lengths)
    if row_mask is not None:
        _checks.mask(NAME, "row_mask", row_mask, q, (b, m))
    if lse is not None:
        _checks.shape(NAME, "lse", lse, (b, h, m))
        _checks.floating(NAME, "lse", lse)
        _checks.one_device(NAME, "lse", lse, "q", q)
    if attn_mask is not None:
        attn_mask = four_axes(NAME, attn_mask, (b, h, m, n))
    if offset is not None and not causal:
        raise ArgumentError(f"{NAME}: offset={offset} is read with causal=True only")
    see = (n - m if offset is None else offset) if causal else None
    indices = row_indices(NAME, rows, q)
    if isinstance(rows, int | slice) and indices is None:  # neighbouring rows: views, and nothing to look up
        first = first_row(rows, m)
        some = rows if isinstance(rows, slice) else slice(first, first + 1)
        q, see = q[:, :, some], None if see is None else see + first
        lse = None if lse is None else lse[:, :, some]
        row_mask = None if row_mask is None else row_mask[:, some]
        attn_mask = attn_mask if attn_mask is None or attn_mask.shape[2] == 1 else attn_mask[:, :, some]
    scale = d**-0.5 if scale is None else float(scale)
    return _attention_importance(
        q, k, lse, indices, row_mask, key_mask, key_lengths, attn_mask, see, scale, reduce, group_size, backend
    )


@_register.operator("attention_importance")
def _attention_importance(
    q: Tensor,
    k: Tensor,
    lse: Tensor | None,
    rows: Tensor | None,
    row_mask: Tensor | None,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    attn_mask: Tensor | None,
    offset: int | None,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> Tensor:
    triton = _backend.resolve(NAME, backend, q, k) == "triton"
    inputs = _inputs(q, k, lse, rows, row_mask, key_mask, key_lengths, attn_mask, offset, scale)
    if triton:
        from . import triton_path

        return triton_path.importance(inputs, reduce, group_size, _voters(inputs))
    total = torch_path.column_sums(inputs)
    return torch_path.reduced(total, reduce, group_size, _voters(inputs))


@_register.fake("attention_importance")
def _(
    q: Tensor,
    k: Tensor,
    lse: Tensor | None,
    rows: Tensor | None,
    row_mask: Tensor | None,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    attn_mask: Tensor | None,
    offset: int | None,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> Tensor:
    b, h, n = q.shape[0], q.shape[1], k.shape[2] // group_size
    return q.new_empty((b, h, n) if reduce == "none" else (b, n), dtype=_numerics.compute_dtype(q))


def _inputs(
    q: Tensor,
    k: Tensor,
    lse: Tensor | None,
    rows: Tensor | None,
    row_mask: Tensor | None,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    attn_mask: Tensor | None,
    offset: int | None,
    scale: float,
) -> torch_path.Inputs:
    """Check what needs values, and take the voting rows."""
    m, n = q.shape[2], k.shape[2]
    _checks.lengths_in_range(NAME, "key_lengths", key_lengths, n)
    visible = _numerics.visible_keys(n, key_mask, key_lengths)
    if rows is None:
        return torch_path.Inputs(q, k, lse, None, row_mask, visible, attn_mask, offset, scale)
    _checks.rows_in_range(NAME, rows, m)
    positions = torch.where(rows < 0, rows + m, rows).long()
    positions = positions[None] if positions.dim() == 1 else positions  # (1 or b) r
    every = positions.expand(q.shape[0], -1)
    q = q.gather(2, every[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3]))
    lse = None if lse is None else lse.gather(2, every[:, None].expand(-1, lse.shape[1], -1))
    votes = None if row_mask is None else row_mask.gather(1, every)
    return torch_path.Inputs(q, k, lse, positions, votes, visible, attn_mask, offset, scale)


def _voters(inputs: torch_path.Inputs) -> Tensor | float:
    return inputs.q.shape[2] if inputs.votes is None else inputs.votes.sum(1, keepdim=True)


@_register.operator("attention_importance_backward")
def _attention_importance_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    lse: Tensor | None,
    rows: Tensor | None,
    row_mask: Tensor | None,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    attn_mask: Tensor | None,
    offset: int | None,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = _inputs(q, k, lse, rows, row_mask, key_mask, key_lengths, attn_mask, offset, scale)
    if _backend.resolve(NAME, backend, q, k) == "triton":
        from . import triton_path

        d_q, d_k, d_lse = triton_path.backward(inputs, grad, reduce, group_size, _voters(inputs))
    else:
        d_total = torch_path.reduced_backward(grad, q.shape[1], reduce, group_size, _voters(inputs))
        d_q, d_k, d_lse = torch_path.backward(inputs, d_total)
    if inputs.positions is not None:
        d_q = torch_path.scatter_rows(d_q, inputs.positions, q.shape[2])
        d_lse = None if d_lse is None else torch_path.scatter_rows(d_lse, inputs.positions, q.shape[2])
    d_lse = q.new_empty(0) if d_lse is None or lse is None else d_lse.to(lse.dtype)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_lse


@_register.fake("attention_importance_backward")
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    lse: Tensor | None,
    rows: Tensor | None,
    row_mask: Tensor | None,
    key_mask: Tensor | None,
    key_lengths: Tensor | None,
    attn_mask: Tensor | None,
    offset: int | None,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    d_lse = q.new_empty(0) if lse is None else lse.new_empty(lse.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), d_lse


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.options = inputs[8:13]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _attention_importance_backward(grad, *ctx.saved_tensors, *ctx.options)
    q, k, lse = (g if needed else None for g, needed in zip(grads, ctx.needs_input_grad[:3], strict=True))
    return (q, k, lse, *[None] * 10)


_register.autograd("attention_importance", _differentiate, _save)
