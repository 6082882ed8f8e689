"""A law on its points: the coefficients, and the interval of any functional of them.

`Curve.of` is a pure function of sorted points, so a fit that was saved without it gives the same intervals when loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import FitError
from . import intervals
from .counts import solve_counts
from .law import Array, Functional, Law, ordered
from .least_squares import Solution, solve
from .points import Points
from .robust import RobustLine, robust_line, robust_scale, theil_sen_interval

Interval = tuple[float, float]
UNKNOWN: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Parameters:
    """The named parameters at the minimum, their standard errors, their intervals, and how these were made."""

    values: dict[str, float]
    se: dict[str, float]
    ci: dict[str, Interval]
    method: str | None


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
        solution = solve_counts(law, points) if law.counted else solve(law, points)
        line = None if robust is None else robust_line(robust, solution.x, solution.z, points.weights)
        return cls(law, points, solution, robust, line)

    @property
    def coef(self) -> Array:
        return self.solution.coef if self.line is None else self.line.coef

    @property
    def center(self) -> float:
        return self.solution.center

    @property
    def theta(self) -> float:
        return self.solution.theta

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

    def predict(self, n: Array) -> Array:
        """Return S(n)."""
        return self.law.predict(self.coef, self.center, self.theta, n, self.points.floor, self.points.ceil)

    def covariance(self) -> Array | None:
        """Return the covariance of the coefficients of a line, or None where the method has none."""
        if self.line is None:
            return self.solution.variance * (self.solution.root @ self.solution.root.T)
        if self.line.weights is None:
            return None
        used = self.line.weights > 0
        residuals = self.residuals / np.sqrt(self.points.weights)
        if not np.any(residuals[used]):
            return np.zeros((len(self.coef),) * 2)
        if len(np.unique(self.points.n[used])) < len(self.coef):
            return np.full((len(self.coef),) * 2, np.nan)
        weights = (self.points.weights * self.line.weights)[used]
        return intervals.sandwich(self.solution.x[used], residuals[used], weights)

    # Intervals in the fitted space

    def interval_at(self, log_n: Array, level: float, *, new: bool = False) -> tuple[Array, Array]:
        """Return the interval of the curve at `ln n`, any shape, for the mean or for a new observation."""
        flat, law = np.asarray(log_n, float).reshape(-1), self.law
        if law.theta is None:
            lo, hi = self._ends(lambda theta: law.basis(flat, self.center, theta), flat.size, level, new=new)
        else:
            lo, hi = self._ends(lambda theta: law.basis(flat[:, None], self.center, theta), flat.size, level, new=new)
        return lo.reshape(np.shape(log_n)), hi.reshape(np.shape(log_n))

    def functional_interval(self, functional: Functional, level: float, *, above: float = -np.inf) -> Interval:
        """Return the interval of one functional `a(theta)' b`."""
        lo, hi = self._ends(lambda theta: functional.vector(self.center, theta), 1, level, above=above)
        return float(lo[0]), float(hi[0])

    def _ends(
        self, vector: intervals.Vector, count: int, level: float, *, new: bool = False, above: float = -np.inf
    ) -> tuple[Array, Array]:
        if not self.determined:
            return np.full(count, np.nan), np.full(count, np.nan)
        if self.line is None:
            return intervals.profile_functional(self.solution, vector, count, level, new=new, above=above)
        cov = self.covariance()
        if cov is None:
            raise FitError(f'robust="{self.robust}" has no interval for the curve; use robust="huber" or robust=None')
        extra = robust_scale(self.residuals) ** 2 * self.solution.new_variance if new else 0.0
        a = np.broadcast_to(vector(np.array(0.0)), (count, len(self.coef)))
        return intervals.covariance_interval(self.coef, cov, a, level, self.solution.dof, extra=extra)

    def theta_interval(self, level: float) -> Interval:
        """Return the interval of theta."""
        return intervals.theta_interval(self.solution, level) if self.determined else UNKNOWN

    def growth_interval(self, level: float) -> Interval:
        """Return the interval of the exponent of growth (its sign says whether the score grows), NaN without one.

        The exponent is the parameter that the law names, or the rise of the curve from the smallest budget to the
        largest.
        """
        law, theta = self.law, self.law.theta
        if not self.determined or self.robust == "lad":
            return UNKNOWN
        if self.robust == "theil_sen":
            return theil_sen_interval(self.solution.x[:, 1], self.solution.z, level)
        if law.exponent_is is None:
            ends = np.log(self.points.n[[0, -1]])[:, None, None]

            def rise(center: float, t: Array) -> Array:
                x = law.basis(ends, center, t)
                return x[1] - x[0]

            return self.functional_interval(Functional(rise), level)
        name, sign = law.exponent_is
        if theta is not None and name == theta.name:
            lo, hi = (sign * theta.value(t) for t in self.theta_interval(level))
        else:
            f = law.parameters[name]
            lo, hi = (sign * f.value(v) for v in self.functional_interval(f, level))
        return ordered(lo + 0.0, hi + 0.0)  # no minus zero

    # The named parameters

    def parameters(self, ci: str | None, level: float, *, n_boot: int = 1000, seed: int = 0) -> Parameters:
        """Return the named parameters at the minimum."""
        law, theta = self.law, self.law.theta
        v = {
            name: float(np.sum(f.vector(self.center, np.array(self.theta)) * self.coef))
            for name, f in law.parameters.items()
        }
        values = {name: f.value(v[name]) for name, f in law.parameters.items()}
        if theta is not None:
            values[theta.name] = theta.value(self.theta)
        ends, method = self._intervals(ci if self.determined else None, level, n_boot, seed)
        return Parameters(values, self._standard_errors(v), ends, method)

    def _standard_errors(self, v: dict[str, float]) -> dict[str, float]:
        law, theta = self.law, self.law.theta
        se = dict.fromkeys(law.params, math.nan)
        if not self.determined:
            return se
        cov = self.covariance() if theta is None else self.solution.joint_covariance()
        if cov is None:
            return se
        for name, f in law.parameters.items():
            gradient = f.vector(self.center, np.array(self.theta))
            if self.solution.tangent is not None:
                moves = f.vector_slope
                slope = 0.0 if moves is None else moves(self.center, np.array(self.theta)) @ self.coef
                gradient = np.append(gradient, slope)
            among = cov[: len(gradient), : len(gradient)]
            se[name] = f.scale(v[name]) * math.sqrt(max(0.0, float(gradient @ among @ gradient)))
        if theta is not None:
            se[theta.name] = theta.scale(self.theta) * math.sqrt(float(cov[-1, -1]))
        return se

    def _intervals(
        self, ci: str | None, level: float, n_boot: int, seed: int
    ) -> tuple[dict[str, Interval], str | None]:
        law, theta, named = self.law, self.law.theta, self.law.parameters
        names = (*law.params, *law.derived)
        if ci is None or self.robust == "lad":
            return dict.fromkeys(names, UNKNOWN), None
        if self.robust == "theil_sen":  # Kendall's tau speaks of the slope alone
            lo, hi = self.growth_interval(level)
            return {"c": UNKNOWN, "alpha": (0.0 - hi, 0.0 - lo)}, "kendall"
        found: dict[str, Interval] = {}
        if theta is not None:
            if ci == "bootstrap":
                found, (lo, hi) = intervals.bootstrap_profile(law, self.solution, level, n_boot=n_boot, seed=seed)
            else:
                lo, hi = self.theta_interval(level)
                found = {name: f.interval(*self.functional_interval(f, level)) for name, f in named.items()}
            found[theta.name] = ordered(theta.value(lo), theta.value(hi))
            for name, f in law.derived.items():  # an asymptote, above theta = 0: it runs off as theta falls to 0
                low, high = self.functional_interval(f, level, above=0.0)
                if not self.theta_interval(level)[0] > 0:
                    low, high = (low if self.growth_interval(level)[0] > 0 else -math.inf), math.inf
                found[name] = (low, high)
            return found, "bootstrap" if ci == "bootstrap" else "profile"
        a = np.stack([np.asarray(f.vector(self.center, np.array(0.0))) for f in named.values()])
        if ci in ("auto", "t", "profile"):
            ends = self._ends(lambda _: a, len(a), level)
            method = "t" if self.line is None else "sandwich"
        elif ci == "hc3":
            ends, method = intervals.hc3(self.solution, a, level), ci
        else:
            ends = intervals.bootstrap(
                self.solution, a, level, n_boot=n_boot, seed=seed, studentised=ci == "bootstrap_t"
            )
            method = ci
        return {
            name: f.interval(float(ends[0][i]), float(ends[1][i])) for i, (name, f) in enumerate(named.items())
        }, method
