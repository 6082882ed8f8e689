"""The forms a scaling law can take, in the table `LAWS`. A new form is one new object here.

Sources: `power` T. Li, G. Zhou, X. Zhao, Q. Zhao 2025, arXiv:2412.18387, and `regime` from the theory there; `broken`
E. Caballero, K. Gupta, I. Rish, D. Krueger, "Broken Neural Scaling Laws", 2022, arXiv:2210.14891, with one break of
fixed width; `neglog` J. Krajewski et al. 2025, arXiv:2512.08894; `saturating` is G. E. P. Box and D. R. Cox's
transformation of n, "An Analysis of Transformations", 1964; `binomial` R. W. M. Wedderburn, "Quasi-likelihood
functions", 1974.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np

from . import bases, links
from .law import Array, Functional, Law, Theta, choose

WIDTH = bases.WIDTH  # of the break in `broken`, in ln n


def get_law(form: str) -> Law:
    """Return the law of this name, or raise `FitError` that lists the names."""
    choose("form", form, LAWS)
    return LAWS[form]


def _row(*values: float) -> Callable[[float, Any], Array]:
    """Return a functional vector that depends on neither centre nor theta."""

    def vector(center: float, theta: Any) -> Array:
        return np.broadcast_to(np.array(values), (*np.shape(theta), len(values)))

    return vector


def _at_zero(center: float, theta: Any) -> Array:
    """The line's value at ln n = 0."""
    return np.array([1.0, -center])


_SCALE = Functional(_at_zero, links.exp_float, links.exp_float)  # the c of a line in ln S
_LINE: dict[str, Any] = {"basis": bases.line, "basis_slope": bases.line_slope, "min_budgets": 2, "min_interval": 3}
_INTERCEPT_AND_SLOPE = MappingProxyType({"a": Functional(_at_zero), "b": Functional(_row(0.0, 1.0))})

POWER = Law(
    form="power",
    formula="S(n) = c / n**alpha",
    **_LINE,
    **links.LOG,
    parameters=MappingProxyType(
        {"c": _SCALE, "alpha": Functional(_row(0.0, 1.0), lambda v: 0.0 - v)},
    ),
    exponent_is=("alpha", -1),
)

POWER_ADDITIVE = Law(
    form="power_additive",
    formula="S(n) = c / n**alpha, errors of one size",
    min_budgets=2,
    min_interval=3,
    **links.SCORE,
    basis=bases.power,
    basis_slope=bases.power_slope,
    parameters=MappingProxyType(
        {
            "c": Functional(
                lambda center, theta: np.exp(-np.asarray(theta) * center)[..., None],
                vector_slope=lambda center, theta: -center * np.exp(-np.asarray(theta) * center)[..., None],
            )
        }
    ),
    exponent_is=("alpha", -1),
    theta=Theta(
        "alpha",
        grid=lambda log_n: np.linspace(-3.0, 3.0, 241),
        basis_slope=bases.power_by_theta,
        flat=0.0,
        value=lambda theta: 0.0 - theta,
        free=False,
    ),
)

LOGLINEAR = Law(
    form="loglinear",
    formula="S(n) = a + b ln n",
    **_LINE,
    **links.SCORE,
    parameters=_INTERCEPT_AND_SLOPE,
    exponent_is=("b", 1),
)

_GROWTH = np.concatenate([-np.geomspace(3.0, 1e-3, 70), [0.0], np.geomspace(1e-3, 8.0, 90)])

SATURATING = Law(
    form="saturating",
    formula="S(n) = s1 + b (1 - n**-g) / g",
    min_budgets=3,
    min_interval=4,
    **links.SCORE,
    basis=bases.box_cox,
    basis_slope=bases.box_cox_slope,
    center=lambda log_n: float(np.min(log_n)),
    parameters=MappingProxyType(
        {
            "s1": Functional(
                lambda center, theta: bases.box_cox(0.0, center, theta),
                vector_slope=lambda center, theta: bases.box_cox_by_theta(0.0, center, theta),
            ),
            "b": Functional(
                lambda center, theta: bases.box_cox_slope(0.0, center, theta),
                vector_slope=lambda center, theta: center * bases.box_cox_slope(0.0, center, theta),
            ),
        }
    ),
    exponent_is=("b", 1),
    theta=Theta("g", grid=lambda log_n: _GROWTH, basis_slope=bases.box_cox_by_theta, flat=0.0),
    derived=MappingProxyType({"asymptote": Functional(bases.box_cox_limit)}),
)

REGIME = Law(
    form="regime",
    formula="S(n) = c (n (n + m) / (1 + m))**(beta / 2), m = n_balance",
    min_budgets=3,
    min_interval=4,
    **links.LOG,
    basis=bases.regime,
    basis_slope=bases.regime_slope,
    center=lambda log_n: 0.0,
    parameters=MappingProxyType(
        {
            "c": Functional(_row(1.0, 0.0), links.exp_float, links.exp_float),
            "beta": Functional(_row(0.0, 1.0)),
        }
    ),
    exponent_is=None,
    theta=Theta(
        "n_balance",
        grid=lambda log_n: np.concatenate([[0.0], np.geomspace(1e-2, 1e5, 120)]),
        basis_slope=bases.regime_by_theta,
        flat=0.0,
        beyond=(0.0, np.inf),
    ),
)


def _breaks(log_n: Array) -> Array:
    """Return places for the break, a width away from the ends; a third of the way in where the budgets lie close."""
    low, high = float(np.min(log_n)), float(np.max(log_n))
    margin = min(WIDTH, (high - low) / 3)
    return np.linspace(low + margin, high - margin, 100)


BROKEN = Law(
    form="broken",
    formula=f"ln S(n) = ln c + p1 L + (p2 - p1) f softplus((L - ln d) / f), L = ln n, f = {WIDTH}",
    min_budgets=8,
    min_interval=8,
    **links.LOG,
    basis=bases.broken,
    basis_slope=bases.broken_slope,
    parameters=MappingProxyType(
        {
            "c": Functional(
                lambda center, theta: np.broadcast_to([1.0, -center, 0.0], (*np.shape(theta), 3)),
                links.exp_float,
                links.exp_float,
            ),
            "p1": Functional(_row(0.0, 1.0, 0.0)),
            "p2": Functional(_row(0.0, 1.0, 1.0)),
        }
    ),
    exponent_is=None,
    theta=Theta(
        "d",
        grid=_breaks,
        basis_slope=bases.broken_by_theta,
        flat=np.nan,  # the middle of the range, which depends on the budgets
        value=links.exp_float,
        scale=links.exp_float,
    ),
)

LOGIT = Law(
    form="logit",
    formula="ln(u / (1 - u)) = a + b ln n, u = (S - floor) / (ceil - floor)",
    **_LINE,
    **links.LOGIT,
    parameters=_INTERCEPT_AND_SLOPE,
    exponent_is=("b", 1),
)

NEGLOG = Law(
    form="neglog",
    formula="ln(-ln u) = a + b ln n, u = (S - floor) / (ceil - floor)",
    **_LINE,
    **links.NEGLOG,
    parameters=_INTERCEPT_AND_SLOPE,
    exponent_is=("b", -1),
)

BINOMIAL = Law(
    form="binomial",
    formula="logit E u = a + b ln n, quasi-binomial counts, u = (S - floor) / (ceil - floor)",
    **{**_LINE, "min_budgets": 3},
    **{**links.LOGIT, "check": links.any_score},
    counted=True,
    parameters=_INTERCEPT_AND_SLOPE,
    exponent_is=("b", 1),
)

LAWS: dict[str, Law] = {
    law.form: law for law in (POWER, POWER_ADDITIVE, LOGLINEAR, SATURATING, REGIME, BROKEN, LOGIT, NEGLOG, BINOMIAL)
}
