"""`attention_importance`: signature, checks, registration and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError
from .. import _backend, _checks, _numerics, _register
from . import torch_path

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
        attn_mask = _four_axes(attn_mask, (b, h, m, n))
    rows = row_indices(rows, q)
    if offset is not None and not causal:
        raise ArgumentError(f"{NAME}: offset={offset} is read with causal=True only")
    see = (n - m if offset is None else offset) if causal else None
    scale = d**-0.5 if scale is None else float(scale)
    return _attention_importance(
        q, k, lse, rows, row_mask, key_mask, key_lengths, attn_mask, see, scale, reduce, group_size, backend
    )


def check_groups(op: str, n: int, group_size: int) -> None:
    """Raise unless the keys fall into whole groups."""
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ArgumentError(f"{op}: group_size={group_size!r} must be an integer >= 1")
    if n % group_size:
        raise ShapeError(f"{op}: {n} keys are not a multiple of group_size={group_size}")


def row_indices(rows: int | slice | Tensor | None, q: Tensor) -> Tensor | None:
    """The voting rows as indices (r,) or (b, r); None: all."""
    m = q.shape[2]
    if rows is None:
        return None
    if isinstance(rows, Tensor):
        _checks.integers(NAME, "rows", rows)
        if rows.dim() not in (1, 2) or (rows.dim() == 2 and rows.shape[0] != q.shape[0]):
            raise ShapeError(f"{NAME}: rows has shape {_checks.shape_of(rows)}; expected (r,) or ({q.shape[0]}, r)")
        _checks.one_device(NAME, "rows", rows, "q", q)
        return rows
    if isinstance(rows, slice):
        return torch.arange(m, device=q.device)[rows] if _forward(rows) else _backward_slice(rows, m, q)
    if isinstance(rows, bool) or not isinstance(rows, int):
        raise DtypeError(f"{NAME}: rows is {type(rows).__name__}; expected an int, a slice, an integer tensor or None")
    if not -m <= rows < m:
        raise ShapeError(f"{NAME}: rows={rows} lies outside [-{m}, {m})")
    return torch.full((1,), rows, dtype=torch.int64, device=q.device)


def _forward(rows: slice) -> bool:
    return rows.step is None or rows.step > 0


def _backward_slice(rows: slice, m: int, q: Tensor) -> Tensor:
    first, last, step = rows.indices(m)  # a tensor takes no negative step
    return torch.arange(first, last, step, dtype=torch.int64, device=q.device)


def _four_axes(mask: Tensor, full: tuple[int, int, int, int]) -> Tensor:
    """A mask of four axes, each of the full size or 1."""
    if mask.dtype.is_floating_point:
        raise DtypeError(
            f"{NAME}: attn_mask is {mask.dtype}; a mask is boolean, True = keep (for an additive mask pass mask == 0)"
        )
    _checks.boolean(NAME, "attn_mask", mask)
    if mask.dim() > 4 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], full[::-1], strict=False)):
        want = str(tuple(int(size) for size in full))
        raise ShapeError(
            f"{NAME}: attn_mask has shape {_checks.shape_of(mask)}; expected one that broadcasts to {want}"
        )
    return mask[(None,) * (4 - mask.dim())]


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
