"""Checks of the operators' arguments; every message begins with the operator's name.

Functions of shapes and dtypes run in the Python wrapper. Those that read values (`lengths_in_range`, `rows_in_range`,
`enough_allowed`) run inside the registered operator, so that `torch.compile(fullgraph=True)` sees one node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .._checks import one_of, positive_int
from ..errors import ArgumentError, BudgetError, DtypeError, ShapeError

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shape_of(tensor: Tensor) -> str:
    """The shape as a reader writes it: `(2, 4, 5, 16)`."""
    return str(tuple(int(size) for size in tensor.shape))


def option(op: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless `value` is among `choices`."""
    one_of(f"{op}: {name}", value, choices)


def shape(op: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise unless `tensor` has exactly the expected shape."""
    if tuple(tensor.shape) != tuple(expected):
        want = str(tuple(int(size) for size in expected))
        raise ShapeError(f"{op}: {name} has shape {shape_of(tensor)}; expected {want}")


def layout(op: str, name: str, tensor: Tensor, axes: str) -> None:
    """Raise unless `tensor` has one axis per name in `axes`, such as `"b, heads, length, head_dim"`."""
    if tensor.dim() != axes.count(",") + 1:
        raise ShapeError(f"{op}: {name} has shape {shape_of(tensor)}; expected ({axes})")


def same_dtype(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors have one and the same floating dtype."""
    if tensor.dtype != other.dtype or tensor.dtype not in FLOATING:
        raise DtypeError(
            f"{op}: {name} is {tensor.dtype} and {other_name} is {other.dtype}; both must be the same floating dtype"
        )


def floating(op: str, name: str, tensor: Tensor) -> None:
    """Raise unless `tensor` is of a floating dtype that the operators take."""
    if tensor.dtype not in FLOATING:
        raise DtypeError(f"{op}: {name} is {tensor.dtype}; expected float16, bfloat16, float32 or float64")


def one_device(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors lie on one device."""
    if tensor.device != other.device:
        raise ArgumentError(
            f"{op}: {name} is on {tensor.device} and {other_name} is on {other.device}; move them to one device"
        )


def queries_and_keys(op: str, q: Tensor, k: Tensor, q_name: str = "q", k_name: str = "k") -> None:
    """Raise unless `q` (b, h, m, d) and `k` (b, g, n, d) go together, h a multiple of g."""
    layout(op, q_name, q, "b, heads, length, head_dim")
    layout(op, k_name, k, "b, heads, length, head_dim")
    one_device(op, q_name, q, k_name, k)
    same_dtype(op, q_name, q, k_name, k)
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ShapeError(f"{op}: {q_name} {shape_of(q)} and {k_name} {shape_of(k)} differ in batch or head_dim")
    if q.shape[3] == 0:
        raise ShapeError(f"{op}: {q_name} has shape {shape_of(q)}; head_dim must be at least 1")
    head_groups(op, q.shape[1], k.shape[1])


def head_groups(op: str, heads: int, key_heads: int) -> None:
    """Raise unless the query heads share the key heads evenly."""
    if key_heads == 0 or heads % key_heads:
        raise ShapeError(f"{op}: {heads} query heads are not a multiple of {key_heads} key heads")


def keys_and_values(op: str, k_name: str, k: Tensor, v_name: str, v: Tensor) -> None:
    """Raise unless `k` and `v` have one shape, dtype and device."""
    if k.shape != v.shape:
        raise ShapeError(f"{op}: {k_name} {shape_of(k)} and {v_name} {shape_of(v)} must have one shape")
    one_device(op, k_name, k, v_name, v)
    same_dtype(op, k_name, k, v_name, v)


def pair(op: str, first_name: str, first: Tensor | None, second_name: str, second: Tensor | None) -> None:
    """Raise unless both or neither of two arguments are given."""
    if (first is None) != (second is None):
        given = first_name if second is None else second_name
        raise ArgumentError(f"{op}: {first_name} and {second_name} go together; got {given} only")


def boolean(op: str, name: str, tensor: Tensor) -> None:
    """Raise unless a mask is boolean."""
    if tensor.dtype != torch.bool:
        raise DtypeError(f"{op}: {name} is {tensor.dtype}; a mask is boolean, True = keep")


def mask(op: str, name: str, tensor: Tensor, like: Tensor, expected: tuple[int, ...]) -> None:
    """Raise unless `tensor` is a boolean mask of the expected shape on the device of `like`."""
    boolean(op, name, tensor)
    shape(op, name, tensor, expected)
    one_device(op, name, tensor, "the input", like)


def visibility(op: str, prefix: str, keys: Tensor, mask_: Tensor | None, lengths: Tensor | None) -> None:
    """Raise unless at most one of `{prefix}_mask` (b, n) and `{prefix}_lengths` (b,) is given, well formed."""
    if mask_ is not None and lengths is not None:
        raise ArgumentError(f"{op}: pass {prefix}_mask or {prefix}_lengths, not both")
    if mask_ is not None:
        mask(op, f"{prefix}_mask", mask_, keys, (keys.shape[0], keys.shape[2]))
    if lengths is not None:
        integers(op, f"{prefix}_lengths", lengths)
        shape(op, f"{prefix}_lengths", lengths, (keys.shape[0],))
        one_device(op, f"{prefix}_lengths", lengths, "the input", keys)


def integers(op: str, name: str, tensor: Tensor) -> None:
    """Raise unless `tensor` holds int64 or int32."""
    if tensor.dtype not in (torch.int64, torch.int32):
        raise DtypeError(f"{op}: {name} is {tensor.dtype}; expected int64 or int32")


def budget(op: str, num_tokens: Any, n: int) -> int:
    """Return `num_tokens` as an int, or raise unless it is an integer in [1, n]."""
    if isinstance(num_tokens, int) and not isinstance(num_tokens, bool) and not 1 <= num_tokens <= n:
        raise BudgetError(f"{op}: num_tokens={num_tokens} must lie in [1, {n}]")
    return positive_int(num_tokens, f"{op}: num_tokens")


# Checks that read values: called inside the registered operators only.


def unreadable(tensor: Tensor) -> bool:
    """True while a CUDA graph is captured: reading a value back would break the capture."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def lengths_in_range(op: str, name: str, lengths: Tensor | None, n: int) -> None:
    """Raise unless every length lies in [0, n]."""
    if lengths is None or unreadable(lengths):
        return
    for i, length in enumerate(lengths.tolist()):
        if not 0 <= length <= n:
            raise ShapeError(f"{op}: {name}[{i}] = {length} lies outside [0, {n}]")


def rows_in_range(op: str, rows: Tensor, m: int) -> None:
    """Raise unless every row index lies in [-m, m)."""
    if rows.numel() == 0 or unreadable(rows):
        return
    low, high = (int(value) for value in torch.aminmax(rows))
    if low < -m or high >= m:
        raise ShapeError(f"{op}: rows={low if low < -m else high} lies outside [-{m}, {m})")


def enough_allowed(op: str, num_tokens: int, allowed: Tensor | None) -> None:
    """Raise unless each sample's mask allows at least `num_tokens` tokens."""
    if allowed is None or unreadable(allowed):
        return
    for i, count in enumerate(allowed.sum(-1).tolist()):
        if count < num_tokens:
            raise BudgetError(f"{op}: num_tokens={num_tokens} exceeds the {count} allowed tokens of sample {i}")
