"""Plain JSON for results: non-finite numbers are the strings "nan", "inf" and "-inf"; all come back bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import FitError
from .law import Array, choose

SCHEMA = 1


def encode(value: Any) -> Any:
    """Return `value` in types that `json.dumps(..., allow_nan=False)` takes."""
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return encode(value.tolist())
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def saved(fit: Any) -> dict[str, Any]:
    """Return every field of a dataclass as plain JSON."""
    return {"schema": SCHEMA, **{f.name: encode(getattr(fit, f.name)) for f in fields(fit)}}


def loaded(cls: Any, data: Any, forms: Iterable[str], decode_field: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return the fields of a dataclass from what `saved` wrote, or raise `FitError` that says what is wrong with it."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise FitError(f"from_dict reads what to_dict wrote with schema {SCHEMA}, got {found!r}")
    missing = [f.name for f in fields(cls) if f.name not in data]
    if missing:
        raise FitError(f"from_dict misses {', '.join(missing)}")
    choose("form", data["form"], forms)
    return {f.name: decode_field(f.name, data[f.name]) for f in fields(cls)}


def array(value: Any) -> Array | None:
    """Return a read-only float64 array from what `encode` wrote (None stays None)."""
    if value is None:
        return None
    out = np.array([float(v) for v in value], dtype=np.float64)
    out.flags.writeable = False
    return out


def number(value: Any) -> float | None:
    return None if value is None else float(value)


_ARRAYS = frozenset(
    ("n", "score", "weights", "fitted", "residuals", "leverage", "studentized", "robust_weights", "score_se", "n_items")
)
_COUNTS, _TEXTS = frozenset(("n_obs", "dof")), frozenset(("form", "ci_method", "robust"))


def decode(name: str, value: Any) -> Any:
    """Return the field `name` of a fit from what `encode` wrote."""
    if name in _ARRAYS:
        return array(value)
    if name in _TEXTS:
        return value
    if name in _COUNTS:
        return int(value)
    if name == "converged":
        return bool(value)
    if name == "identified":
        return {key: bool(v) for key, v in value.items()}
    if name in ("params", "se", "optimum"):
        return {key: float(v) for key, v in value.items()}
    if name == "ci":
        return {key: (float(lo), float(hi)) for key, (lo, hi) in value.items()}
    if name == "excluded_points":
        return tuple((float(n), float(score)) for n, score in value)
    if name in ("excluded", "coef"):
        return tuple(float(v) for v in value)
    if name == "outliers":
        return tuple(int(v) for v in value)
    if name in ("warnings", "at_bound"):
        return tuple(str(v) for v in value)
    return number(value)
