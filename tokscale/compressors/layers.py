"""Small parts that compressors share: of the trained ones, and checks of arguments."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, BudgetError, ShapeError

if TYPE_CHECKING:
    from .base import TokenCompressor


def layer_norm(dim: int) -> nn.LayerNorm:
    """Return a LayerNorm with the eps of this package's trained methods."""
    return nn.LayerNorm(dim, eps=1e-6)


def module_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's weights; inputs of another dtype are cast to it and the result is cast back."""
    return next(module.parameters()).dtype


def check_width(owner: TokenCompressor, key: str, tokens: Tensor, dim: int | None, name: str = "dim") -> None:
    """Raise `ShapeError` if tokens are not as wide as the module was built for."""
    if tokens.shape[-1] != dim:
        raise ShapeError(
            f"{key} has width {tokens.shape[-1]}, but this {type(owner).__name__} was built with {name}={dim}"
        )


def check_queries(owner: TokenCompressor, num_tokens: int) -> None:
    """Raise `BudgetError` if a module with learned queries has fewer than `num_tokens` of them."""
    held = owner.num_queries
    if num_tokens > held:
        raise BudgetError(
            f"num_tokens={num_tokens} exceeds the {held} queries this {type(owner).__name__} was built with. "
            f"Use num_tokens <= {held}, or build it with num_tokens={num_tokens} and train it."
        )


def real(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> float:
    """Return `value` as a float, or raise `ArgumentError` unless it is a finite number > `above` or >= `least`."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or (above is not None and value <= above) or (least is not None and value < least):
        bound = f"> {above:g}" if above is not None else f">= {least:g}"
        raise ArgumentError(f"{name} must be a finite number {bound}, got {value!r}")
    return float(value)


def fraction(name: str, value: Any, *, below: bool = False) -> float:
    """Return `value` as a float, or raise `ArgumentError` unless it lies from 0 to 1 (`below`: not 1 itself)."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not fits or not 0 <= value <= 1 or (below and value == 1):
        raise ArgumentError(f"{name} must be a number in [0, 1{')' if below else ']'}, got {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int = 0) -> int:
    """Return `value` as an int, or raise `ArgumentError` unless it is an integer >= `least`; bool is refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ArgumentError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)
