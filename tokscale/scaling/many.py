"""`fit_many`: a fit for each of several curves, and the mean of their exponents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FitError
from .fit import fit_power_law
from .intervals import normal_quantile
from .result import ScalingFit


@dataclass(frozen=True, eq=False)
class ManyFit:
    """Fits by name, and the random-effects mean of their exponents (positive for growth).

    `tau` is the standard deviation of the exponents between curves, `q` the heterogeneity statistic (chi-square with
    one degree of freedom less than curves, if all exponents are equal).
    """

    fits: dict[str, ScalingFit]
    mean: float
    mean_se: float
    mean_ci: tuple[float, float]
    tau: float
    q: float
    level: float

    def table(self) -> list[dict[str, Any]]:
        """Return one row per curve: name, c, alpha, exponent with standard error and interval."""
        return [
            {
                "name": name,
                "c": fit.c,
                "alpha": fit.alpha,
                "exponent": fit.exponent,
                "se": fit.se["alpha"],
                "lo": fit.exponent_ci[0],
                "hi": fit.exponent_ci[1],
            }
            for name, fit in self.fits.items()
        ]


def fit_many(curves: Mapping[str, tuple[Any, Any]], **same: Any) -> ManyFit:
    """Return a fit per curve and the DerSimonian-Laird random-effects mean of the exponents.

    With `w = 1 / se**2`, the fixed-effect mean m, and `q = sum w (p - m)**2` over K curves,
    `tau**2 = max(0, (q - (K - 1)) / (sum w - sum w**2 / sum w))`; the mean weighs by `1 / (se**2 + tau**2)` and its
    interval is normal.

    Args:
        curves: `{name: (n, score)}`, at least two.
        same: options of `fit_power_law`, the same for every curve.

    Raises:
        FitError: where a curve cannot be fitted (the message names it) or has no standard error.

    Example:
        >>> n = [1, 8, 64, 512]
        >>> many = fit_many({"a": (n, [12.0, 19.7, 32.1, 52.7]), "b": (n, [10.0, 15.2, 22.9, 35.1])})
        >>> round(many.mean, 3)
        0.219

    Source: R. DerSimonian, N. Laird, "Meta-analysis in clinical trials", 1986.
    """
    if len(curves) < 2:
        raise FitError(f"fit_many needs at least 2 curves, got {len(curves)}")
    fits: dict[str, ScalingFit] = {}
    for name, (n, score) in curves.items():
        try:
            fits[name] = fit_power_law(n, score, **same)
        except FitError as error:
            raise FitError(f'curve "{name}": {error}') from error
    p = np.array([fit.exponent for fit in fits.values()])
    se = np.array([fit.se["alpha"] for fit in fits.values()])
    for name, value in zip(fits, se):
        if not (math.isfinite(value) and value > 0):
            raise FitError(f'curve "{name}" has no standard error of the exponent to weigh it by (it is {value:g})')
    w = 1 / se**2
    q = float(np.sum(w * (p - np.sum(w * p) / np.sum(w)) ** 2))
    tau2 = max(0.0, (q - (len(p) - 1)) / float(np.sum(w) - np.sum(w**2) / np.sum(w)))
    w = 1 / (se**2 + tau2)
    mean, mean_se = float(np.sum(w * p) / np.sum(w)), float(1 / np.sqrt(np.sum(w)))
    level = next(iter(fits.values())).level
    half = normal_quantile((1 + level) / 2) * mean_se
    return ManyFit(fits, mean, mean_se, (mean - half, mean + half), math.sqrt(tau2), q, level)
