"""A second way to every number of a searched form: the formula as written, and a general least-squares solver."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from tokscale.scaling import LAWS, ScalingFit

from .curves import BUDGETS, FORMULAS, truth

SEARCHED = [form for form, law in LAWS.items() if law.theta is not None]
_NOISE = {"power_additive": 1.2, "saturating": 0.8, "regime": 0.01, "broken": 0.01}
_POSITIVE = ("c", "n_balance", "d")  # solved for in logarithms

Named = dict[str, float]


def noisy(form: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return budgets and scores that identify every parameter of a searched form."""
    e = np.random.default_rng(seed).normal(size=len(BUDGETS))
    law, sigma = LAWS[form], _NOISE[form]
    clean = truth(form)
    return np.array(BUDGETS, float), clean * np.exp(sigma * e) if law.logarithmic else clean + sigma * e


def in_space(fit: ScalingFit, score: Any) -> Any:
    return np.log(score) if fit.law.logarithmic else np.asarray(score)


def curve(form: str, n: Any, named: Named) -> Any:
    """Return the formula's value, in the space where the form is fitted."""
    value = FORMULAS[form](np.asarray(n, float), **named)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.log(value) if LAWS[form].logarithmic else value


def pack(named: Named) -> np.ndarray:
    return np.array([np.log(v) if k in _POSITIVE else v for k, v in named.items()])


def unpack(names: Any, values: Any) -> Named:
    return {k: float(np.exp(v)) if k in _POSITIVE else float(v) for k, v in zip(names, values)}


def least_rss(
    fit: ScalingFit, constraint: Callable[[Named], float] | None = None, starts: list[Named] | None = None
) -> float:
    """Return the least weighted sum of squares over all parameters, where a `constraint` is 0.

    The constraint is one more residual of great weight: what is left of it is of the order of 1 / weight**2.
    """
    from scipy.optimize import least_squares

    names, root_w = list(fit.optimum), np.sqrt(fit.weights)
    z, great = in_space(fit, fit.score), 1e5

    def residuals(values: np.ndarray) -> np.ndarray:
        named = unpack(names, values)
        left = root_w * (z - curve(fit.form, fit.n, named))
        if constraint is not None:
            left = np.append(left, great * constraint(named))
        return np.nan_to_num(left, nan=1e6, posinf=1e6, neginf=-1e6)

    best = np.inf
    for start in starts or around(fit):
        found = least_squares(residuals, pack(start), method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14)
        left = found.fun[: len(z)]
        if constraint is None or abs(found.fun[-1]) < 1e-3 * great * max(1.0, np.max(np.abs(z))):
            best = min(best, float(left @ left))
    return best


def around(fit: ScalingFit) -> list[Named]:
    """Return the optimum, and four places that its last two numbers reach when moved by some standard errors."""
    moved = [name for name in fit.optimum if name != "c" and np.isfinite(fit.se[name])][-2:]
    found = [dict(fit.optimum)]
    for shifts in itertools.product((-1.5, 1.5), repeat=len(moved)):
        named = dict(fit.optimum)
        for name, shift in zip(moved, shifts):
            value = named[name] + shift * fit.se[name]
            named[name] = max(value, 0.3 * named[name]) if name in _POSITIVE else value
        found.append(named)
    return found


def threshold(fit: ScalingFit, level: float) -> float:
    from scipy import stats

    return fit.rss * (1 + stats.f.ppf(level, 1, fit.dof) / fit.dof)
