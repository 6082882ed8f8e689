"""The data of a joint law: checked and sorted, so that their order changes no bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FitError
from ..law import Array, choose
from ..points import numbers

FORMS: dict[str, tuple[str, ...]] = {
    "product": ("A", "a", "b", "D"),
    "additive": ("E", "A", "B", "a", "b"),
    "loglinear": ("a", "b", "c"),
}
FORMULAS = {
    "product": "y = A N**-a T**-b + D",
    "additive": "y = E + A N**-a + B T**-b",
    "loglinear": "y = a + b ln N + c ln T",
}
LOSSES = ("huber", "lad", "log_mse", "mse")
CORRELATION = 0.99  # of ln N and ln T, above which their exponents are not told apart
_SHAPES = {  # what each axis must tell: the parameters of its own term
    "product": (("a",), ("b",)),
    "additive": (("A", "a"), ("B", "b")),
    "loglinear": (("b",), ("c",)),
}
_NEEDS_TEXT = "; to include a budget of no vision tokens count the text tokens too (T + text tokens)"


@dataclass(frozen=True)
class JointPoints:
    """Points sorted by N, then T, then y. `order[i]` is the place of the i-th in the arrays given."""

    N: Array
    T: Array
    y: Array
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    @property
    def log_n(self) -> Array:
        return np.log(self.N)

    @property
    def log_t(self) -> Array:
        return np.log(self.T)

    @property
    def correlation(self) -> float:
        """The correlation of ln N and ln T; 0 where one of them is constant."""
        x, t = (v - v.mean() for v in (self.log_n, self.log_t))
        size = math.sqrt(float(x @ x) * float(t @ t))
        return float(x @ t) / size if np.ptp(self.N) > 0 and np.ptp(self.T) > 0 else 0.0

    def give_back(self, values: Array) -> Array:
        """Return sorted values in the order of the arrays given, read-only."""
        out = np.empty(len(values))
        out[self.order] = values
        out.flags.writeable = False
        return out


def positive(name: str, value: Any, remedy: str = "") -> Array:
    """Return finite positive numbers of any shape, or raise `FitError`."""
    array = numbers(name, value)
    flat = array.reshape(-1)
    _finite(name, flat)
    bad = np.flatnonzero(flat <= 0)
    if len(bad):
        where = f" at index [{bad[0]}]" if array.ndim else ""
        raise FitError(f"{name} must be positive, got {flat[bad[0]]:g}{where}{remedy}")
    return array


def _finite(name: str, values: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise FitError(f"{name} is not finite at index {bad.tolist()}")


def read_delta(delta: Any) -> float:
    """Return where Huber's loss turns from square to straight, or raise `FitError`."""
    try:
        value = float(delta)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise FitError(f"delta must be a finite number above 0, got {delta!r}")
    return value


def read_fix(form: str, loss: str, fix: Any) -> dict[str, float]:
    """Return the fixed parameters, or raise `FitError` for a name or value that the form does not have."""
    if fix is None:
        return {}
    if not isinstance(fix, Mapping):
        raise FitError(f'fix= takes a dict such as {{"{FORMS[form][-1]}": 0.1}}, got {fix!r}')
    found: dict[str, float] = {}
    for name, given in fix.items():
        choose("fix", name, FORMS[form])
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise FitError(f'fix["{name}"] must be a finite number, got {given!r}')
        if form == "product" and name == "A" and value == 0:
            raise FitError('fix["A"] must not be 0, which takes N and T out of the law')
        if form == "additive" and loss != "mse" and name in ("A", "B", "E") and value < 0:
            raise FitError(f'fix["{name}"] must be at least 0 with loss="{loss}", which fits ln y; got {value:g}')
        if form == "additive" and name in ("A", "B") and value == 0:
            raise FitError(f'fix["{name}"] must not be 0, which takes {"N" if name == "A" else "T"} out of the law')
        if form == "additive" and loss == "mse" and name in ("a", "b") and value == 0:
            raise FitError(f'fix["{name}"] must not be 0, where its term is a constant like E')
        found[name] = value
    if len(found) == len(FORMS[form]):
        raise FitError(f"fix= sets every parameter of {form}; leave at least one to fit")
    return {name: found[name] for name in FORMS[form] if name in found}


def read_joint(N: Any, T: Any, y: Any, form: str, loss: str, fix: Mapping[str, float]) -> JointPoints:
    """Return the checked points of a joint law. Indices in messages are those of the arrays given."""
    N, T, y = numbers("N", N), numbers("T", T), numbers("y", y)
    if not (N.shape == T.shape == y.shape and y.ndim == 1):
        raise FitError(
            f"N has shape {N.shape}, T has shape {T.shape} and y has shape {y.shape}; all must be one-dimensional and "
            "of equal length"
        )
    if len(y) == 0:
        raise FitError("there are no points to fit; a joint law needs at least 2 distinct N and 2 distinct T")
    positive("N", N)
    positive("T", T, _NEEDS_TEXT)
    _finite("y", y)
    _logarithm(form, loss, y)
    order = np.lexsort((y, T, N))
    points = JointPoints(N[order], T[order], y[order], order)
    _enough(points, form, fix)
    return points


def _logarithm(form: str, loss: str, y: Array) -> None:
    bad = np.flatnonzero(y <= 0)
    if not len(bad):
        return
    value = f"{float(y[bad[0]])!r} at index [{bad[0]}]"
    if form == "product":
        raise FitError(
            f'form="product" needs y above 0, got {value}; use form="loglinear", or "additive" with loss="mse"'
        )
    if form == "additive" and loss != "mse":
        raise FitError(f'loss="{loss}" takes the logarithm of y, which is {value}; use loss="mse"')


def _enough(points: JointPoints, form: str, fix: Mapping[str, float]) -> None:
    distinct = (len(np.unique(points.N)), len(np.unique(points.T)))
    need = [1 + sum(name not in fix for name in names) for names in _SHAPES[form]]
    words = f"{need[0]} distinct N and {need[1]} distinct T"
    for name, values, found, least in zip("NT", (points.N, points.T), distinct, need):
        if found == 1 < least:
            rows = "the only point has" if len(points) == 1 else f"all {len(points)} points have"
            raise FitError(f'{rows} {name} = {values[0]:g}; form="{form}" needs at least {words}')
    if distinct[0] < need[0] or distinct[1] < need[1]:
        raise FitError(f'form="{form}" needs at least {words}, got {distinct[0]} and {distinct[1]}')
    free = [name for name in FORMS[form] if name not in fix and name != "D"]  # D is 0 where it is not told
    cells = len(np.unique(np.stack([points.N, points.T]), axis=1).T)
    if cells < len(free):
        raise FitError(
            f'form="{form}" has {len(free)} parameters to fit and needs as many distinct (N, T), got {cells}'
        )
    first, second = _SHAPES[form]
    if form != "additive" and not {*first, *second} & set(fix) and 1 - abs(points.correlation) < 1e-12:
        raise FitError(
            "ln T is a linear function of ln N at these points, so their exponents cannot be told apart; measure one "
            f'size at another budget, or fix one: fix={{"{second[0]}": 0.1}}'
        )


def correlated(points: JointPoints, form: str, fix: Mapping[str, float]) -> str | None:
    """Return the note that the exponents of N and T are not told apart, or None."""
    first, second = _SHAPES[form]
    correlation = points.correlation
    if {*first, *second} & set(fix) or abs(correlation) <= CORRELATION:
        return None
    return (
        f"unidentified: ln N and ln T have correlation {correlation:.4f}: these data do not tell the exponents of N "
        "and T apart; measure every size at the same budgets"
    )
