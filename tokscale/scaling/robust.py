"""Lines that a few wild scores cannot move: Theil-Sen, Huber, bisquare, least absolute deviations.

None of them can reject a point of leverage above one half: a smallest budget far from the others decides each fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .intervals import normal_quantile
from .law import Array
from .least_squares import solve_design

METHODS = ("theil_sen", "huber", "bisquare", "lad")
_TUNING = {"huber": 1.345, "bisquare": 4.685}  # 95 % efficiency under Gaussian noise
_MAD = 0.6745  # median |e| of a standard normal variable


@dataclass(frozen=True)
class RobustLine:
    """Intercept at the centre and slope; `weights` of the last reweighting step (None where the method has none)."""

    coef: Array
    weights: Array | None
    converged: bool


def robust_scale(residuals: Array) -> float:
    """Return the median absolute residual over 0.6745."""
    return float(np.median(np.abs(residuals)) / _MAD)


def robust_line(method: str, x: Array, z: Array, weights: Array) -> RobustLine:
    """Return the line of one method through sorted points; `x` is `(1, ln n - center)`."""
    if method == "lad":
        return RobustLine(_lad(x[:, 1], z, np.sqrt(weights)), None, True)
    start = _theil_sen(x[:, 1], z)
    if method == "theil_sen":
        return RobustLine(start, None, True)
    return _reweighted(_TUNING[method], method == "huber", x, z, weights, start)


def pairwise_slopes(x: Array, z: Array) -> Array:
    """Return the slopes between all pairs of points with different x, ascending."""
    i, j = np.triu_indices(len(x), 1)
    run = x[j] - x[i]
    apart = run > 0
    return np.sort((z[j] - z[i])[apart] / run[apart])


def theil_sen_interval(x: Array, z: Array, level: float) -> tuple[float, float]:
    """Return the interval of the Theil-Sen slope from Kendall's tau; infinite where too few points give it no end.

    Source: P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968; the order statistics are
        those of `scipy.stats.theilslopes`; differs from it in that the latter stops at the extreme slopes, and leaves
        out two terms of the variance where both budgets and scores have ties.
    """
    slopes = pairwise_slopes(x, z)
    spread = normal_quantile((1 + level) / 2) * np.sqrt(_kendall_variance(x, z))
    high = round((len(slopes) + spread) / 2)
    low = round((len(slopes) - spread) / 2) - 1
    return (
        float(slopes[low]) if low >= 0 else -np.inf,
        float(slopes[high]) if high < len(slopes) else np.inf,
    )


def _kendall_variance(x: Array, z: Array) -> float:
    """Return the null variance of Kendall's S (concordant less discordant pairs) with ties in both variables."""
    n = len(x)
    total, pairs, triples = n * (n - 1) * (2 * n + 5), 1, 1
    for values in (x, z):
        ties = np.unique(values, return_counts=True)[1]
        total -= int(np.sum(ties * (ties - 1) * (2 * ties + 5)))
        pairs *= int(np.sum(ties * (ties - 1)))
        triples *= int(np.sum(ties * (ties - 1) * (ties - 2)))
    return max(0.0, total / 18 + triples / (9 * n * (n - 1) * (n - 2)) + pairs / (2 * n * (n - 1)))


def _theil_sen(x: Array, z: Array) -> Array:
    slope = np.median(pairwise_slopes(x, z))
    return np.array([np.median(z - slope * x), slope])


def _lad(x: Array, z: Array, root_w: Array) -> Array:
    """Return the line of least `sum w^(1/2) |z - a - b x|`; one optimum passes through two points, so all are tried."""
    best, found = np.inf, np.zeros(2)
    for i in range(len(x) - 1):
        j = np.flatnonzero(x > x[i])
        if not len(j):
            continue
        slopes = (z[j] - z[i]) / (x[j] - x[i])
        errors = np.abs(z - z[i] - slopes[:, None] * (x - x[i])) @ root_w
        k = int(np.argmin(errors))
        if errors[k] < best:
            best, found = float(errors[k]), np.array([z[i] - slopes[k] * x[i], slopes[k]])
    return found


def _reweighted(tuning: float, monotone: bool, x: Array, z: Array, weights: Array, coef: Array) -> RobustLine:
    """Iterate weighted least squares from `coef`; the scale is estimated again in each step."""
    root_w = np.sqrt(weights)
    tiny = 1e-13 * max(1.0, float(np.max(np.abs(z))))
    factor = np.ones(len(z))
    for _ in range(500):
        residuals = root_w * (z - x @ coef)
        scale = robust_scale(residuals)
        if scale <= tiny * float(np.median(root_w)):  # more than half of the points lie on the line
            return RobustLine(coef, np.where(np.abs(residuals) <= tiny * root_w, 1.0, 0.0), True)
        ratio = np.abs(residuals) / (tuning * scale)
        factor = 1 / np.maximum(ratio, 1) if monotone else np.clip(1 - ratio**2, 0, None) ** 2
        used = factor > 0
        if len(np.unique(x[used, 1])) < 2:
            return RobustLine(coef, factor, False)
        step = solve_design(x[used], z[used], (weights * factor)[used], 0.0).coef - coef
        coef = coef + step
        if np.max(np.abs(step)) <= 1e-12 * max(1.0, float(np.max(np.abs(coef)))):
            return RobustLine(coef, factor, True)
    return RobustLine(coef, factor, False)
