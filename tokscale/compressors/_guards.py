"""What every `compress` checks before a method runs: shapes, dtypes, finiteness, and that the needed context is there.

A few dozen microseconds a call: plain attribute reads, and one sum over all that is read. A finite sum proves that
every term is finite (an infinity or NaN never sums to a number); only where the sum is not finite is each tensor looked
at element by element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._checks import unknown_keyword
from ..errors import ArgumentError, CompressorError, DtypeError, MissingContextError, NonFiniteError, ShapeError

if TYPE_CHECKING:
    from .base import TokenCompressor

CONTEXT = {  # need -> its keys in `compress`
    "text": ("text_tokens", "text_mask"),
    "aligned": ("aligned_tokens",),
    "grid": ("grid",),
    "importance": ("importance",),
    "shallow_importance": ("shallow_importance",),
    "keys": ("keys",),
}
KEYS = {key: need for need, keys in CONTEXT.items() for key in keys}

Grid = tuple[int, ...]


def label(owner: type | TokenCompressor) -> str:
    """Return the registered name of a class or its instance, else the name of the class."""
    cls = owner if isinstance(owner, type) else type(owner)
    return cls.__dict__.get("registered_name") or cls.__name__


def prepare(module: TokenCompressor, vision_tokens: Tensor, context: dict[str, Any]) -> dict[str, Any]:
    """Return the part of `context` that the method reads, checked; an absent key that is only used is None."""
    check_vision(vision_tokens)
    for key in context:
        if key not in KEYS:
            raise unknown_keyword(label(module), key, KEYS)
    needs, read = module.needs, {*module.needs, *module.uses}
    given: dict[str, Any] = {}
    floats = [("vision_tokens", vision_tokens)]
    b, n, _ = vision_tokens.shape
    for need in read:
        if need == "grid":
            grid = context.get("grid")
            given["grid"] = resolve_grid(grid, b, n) if grid is not None else None
            continue
        if need not in CONTEXT:
            known = ", ".join(sorted(CONTEXT))
            raise CompressorError(f"{label(module)} needs or uses {need!r}; choose from {known}")
        for key in CONTEXT[need]:
            value = given[key] = context.get(key)
            if value is not None and key != "text_mask":
                _check_context(key, value, vision_tokens)
                floats.append((key, value))
        if need == "text" and given["text_mask"] is not None:
            _check_text_mask(given["text_mask"], given["text_tokens"], vision_tokens)
    if module.check_finite and not torch.compiler.is_compiling():
        check_finite(floats)
    if needs and any(given[CONTEXT[need][0]] is None for need in needs):
        raise _missing(module, given, b, n)
    if "grid" in given and given["grid"] is None:
        given["grid"] = default_grid(n)
    return given


def check_vision(x: Any) -> None:
    """Raise unless x is a floating (batch, tokens, dim) tensor with at least one token of at least one number."""
    if not isinstance(x, Tensor):
        raise DtypeError(f"vision_tokens must be a torch.Tensor of shape (batch, tokens, dim), got {type(x).__name__}")
    if x.ndim != 3:
        remedy = {2: "; add the batch axis with [None]", 4: "; flatten it to (batch, tokens, dim)"}.get(x.ndim, "")
        raise ShapeError(f"vision_tokens must be (batch, tokens, dim), got shape {tuple(x.shape)}{remedy}")
    if not x.is_floating_point():
        raise DtypeError(f"vision_tokens is {x.dtype}; expected a floating dtype")
    if x.shape[1] < 1:
        raise ShapeError(f"vision_tokens holds no token: shape {tuple(x.shape)}; at least 1 is needed")
    if x.shape[2] < 1:
        raise ShapeError(f"vision_tokens has width 0: shape {tuple(x.shape)}; at least 1 is needed")


def check_finite(floats: Sequence[tuple[str, Tensor]]) -> None:
    """Raise `NonFiniteError` that names the first tensor and samples which hold NaN or infinity."""
    total: Any = 0.0
    for _, value in floats:
        value = value.detach()
        total = total + value.sum(dtype=torch.float32 if value.dtype != torch.float64 else None)
    if total.is_meta or math.isfinite(total):
        return
    for name, value in floats:
        good = torch.isfinite(value.detach()).flatten(1).all(1)
        if not good.all():
            raise NonFiniteError(f"{name} is not finite in sample {(~good).nonzero().flatten().tolist()}")


def _check_context(key: str, value: Any, x: Tensor) -> None:
    b, n, _ = x.shape
    if not isinstance(value, Tensor):
        raise DtypeError(f"{key} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise DtypeError(f"{key} is {value.dtype}; expected a floating dtype")
    shape, per_token = tuple(value.shape), key in ("importance", "shallow_importance")
    if key == "text_tokens":
        fits = value.ndim == 3 and shape[0] == b
    else:
        fits = value.ndim == (2 if per_token else 3) and shape[:2] == (b, n)
    if not fits:
        raise ShapeError(f"{key} has shape {shape}; expected {_shape_of(key, b, n)}")
    if value.device != x.device:
        raise ArgumentError(f"{key} is on {value.device}, but vision_tokens is on {x.device}; move one of them")


def _check_text_mask(mask: Any, text: Tensor | None, x: Tensor) -> None:
    if text is None:
        raise ArgumentError("text_mask was given without text_tokens")
    if not isinstance(mask, Tensor):
        raise DtypeError(f"text_mask must be a torch.Tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise DtypeError(f"text_mask is {mask.dtype}; a mask is boolean, True = keep")
    if mask.shape != text.shape[:2]:
        raise ShapeError(f"text_mask has shape {tuple(mask.shape)}; expected {tuple(text.shape[:2])}")
    if mask.device != x.device:
        raise ArgumentError(f"text_mask is on {mask.device}, but vision_tokens is on {x.device}; move one of them")


def _shape_of(key: str, b: int, n: int) -> str:
    return {
        "text_tokens": f"({b}, t, text dim)",
        "aligned_tokens": f"({b}, {n}, text dim)",
        "keys": f"({b}, {n}, key dim)",
        "grid": f"(h, w) with h * w = {n}",
    }.get(key, f"({b}, {n})")


def _missing(module: TokenCompressor, given: dict[str, Any], b: int, n: int) -> MissingContextError:
    needs = sorted(module.needs)
    got = [need for need in needs if given[CONTEXT[need][0]] is not None]
    absent = [CONTEXT[need][0] for need in needs if need not in got]
    wanted = _and(f"{key}= {'of shape ' if key != 'grid' else ''}{_shape_of(key, b, n)}" for key in absent)
    return MissingContextError(
        f"{label(module)} needs {_and(needs)}, got {_and(got) or 'nothing'}. "
        f"Pass {wanted}, or use tokscale.patch, which collects them"
    )


def _and(words: Iterable[str]) -> str:
    *head, last = list(words) or [""]
    return f"{', '.join(head)} and {last}" if head else last


def default_grid(n: int) -> Grid:
    """Return the grid assumed where none is given: square if n is a square, else one row."""
    side = math.isqrt(n)
    return (side, side) if side * side == n else (1, n)


def resolve_grid(grid: Any, b: int, n: int) -> Grid | list[Grid]:
    """Return the grid as a tuple of ints; a list of one tuple per sample where samples differ."""
    if isinstance(grid, Tensor) or hasattr(grid, "tolist"):
        grid = grid.tolist()
    if isinstance(grid, (tuple, list)) and grid and isinstance(grid[0], (tuple, list)):
        if len(grid) != b:
            raise ShapeError(f"grid has {len(grid)} rows, but vision_tokens holds {b} samples")
        rows = [_one_grid(row, n) for row in grid]
        return rows[0] if all(row == rows[0] for row in rows) else rows
    return _one_grid(grid, n)


def _one_grid(grid: Any, n: int) -> Grid:
    sizes: Grid = ()
    if isinstance(grid, (tuple, list)) and len(grid) in (2, 3):
        try:
            sizes = tuple(int(size) for size in grid)
        except (TypeError, ValueError):
            sizes = ()
    if not sizes or any(isinstance(size, bool) or size != exact or exact < 1 for size, exact in zip(grid, sizes)):
        raise ShapeError(f"grid must be (h, w) or (t, h, w) of integers >= 1, or one such row per sample, got {grid!r}")
    if math.prod(sizes) != n:
        product = " * ".join(map(str, sizes))
        raise ShapeError(f"grid {sizes} holds {product} = {math.prod(sizes)} tokens, but vision_tokens has {n}")
    return sizes
