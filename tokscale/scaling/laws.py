"""The forms a scaling law can take: one frozen object each, in the table `LAWS`.

A form maps scores to a fitted space by its link, where it is linear in coefficients `b`: `link(S) = x(n)' b`. Its named
parameters are functions of linear functionals `v = a' b`, so that one routine gives every interval. A new form is one
new object here; the fit, the intervals, the budgets and the tests find it in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..errors import FitError

Array = npt.NDArray[np.float64]
Link = Callable[[Array, "float | None", "float | None"], Array]


@dataclass(frozen=True)
class Functional:
    """A named parameter: `value(v)` of the linear functional `v = vector(center)' b`; `scale` is `|d value / d v|`."""

    vector: Callable[[float], Array]
    value: Callable[[float], float]
    scale: Callable[[float], float]

    def interval(self, lo: float, hi: float) -> tuple[float, float]:
        """Return the interval of the parameter from that of the functional (`value` is monotone)."""
        ends = self.value(lo), self.value(hi)
        return ends if ends[0] <= ends[1] else ends[::-1]


@dataclass(frozen=True)
class Law:
    """One form of the scaling law.

    `link`, `inverse`, `link_slope` (dz/dS) and `log_jacobian` (ln|dz/dS|) take `(values, floor, ceil)`.
    `basis(L, center)` gives x(n) for `L = ln n`, shape `(..., p)`, and `basis_slope` its derivative in L.
    `growth(center)` is the functional whose sign says whether the score grows. `check(score, index)` raises `FitError`
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
    basis: Callable[[Array, float], Array]
    basis_slope: Callable[[Array, float], Array]
    growth: Callable[[float], Array]
    parameters: Mapping[str, Functional]
    check: Callable[[Array, npt.NDArray[np.intp]], None]
    exponent_is: tuple[str, int]  # the parameter that says how the score grows, and its sign
    logarithmic: bool  # fitted in ln S

    def __reduce__(self) -> tuple[Callable[[str], Law], tuple[str]]:
        return get_law, (self.form,)  # a copy or a pickle of a fit refers to the table

    @property
    def params(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def exponent(self, interval: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
        """Return the interval of the exponent of growth from those of the parameters."""
        name, sign = self.exponent_is
        lo, hi = interval[name]
        return (lo, hi) if sign > 0 else (0.0 - hi, 0.0 - lo)

    def linear(self, coef: Array, center: float, log_n: Array) -> Array:
        """Return the curve in the fitted space, summed column by column: the same bits for one n as for many."""
        return weigh(self.basis(log_n, center), coef)

    def predict(
        self, coef: Array, center: float, n: Array, floor: float | None = None, ceil: float | None = None
    ) -> Array:
        """Return S(n)."""
        return self.inverse(self.linear(coef, center, np.log(n)), floor, ceil)

    def slope(
        self, coef: Array, center: float, n: Array, floor: float | None = None, ceil: float | None = None
    ) -> Array:
        """Return d ln S / d ln n."""
        rise = weigh(self.basis_slope(np.log(n), center), coef)
        if self.logarithmic:
            return rise
        score = self.predict(coef, center, n, floor, ceil)
        return rise / (self.link_slope(score, floor, ceil) * score)


def weigh(x: Array, coef: Array) -> Array:
    """Return `x @ coef` without BLAS, whose bits depend on the number of rows."""
    total = x[..., 0] * coef[0]
    for j in range(1, len(coef)):
        total = total + x[..., j] * coef[j]
    return total


def get_law(form: str) -> Law:
    """Return the law of this name, or raise `FitError` that lists the names."""
    choose("form", form, LAWS)
    return LAWS[form]


def choose(name: str, value: object, known: Iterable[str | None]) -> None:
    """Raise `FitError` unless `value` is among `known`; the message lists them sorted."""
    names = list(known)
    if not any(value is k or (isinstance(value, str) and value == k) for k in names):
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        raise FitError(f"{name}={shown} is unknown; choose from {', '.join(sorted(map(str, names)))}")


# The power law: ln S = ln c - alpha ln n, so b = (ln S at the centre, -alpha).


def _exp(z: Array, floor: float | None, ceil: float | None) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(z)


def _exp_float(v: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(v))


def _line(log_n: Array, center: float) -> Array:
    return np.stack([np.ones_like(log_n), log_n - center], axis=-1)


def _line_slope(log_n: Array, center: float) -> Array:
    return np.stack([np.zeros_like(log_n), np.ones_like(log_n)], axis=-1)


def _positive(score: Array, index: npt.NDArray[np.intp]) -> None:
    bad = np.flatnonzero(score <= 0)
    if len(bad):
        value, at = float(score[bad[0]]), index[bad[0]]
        raise FitError(
            f'form="power" takes the logarithm of the score, which is {value!r} at index [{at}]; '
            'use form="power_additive", "loglinear" or "saturating", or form="binomial" with n_items='
        )


POWER = Law(
    form="power",
    formula="S(n) = c / n**alpha",
    space="ln S",
    min_budgets=2,
    min_interval=3,
    link=lambda score, floor, ceil: np.log(score),
    inverse=_exp,
    link_slope=lambda score, floor, ceil: 1.0 / score,
    log_jacobian=lambda score, floor, ceil: -np.log(score),
    basis=_line,
    basis_slope=_line_slope,
    growth=lambda center: np.array([0.0, 1.0]),
    parameters=MappingProxyType(
        {
            "c": Functional(lambda center: np.array([1.0, -center]), _exp_float, _exp_float),
            "alpha": Functional(lambda center: np.array([0.0, 1.0]), lambda v: 0.0 - v, lambda v: 1.0),
        }
    ),
    check=_positive,
    exponent_is=("alpha", -1),
    logarithmic=True,
)

LAWS: dict[str, Law] = {law.form: law for law in (POWER,)}
