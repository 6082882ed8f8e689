"""The budget at which a law reaches a target, and its interval: the set that a likelihood-ratio test accepts (Fieller).

A budget n0 is accepted when the law forced through the target at n0 is not rejected:

    min over theta of  R(theta) + (v - a'b)^2 / (a' (X'WX)^-1 a)  <=  T

For a fixed score, `a = x(n0)` and `v = link(score)`. For a share f of the fitted score at the largest budget,
`a = x(n0) - x(n_full)` and `v = ln f` in a log form, else `a = x(n0) - f x(n_full)` and `v = 0`: the score at the
largest budget is as uncertain as the rest.

Source: E. C. Fieller, "Some problems in interval estimation", 1954.
"""

from __future__ import annotations

import math

import numpy as np

from .curve import Curve
from .intervals import f_cut, t_quantile
from .law import Array
from .projection import Slices

_FAR = 60.0  # in ln n, beyond any budget
_NO_END = 29.0  # an end of the interval at a factor of 10^12 from the budget is none
_ZOOM = np.linspace(0.0, 1.0, 21)


def solve(
    curve: Curve, score: float, level: float, growth: tuple[float, float], share: float | None
) -> tuple[float, float, float]:
    """Return the budget where `S(n) = score` and the ends of its interval.

    Args:
        curve: the fitted law.
        score: the target.
        level: of the interval.
        growth: the interval of the exponent; it decides alone where nothing else of the curve has one, or matters.
        share: the target as a share of the score at the largest budget, or None for a fixed score.

    Returns:
        Exact budget (NaN where no budget reaches the target), lower and upper end.
    """
    if curve.law.theta is not None:
        return _on_profile(curve, score, level, growth, share)
    return _on_line(curve, score, level, growth, None if curve.law.bounded else share)


def _on_line(
    curve: Curve, score: float, level: float, growth: tuple[float, float], share: float | None
) -> tuple[float, float, float]:
    """With one `R`, and `a = fixed + l d` where `l = ln n0 - center` `d = (0, 1)`: a quadratic inequality in l."""
    law, coef, slope = curve.law, curve.coef, float(curve.coef[1])
    far = float(np.log(curve.points.n[-1])) - curve.center
    if share is None:
        fixed, v = np.array([1.0, 0.0]), _link(curve, score)
    elif law.logarithmic:
        fixed, v = np.array([0.0, -far]), math.log(share)
    else:
        fixed, v = np.array([1 - share, -share * far]), 0.0
    v -= float(fixed @ coef)
    if not math.isfinite(v):
        return math.nan, math.nan, math.nan
    exact = _exp(v / slope + curve.center)
    cov = curve.covariance()
    if cov is None:  # a robust line: the exponent alone has an interval, which is enough for a share
        if share is None:
            return exact, math.nan, math.nan
        return exact, *_by_exponent(curve, growth, share)
    # in units of the slope, so that nothing but the budgets has a size
    v, cov = v / slope, cov * (t_quantile((1 + level) / 2, curve.solution.dof) / slope) ** 2
    quadratic = 1 - float(cov[1, 1])  # > 0: the interval of the exponent lies above 0
    cross, square = float(fixed @ cov[1]), float(fixed @ cov @ fixed)
    half, constant = v + cross, v**2 - square
    both = fixed + np.array([0.0, v])  # half^2 - quadratic constant, without the terms that cancel
    discriminant = float(both @ cov @ both) - (float(cov[1, 1]) * square - cross**2)
    far_end = half + math.copysign(math.sqrt(max(0.0, discriminant)), half)
    with np.errstate(divide="ignore", invalid="ignore"):  # a root far away, where the exponent all but reaches 0
        lo, hi = np.sort(np.array([far_end, constant]) / np.array([quadratic, far_end]))
    return exact, _exp(float(lo) + curve.center), _exp(float(hi) + curve.center)


def _by_exponent(curve: Curve, growth: tuple[float, float], share: float) -> tuple[float, float]:
    """Where the exponent p alone decides: `n = n_full * share**(1 / p)`."""
    lo, hi = (_exp(math.log(share) / p + float(np.log(curve.points.n[-1]))) for p in growth)
    return lo, hi


def _on_profile(
    curve: Curve, score: float, level: float, growth: tuple[float, float], share: float | None
) -> tuple[float, float, float]:
    """The same with a theta: the connected set around the exact budget, found by steps that double and then refined."""
    law, solution = curve.law, curve.solution
    target = _link(curve, score)
    middle = _crossing(curve, target)
    if not math.isfinite(middle):
        return math.nan, math.nan, math.nan
    if share is not None and len(curve.coef) == 1:
        return _exp(middle), *_by_exponent(curve, growth, share)
    profile, log_full = solution.profile, float(np.log(curve.points.n[-1]))
    threshold = solution.rss + solution.variance * f_cut(level, solution.dof)
    thetas = profile.sample(threshold)  # type: ignore[union-attr]

    def accepted(log_n: Array) -> np.ndarray:
        def forced(found: Slices, nodes: Array) -> Array:
            a, v = law.basis(log_n[:, None], curve.center, nodes), target
            if share is not None:
                full = law.basis(log_full, curve.center, nodes)
                a, v = (a - full, math.log(share)) if law.logarithmic else (a - share * full, 0.0)
            value, h = found.functional(a)
            miss = (v - value) ** 2
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return found.rss + np.where(miss == 0, 0.0, miss / h)

        least = profile.least(forced, thetas, len(log_n), zooms=2)  # type: ignore[union-attr]
        return least <= threshold * (1 + 1e-12)

    ends = []
    for sign in (-1.0, 1.0):
        steps = np.concatenate([[0.0], 1e-13 * 2.0 ** np.arange(50)])
        steps = steps[steps < _NO_END]
        refused = np.flatnonzero(~accepted(middle + sign * steps)[1:])
        if not len(refused):
            ends.append(0.0 if sign < 0 else math.inf)
            continue
        inner, outer = steps[refused[0]], steps[refused[0] + 1]
        for _ in range(7):
            nodes = inner + (outer - inner) * _ZOOM
            good = accepted(middle + sign * nodes)
            good[0], good[-1] = True, False
            first = int(np.argmin(good))
            inner, outer = nodes[first - 1], nodes[first]
        ends.append(_exp(middle + sign * inner))
    return _exp(middle), ends[0], ends[1]


def _crossing(curve: Curve, target: float) -> float:
    """Return the least ln n at which the curve rises through `target` in the fitted space, NaN where it never does."""
    law, log_n = curve.law, np.log(curve.points.n)

    def below(at: Array) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            return law.linear(curve.coef, curve.center, curve.theta, at) < target

    nodes = np.linspace(min(0.0, log_n[0]) - _FAR, log_n[-1] + _FAR, 4001)
    for _ in range(12):
        under = below(nodes)
        rises = np.flatnonzero(under[:-1] & ~under[1:])
        if not len(rises):
            return math.nan
        nodes = nodes[rises[0]] + (nodes[rises[0] + 1] - nodes[rises[0]]) * _ZOOM
    return float(nodes[-1])


def _link(curve: Curve, score: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(curve.law.link(np.array(score), curve.points.floor, curve.points.ceil))


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf
