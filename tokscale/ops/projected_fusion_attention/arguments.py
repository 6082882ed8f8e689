"""Checks of the projections, and where folding them into the queries pays."""

from __future__ import annotations

from torch import Tensor

from ...errors import ShapeError
from .. import _checks

FOLD_BELOW = 0.6  # folded FLOPs over projected ones; measured on a CPU, where the crossing lies between .5 and .9


def folding_pays(q: Tensor, w_k: Tensor) -> bool:
    """Whether the folded products cost at most `FOLD_BELOW` of the projected ones."""
    _, h, m, d = q.shape
    inner, c = w_k.shape  # inner = g d
    return h * m * c <= FOLD_BELOW * (inner * c + h * m * d)


def check_projections(
    op: str, q: Tensor, x: Tensor, w_k: Tensor, w_v: Tensor, b_k: Tensor | None, b_v: Tensor | None
) -> None:
    """Raise unless tokens, weights and biases fit the queries."""
    _checks.layout(op, "q", q, "b, heads, length, head_dim")
    _checks.layout(op, "x", x, "b, n, dim")
    _checks.layout(op, "w_k", w_k, "key heads * head_dim, dim")
    for name, tensor in (("x", x), ("w_k", w_k), ("w_v", w_v), ("b_k", b_k), ("b_v", b_v)):
        if tensor is not None:
            _checks.one_device(op, "q", q, name, tensor)
            _checks.same_dtype(op, "q", q, name, tensor)
    if q.shape[0] != x.shape[0]:
        raise ShapeError(f"{op}: q {_checks.shape_of(q)} and x {_checks.shape_of(x)} differ in batch")
    d, c = q.shape[3], x.shape[2]
    if d == 0 or c == 0 or w_k.shape[0] % d:
        raise ShapeError(
            f"{op}: w_k has shape {_checks.shape_of(w_k)}; expected (key heads * {d}, {c}), with head_dim={d} of q"
        )
    inner = w_k.shape[0]
    _checks.shape(op, "w_k", w_k, (inner, c))
    _checks.shape(op, "w_v", w_v, (inner, c))
    for name, bias in (("b_k", b_k), ("b_v", b_v)):
        if bias is not None:
            _checks.shape(op, name, bias, (inner,))
    _checks.head_groups(op, q.shape[1], inner // d)
