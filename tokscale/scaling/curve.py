"""A law on its points: the coefficients, and the interval of any linear functional of them.

`Curve.of` is a pure function of sorted points, so a fit that was saved without it gives the same intervals when loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import FitError
from .intervals import bootstrap, covariance_interval, hc3, profile_functional, sandwich
from .laws import Array, Law
from .least_squares import Solution, solve
from .points import Points
from .robust import RobustLine, robust_line, robust_scale, theil_sen_interval

Interval = tuple[float, float]
UNKNOWN: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Curve:
    """Coefficients of a law with the solution they come from; `line` is None for least squares."""

    law: Law
    points: Points
    solution: Solution
    robust: str | None
    line: RobustLine | None

    @classmethod
    def of(cls, law: Law, points: Points, robust: str | None = None) -> Curve:
        """Return the curve through sorted points."""
        solution = solve(law, points)
        line = None if robust is None else robust_line(robust, solution.x, solution.z, points.weights)
        return cls(law, points, solution, robust, line)

    @property
    def coef(self) -> Array:
        return self.solution.coef if self.line is None else self.line.coef

    @property
    def center(self) -> float:
        return self.solution.center

    @property
    def residuals(self) -> Array:
        """Weighted residuals in the fitted space."""
        if self.line is None:
            return self.solution.residuals
        return np.sqrt(self.points.weights) * (self.solution.z - self.solution.x @ self.line.coef)

    @property
    def determined(self) -> bool:
        """True where the budgets give an interval, not just a curve."""
        return len(self.points.budgets) >= self.law.min_interval

    def covariance(self) -> Array | None:
        """Return the covariance of the coefficients, or None where the method has none."""
        if self.line is None:
            return self.solution.sigma**2 * (self.solution.root @ self.solution.root.T)
        if self.line.weights is None:
            return None
        used = self.line.weights > 0
        residuals = self.residuals / np.sqrt(self.points.weights)
        if not np.any(residuals[used]):
            return np.zeros((len(self.coef),) * 2)
        if len(np.unique(self.points.n[used])) < len(self.coef):
            return np.full((len(self.coef),) * 2, np.nan)
        weights = (self.points.weights * self.line.weights)[used]
        return sandwich(self.solution.x[used], residuals[used], weights)

    def interval(self, a: Array, level: float, *, new: bool = False) -> tuple[Array, Array]:
        """Return the interval of `a' b` in the fitted space, for the mean or for a new observation."""
        if not self.determined:
            return np.full(a.shape[:-1], np.nan), np.full(a.shape[:-1], np.nan)
        if self.line is None:
            return profile_functional(self.solution, a, level, extra=self.solution.new_variance if new else 0.0)
        cov = self.covariance()
        if cov is None:
            raise FitError(f'robust="{self.robust}" has no interval for the curve; use robust="huber" or robust=None')
        extra = robust_scale(self.residuals) ** 2 * self.solution.new_variance if new else 0.0
        return covariance_interval(self.coef, cov, a, level, self.solution.dof, extra=extra)

    def growth_interval(self, level: float) -> Interval:
        """Return the interval of the exponent of growth, NaN where there is none."""
        if not self.determined or self.robust == "lad":
            return UNKNOWN
        if self.robust == "theil_sen":
            return theil_sen_interval(self.solution.x[:, 1], self.solution.z, level)
        lo, hi = self.interval(self.law.growth(self.center), level)
        return float(lo), float(hi)

    def parameters(
        self, ci: str | None, level: float, *, n_boot: int = 1000, seed: int = 0
    ) -> tuple[dict[str, float], dict[str, float], dict[str, Interval], str | None]:
        """Return the named parameters, their standard errors, their intervals, and how these were made."""
        named = self.law.parameters
        a = np.stack([f.vector(self.center) for f in named.values()])
        v = dict(zip(named, (float(x) for x in a @ self.coef)))
        params = {name: f.value(v[name]) for name, f in named.items()}
        cov = self.covariance() if self.determined else None
        se = dict.fromkeys(named, math.nan)
        if cov is not None:
            se = {f: named[f].scale(v[f]) * math.sqrt(max(0.0, float(row @ cov @ row))) for f, row in zip(named, a)}
        ends, method = self._ends(a, ci if self.determined else None, level, n_boot, seed)
        return params, se, {name: named[name].interval(*ends[i]) for i, name in enumerate(named)}, method

    def _ends(
        self, a: Array, ci: str | None, level: float, n_boot: int, seed: int
    ) -> tuple[list[Interval], str | None]:
        if ci is None or self.robust == "lad":
            return [UNKNOWN] * len(a), None
        if self.robust == "theil_sen":  # Kendall's tau speaks of the slope alone
            growth = self.law.growth(self.center)
            slope = self.growth_interval(level)
            return [slope if np.array_equal(row, growth) else UNKNOWN for row in a], "kendall"
        if ci in ("auto", "t", "profile"):
            lo, hi = self.interval(a, level)
            method = "t" if self.line is None else "sandwich"
        elif ci == "hc3":
            (lo, hi), method = hc3(self.solution, a, level), ci
        else:
            studentised = ci == "bootstrap_t"
            lo, hi = bootstrap(self.solution, a, level, n_boot=n_boot, seed=seed, studentised=studentised)
            method = ci
        return [(float(x), float(y)) for x, y in zip(lo, hi)], method
