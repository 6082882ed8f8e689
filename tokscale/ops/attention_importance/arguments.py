"""Checks of what `attention_importance` alone takes: groups of keys, voting rows, a mask of four axes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError, ShapeError
from .. import _checks


def check_groups(op: str, n: int, group_size: int) -> None:
    """Raise unless the keys fall into whole groups."""
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise ArgumentError(f"{op}: group_size={group_size!r} must be an integer >= 1")
    if n % group_size:
        raise ShapeError(f"{op}: {n} keys are not a multiple of group_size={group_size}")


def row_indices(op: str, rows: int | slice | Tensor | None, q: Tensor) -> Tensor | None:
    """The voting rows as indices (r,) or (b, r); None: all, or neighbours."""
    m = q.shape[2]
    if rows is None:
        return None
    if isinstance(rows, Tensor):
        _checks.integers(op, "rows", rows)
        if rows.dim() not in (1, 2) or (rows.dim() == 2 and rows.shape[0] != q.shape[0]):
            raise ShapeError(f"{op}: rows has shape {_checks.shape_of(rows)}; expected (r,) or ({q.shape[0]}, r)")
        _checks.one_device(op, "rows", rows, "q", q)
        return rows
    if isinstance(rows, slice):
        if rows.step in (None, 1):
            return None
        return torch.arange(m, device=q.device)[rows] if rows.step > 0 else _backward_slice(rows, m, q)
    if isinstance(rows, bool) or not isinstance(rows, int):
        raise DtypeError(f"{op}: rows is {type(rows).__name__}; expected an int, a slice, an integer tensor or None")
    if not -m <= rows < m:
        raise ShapeError(f"{op}: rows={rows} lies outside [-{m}, {m})")
    return None


def first_row(rows: int | slice, m: int) -> int:
    """The first of neighbouring rows."""
    first = rows if isinstance(rows, int) else rows.start or 0
    return max(0, first + m) if first < 0 else min(first, m)


def _backward_slice(rows: slice, m: int, q: Tensor) -> Tensor:
    first, last, step = rows.indices(m)  # a tensor takes no negative step
    return torch.arange(first, last, step, dtype=torch.int64, device=q.device)


def four_axes(op: str, mask: Tensor, full: tuple[int, int, int, int]) -> Tensor:
    """A mask of four axes, each of the full size or 1."""
    if mask.dtype.is_floating_point:
        raise DtypeError(
            f"{op}: attn_mask is {mask.dtype}; a mask is boolean, True = keep (for an additive mask pass mask == 0)"
        )
    _checks.boolean(op, "attn_mask", mask)
    if mask.dim() > 4 or any(have not in (1, want) for have, want in zip(mask.shape[::-1], full[::-1], strict=False)):
        want = str(tuple(int(size) for size in full))
        raise ShapeError(f"{op}: attn_mask has shape {_checks.shape_of(mask)}; expected one that broadcasts to {want}")
    return mask[(None,) * (4 - mask.dim())]
