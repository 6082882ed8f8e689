"""Checks of the projections, where folding them into the queries pays, and what of it is kept for the backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ShapeError
from .. import _backend, _checks, _numerics

NAME = "projected_fusion_attention"
FOLD_BELOW = 0.6  # folded FLOPs over projected ones; measured on a CPU, where the crossing lies between .5 and .9
FOLD_BELOW_NARROW = 0.4  # where all projected products are in bf16, but the folded scores in fp32: crossing near .45


def folding_pays(q: Tensor, w_k: Tensor) -> bool:
    """Whether the folded products cost enough less than the projected ones."""
    _, h, m, d = q.shape
    inner, c = w_k.shape  # inner = g d
    return h * m * c <= (FOLD_BELOW_NARROW if _numerics.narrow_products(q) else FOLD_BELOW) * (inner * c + h * m * d)


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


def padded(width: int) -> int:
    """The next multiple of 16, so that rows of scores are aligned for cuBLAS and for wide loads."""
    return -(-width // 16) * 16


def kept_as(q: Tensor, width: int, backend: str) -> tuple[int, torch.dtype]:
    """Width and dtype of the probabilities kept for the backward: as the kernels leave them where one may run."""
    if _backend.may_be_triton(backend, q):
        return padded(width), q.dtype
    return width, _numerics.compute_dtype(q)


def keep(p: Tensor, y: Tensor, q: Tensor, width: int, backend: str) -> tuple[Tensor, Tensor]:
    """P (b, h m, ...) and y as `kept_as` says, whichever backend has run."""
    columns, dtype = kept_as(q, width, backend)
    if p.dim() == 3 and p.shape[-1] != columns:
        p = F.pad(p[..., :width], (0, columns - width))
    return p.to(dtype), y.to(dtype)
