"""`attention_importance_varlen`: many segments packed one after the other, each of which sees itself only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, ShapeError
from .. import _backend, _checks, _numerics, _register
from . import torch_path
from .arguments import check_groups
from .op import REDUCTIONS

NAME = "attention_importance_varlen"


def attention_importance_varlen(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    *,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    causal: bool = False,
    scale: float | None = None,
    reduce: str = "sum",
    group_size: int = 1,
    backend: str = "auto",
) -> Tensor:
    """How much attention each key receives within its own segment, for segments packed as flash-attention packs them.

    Segment s holds the rows `cu_seqlens_q[s] : cu_seqlens_q[s + 1]` of q and the keys `cu_seqlens_k[s] : ...` of k;
    within it the formula is that of `attention_importance`. Each segment sums to its own rows times heads, so segments
    of different size do not compare.

    Args:
        q, k: packed queries and keys; query head i reads key head `i // (h / g)`.
        cu_seqlens_q, cu_seqlens_k: cumulative lengths from 0 to the total, int32 or int64; None: those of q.
        max_seqlen_q, max_seqlen_k: at least the longest segment, if known: where one is given, nothing waits for
            the lengths on a GPU. PyTorch reads them anyway.
        causal: within a segment of m rows and n keys, row i sees key j iff `j <= i + n - m`.
        scale, reduce, backend: as in `attention_importance`; a mean is over the rows of the key's segment.
        group_size: sums that many consecutive keys; every segment is a multiple of it.

    Shape:
        q (total_q, h, d), k (total_k, g, d), cu_seqlens (segments + 1,) -> (total_k / group_size,), or with "none"
        (h, total_k / group_size); fp32 (fp64 for fp64).

    Raises:
        ShapeError, DtypeError, ArgumentError: tensors or options that do not go together.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        As `attention_importance` of each segment; neighbours of one size run as a batch. Differentiable in q and k.

    Example:
        >>> import torch
        >>> q, k = torch.randn(2, 6, 4, 16).unbind()
        >>> c = attention_importance_varlen(q, k, torch.tensor([0, 2, 6]))
        >>> [round(float(part.sum())) for part in (c[:2], c[2:])]  # 4 heads x 2 and 4 rows
        [8, 16]
    """
    _checks.option(NAME, "reduce", reduce, REDUCTIONS)
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    _check(q, k, cu_seqlens_q, cu_seqlens_k)
    check_groups(NAME, k.shape[0], group_size)
    scale = q.shape[2] ** -0.5 if scale is None else float(scale)
    longest = (max_seqlen_q, max_seqlen_k)
    return _importance_varlen(q, k, cu_seqlens_q, cu_seqlens_k, *longest, causal, scale, reduce, group_size, backend)


def _check(q: Tensor, k: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None) -> None:
    for name, tensor in (("q", q), ("k", k)):
        _checks.layout(NAME, name, tensor, "total, heads, head_dim")
    _checks.one_device(NAME, "q", q, "k", k)
    _checks.same_dtype(NAME, "q", q, "k", k)
    if q.shape[2] != k.shape[2] or q.shape[2] == 0:
        raise ShapeError(f"{NAME}: q {_checks.shape_of(q)} and k {_checks.shape_of(k)} differ in head_dim")
    _checks.head_groups(NAME, q.shape[1], k.shape[1])
    for name, lengths in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if lengths is not None:
            _checks.integers(NAME, name, lengths)
            if lengths.dim() != 1 or lengths.shape[0] == 0:
                raise ShapeError(f"{NAME}: {name} has shape {_checks.shape_of(lengths)}; expected (segments + 1,)")
            _checks.one_device(NAME, name, lengths, "q", q)
    if cu_seqlens_k is not None and cu_seqlens_k.shape != cu_seqlens_q.shape:
        raise ShapeError(
            f"{NAME}: cu_seqlens_q {_checks.shape_of(cu_seqlens_q)} and cu_seqlens_k {_checks.shape_of(cu_seqlens_k)} "
            "must have one shape"
        )


class Run(NamedTuple):
    """Neighbouring segments of one size: `segments` times `m` rows from `first_q`, `n` keys from `first_k`."""

    first_q: int
    first_k: int
    segments: int
    m: int
    n: int

    def rows(self, packed: Tensor) -> Tensor:
        """Packed queries (total, h, d) as (segments, h, m, d), by strides."""
        return _segments(packed, self.first_q, self.segments, self.m)

    def keys(self, packed: Tensor) -> Tensor:
        """Packed keys (total, g, d) as (segments, g, n, d), by strides."""
        return _segments(packed, self.first_k, self.segments, self.n)


def _segments(packed: Tensor, first: int, count: int, length: int) -> Tensor:
    return packed[first : first + count * length].unflatten(0, (count, length)).transpose(1, 2)


def _runs(q: Tensor, k: Tensor, cu_q: Tensor, cu_k: Tensor | None, group_size: int) -> Iterator[Run]:
    """The segments, neighbours of one size together; those without a row or a key have nothing to sum."""
    ends_q = _boundaries("cu_seqlens_q", cu_q, q.shape[0])
    ends_k = _boundaries("cu_seqlens_q" if cu_k is None else "cu_seqlens_k", cu_q if cu_k is None else cu_k, k.shape[0])
    sizes = [(q1 - q0, k1 - k0) for q0, q1, k0, k1 in zip(ends_q, ends_q[1:], ends_k, ends_k[1:])]
    for i, (_, n) in enumerate(sizes):
        if n % group_size:
            raise ShapeError(f"{NAME}: {n} keys are not a multiple of group_size={group_size} (segment {i})")
    start = 0
    for i, size in enumerate(sizes):
        if i + 1 == len(sizes) or sizes[i + 1] != size:
            if all(size):
                yield Run(ends_q[start], ends_k[start], i + 1 - start, *size)
            start = i + 1


def _boundaries(name: str, cumulative: Tensor, total: int) -> list[int]:
    ends = [int(end) for end in cumulative.tolist()]
    if ends[0] != 0 or ends[-1] != total or any(later < sooner for sooner, later in itertools.pairwise(ends)):
        raise ShapeError(f"{NAME}: {name} runs from {ends[0]} to {ends[-1]}; expected 0 to {total} without a step back")
    return ends


def _inputs(run: Run, q: Tensor, k: Tensor, causal: bool, scale: float) -> torch_path.Inputs:
    offset = run.n - run.m if causal else None
    return torch_path.Inputs(run.rows(q), run.keys(k), None, None, None, None, None, offset, scale)


def _longest_fit(cu_q: Tensor, cu_k: Tensor, max_q: int | None, max_k: int | None) -> None:
    """Raise where a segment is longer than the caller said the longest is."""
    for name, cumulative, limit in (("max_seqlen_q", cu_q, max_q), ("max_seqlen_k", cu_k, max_k)):
        if limit is not None and len(cumulative) > 1 and limit < (longest := int(cumulative.diff().max())):
            raise ArgumentError(f"{NAME}: {name}={limit} is less than the longest segment, {longest}")


def _ends(
    q: Tensor, k: Tensor, cu_q: Tensor, cu_k: Tensor | None, max_q: int | None, max_k: int | None, group_size: int
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Where segments end, and the longest: checked, unless the caller saves a GPU the wait by naming the longest."""
    if cu_k is None:
        cu_k, max_k = cu_q, max_q if max_k is None else max_k
    if cu_q.is_cuda and max_q is not None and max_k is not None:
        return cu_q, cu_k, (max_q, max_k)
    _longest_fit(cu_q, cu_k, max_q, max_k)
    list(_runs(q, k, cu_q, cu_k, group_size))  # checks
    longest_q, longest_k = (int(ends.diff().max()) if len(ends) > 1 else 0 for ends in (cu_q, cu_k))
    return cu_q, cu_k, (longest_q, longest_k)


@_register.operator("attention_importance_varlen")
def _importance_varlen(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> Tensor:
    if _backend.resolve(NAME, backend, q, k, cu_seqlens_q) == "triton":
        from . import triton_packed

        ends = _ends(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, group_size)
        return triton_packed.importance(triton_packed.Packed(q, k, *ends), causal, scale, reduce, group_size)
    _longest_fit(cu_seqlens_q, cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    h, n = q.shape[1], k.shape[0] // group_size
    total = q.new_zeros((h, n) if reduce == "none" else (1, n), dtype=_numerics.compute_dtype(q))
    for run in _runs(q, k, cu_seqlens_q, cu_seqlens_k, group_size):
        sums = torch_path.column_sums(_inputs(run, q, k, causal, scale))
        part = torch_path.reduced(sums, reduce, group_size, run.m)  # segments (h) n
        first = run.first_k // group_size
        part = part.view(run.segments, total.shape[0], -1).transpose(0, 1)
        total[:, first : first + part.shape[1] * part.shape[2]] = part.flatten(1)
    return total if reduce == "none" else total[0].clone()


@_register.fake("attention_importance_varlen")
def _(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> Tensor:
    h, n = q.shape[1], k.shape[0] // group_size
    return q.new_empty((h, n) if reduce == "none" else (n,), dtype=_numerics.compute_dtype(q))


@_register.operator("attention_importance_varlen_backward")
def _importance_varlen_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    if _backend.resolve(NAME, backend, q, k, cu_seqlens_q) == "triton":
        from . import triton_packed

        ends = _ends(q, k, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, group_size)
        return triton_packed.backward(triton_packed.Packed(q, k, *ends), grad, causal, scale, reduce, group_size)
    d_q, d_k = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (q, k))
    grad = grad if reduce == "none" else grad[None]  # (h or 1) n
    for run in _runs(q, k, cu_seqlens_q, cu_seqlens_k, group_size):
        first, last = run.first_k // group_size, (run.first_k + run.segments * run.n) // group_size
        part = grad[:, first:last].unflatten(1, (run.segments, -1)).transpose(0, 1)  # segments (h or 1) n
        part = part if reduce == "none" else part[:, 0]
        d_total = torch_path.reduced_backward(part, q.shape[1], reduce, group_size, run.m)
        d_rows, d_keys, _ = torch_path.backward(_inputs(run, q, k, causal, scale), d_total)
        run.rows(d_q).copy_(d_rows)
        run.keys(d_k).copy_(d_keys)
    return d_q, d_k


@_register.fake("attention_importance_varlen_backward")
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    causal: bool,
    scale: float,
    reduce: str,
    group_size: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:11]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _importance_varlen_backward(grad, *ctx.saved_tensors, *ctx.options)
    q, k = (g if needed else None for g, needed in zip(grads, ctx.needs_input_grad[:2], strict=True))
    return (q, k, *[None] * 9)


_register.autograd("attention_importance_varlen", _differentiate, _save)
