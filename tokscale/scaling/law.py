"""What a form of the scaling law is: one frozen object that the fit, the intervals, the budgets and the plots read.

A form maps scores to a fitted space by its link. There the curve is linear in coefficients `b` once at most one number
`theta` is fixed: `link(S) = x(n; theta)' b`. Its named parameters are functions of linear functionals
`v = a(theta)' b`, and perhaps of theta itself, so that one routine gives every interval. `laws.py` holds the forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError

Array = npt.NDArray[np.float64]
Link = Callable[[Array, "float | None", "float | None"], Array]


def identity(v: float) -> float:
    return v


def one(v: float) -> float:
    return 1.0


@dataclass(frozen=True)
class Functional:
    """A named parameter `value(v)` of the linear functional `v = vector(center, theta)' b`.

    `scale` is `|d value / d v|`; `vector_slope` is `d vector / d theta` (None: it does not depend on theta).
    """

    vector: Callable[[float, Any], Array]
    value: Callable[[float], float] = identity
    scale: Callable[[float], float] = one
    vector_slope: Callable[[float, Any], Array] | None = None

    def interval(self, lo: float, hi: float) -> tuple[float, float]:
        """Return the interval of the parameter from that of the functional (`value` is monotone)."""
        return ordered(self.value(lo), self.value(hi))


@dataclass(frozen=True)
class Theta:
    """The one number that the curve is not linear in: its name, where it is searched, and how it is shown.

    `grid(log_n)` are ascending candidates, whose ends are the search range. `value(theta)` is the named parameter,
    `scale` is `|d value / d theta|`, and `beyond` are the ends of an interval that reaches the end of the range.
    """

    name: str
    grid: Callable[[Array], Array]
    basis_slope: Callable[[Any, float, Any], Array]  # (log_n, center, theta) -> d x / d theta
    flat: float  # theta of a constant score
    value: Callable[[float], float] = identity
    scale: Callable[[float], float] = one
    beyond: tuple[float, float] = (-np.inf, np.inf)
    free: bool = True  # a constant score says nothing of theta


def _mean(log_n: Array) -> float:
    return float(np.mean(log_n))


@dataclass(frozen=True)
class Law:
    """One form of the scaling law.

    `link`, `inverse`, `link_slope` (dz/dS) and `log_jacobian` (ln|dz/dS|) take `(values, floor, ceil)`.
    `basis(L, center, theta)` gives x(n) for `L = ln n`, shape `(..., p)`, and `basis_slope` its derivative in L; theta
    broadcasts against L, and a form without one ignores it. `check(form, score, index, floor, ceil)` raises `FitError`
    for a score that the link cannot take.
    """

    form: str
    formula: str
    space: str  # how the fitted space is called in a sentence
    min_budgets: int  # distinct budgets that determine the curve
    min_interval: int  # distinct budgets that give an interval
    link: Link
    inverse: Link
    link_slope: Link
    log_jacobian: Link
    basis: Callable[[Any, float, Any], Array]
    basis_slope: Callable[[Any, float, Any], Array]
    parameters: Mapping[str, Functional]
    check: Callable[[str, Array, npt.NDArray[np.intp], float | None, float | None], None]
    exponent_is: tuple[str, int] | None  # the parameter that says how the score grows, and its sign; None: the rise
    logarithmic: bool = False  # fitted in ln S
    bounded: bool = False  # the link needs floor and ceil, and the curve stays between them
    counted: bool = False  # a model of counts: takes n_items, and has no likelihood on the score scale
    theta: Theta | None = None
    center: Callable[[Array], float] = _mean
    derived: Mapping[str, Functional] = field(default_factory=dict)  # further named quantities with an interval

    def __reduce__(self) -> tuple[Callable[[str], Law], tuple[str]]:
        from .laws import get_law  # the table imports this class

        return get_law, (self.form,)  # a copy or a pickle of a fit refers to the table

    @property
    def params(self) -> tuple[str, ...]:
        return (*self.parameters, *(() if self.theta is None else (self.theta.name,)))

    @property
    def is_line(self) -> bool:
        """True where the fitted space holds a straight line in ln n."""
        return self.theta is None

    def linear(self, coef: Array, center: float, theta: float, log_n: Array) -> Array:
        """Return the curve in the fitted space, summed column by column: the same bits for one n as for many."""
        return weigh(self.basis(log_n, center, theta), coef)

    def predict(
        self,
        coef: Array,
        center: float,
        theta: float,
        n: Array,
        floor: float | None = None,
        ceil: float | None = None,
    ) -> Array:
        """Return S(n)."""
        return self.inverse(self.linear(coef, center, theta, np.log(n)), floor, ceil)

    def slope(
        self,
        coef: Array,
        center: float,
        theta: float,
        n: Array,
        floor: float | None = None,
        ceil: float | None = None,
    ) -> Array:
        """Return d ln S / d ln n."""
        rise = weigh(self.basis_slope(np.log(n), center, theta), coef)
        if self.logarithmic:
            return rise
        score = self.predict(coef, center, theta, n, floor, ceil)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return rise / (self.link_slope(score, floor, ceil) * score)


def weigh(x: Array, coef: Array) -> Array:
    """Return `x @ coef` without BLAS, whose bits depend on the number of rows."""
    total = x[..., 0] * coef[0]
    for j in range(1, len(coef)):
        total = total + x[..., j] * coef[j]
    return total


def ordered(a: float, b: float) -> tuple[float, float]:
    """Return two ends in ascending order; NaN stays in its place."""
    return (b, a) if b < a else (a, b)


def choose(name: str, value: object, known: Iterable[str | None]) -> None:
    """Raise `FitError` unless `value` is among `known`; the message lists them sorted."""
    names = list(known)
    if not any(value is k or (isinstance(value, str) and value == k) for k in names):
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        raise FitError(f"{name}={shown} is unknown; choose from {', '.join(sorted(map(str, names)))}")
