"""Intervals for functionals of a fit: t or profile likelihood, HC3, and two residual bootstraps.

Every interval on the curve, its parameters and its budgets is one for `v = a(theta)' b`. `profile_functional` gives it
by profile likelihood, which for a law without a theta is the exact t interval (with the variance of a new observation
added, the t prediction interval).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import FitError
from .law import Array, Law
from .least_squares import Solution
from .profile import Vector


def t_quantile(p: float, dof: float) -> float:
    """Return the p quantile of Student's t (from scipy.special: scipy.stats takes a second to import)."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, p))


def normal_quantile(p: float) -> float:
    """Return the p quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(p))


def f_cut(level: float, dof: int) -> float:
    """Return the `level` quantile of F(1, dof), the square of Student's t."""
    return t_quantile((1 + level) / 2, dof) ** 2


def profile_functional(
    solution: Solution, vector: Vector, count: int, level: float, *, new: bool = False, above: float = -np.inf
) -> tuple[Array, Array]:
    """Return the ends of the sets of `v = vector(theta)' b` that a likelihood-ratio test at `level` accepts.

    With `R` the profile of the residual sum of squares and `T = R_min (1 + F(level; 1, N-k) / (N-k))`, the set is the
    union over the thetas with `R <= T` of `a' b +- sqrt((a' (X'WX)^-1 a + e) (T - R))`. A law without a theta has one
    `R`, its minimum, and this is the t interval.

    Args:
        solution: the least-squares fit.
        vector: thetas, (count, K) or (1, K), to functionals (..., K, p); for a law without a theta, 0.0 to (count, p).
        count: how many functionals.
        level: confidence level in (0, 1).
        new: adds the variance of an observation, in units of sigma^2, to the set (the e above): a new observation.
        above: thetas up to this are left out.
    """
    if solution.dof <= 0:
        return np.full(count, np.nan), np.full(count, np.nan)
    extra = solution.new_variance if new else 0.0
    room = solution.variance * f_cut(level, solution.dof)  # T - R_min
    if solution.profile is not None:
        return solution.profile.ends(vector, count, solution.rss + room, extra=extra, above=above)
    a = np.broadcast_to(vector(np.array(0.0)), (count, len(solution.coef)))
    v, half = a @ solution.coef, np.sqrt((solution.h(a) + extra) * room)
    return v - half, v + half


def theta_interval(solution: Solution, level: float) -> tuple[float, float]:
    """Return the interval of theta itself: where `R <= T`."""
    if solution.dof <= 0 or solution.profile is None:
        return np.nan, np.nan
    return solution.profile.theta_interval(solution.rss + solution.variance * f_cut(level, solution.dof))


def sandwich(x: Array, residuals: Array, weights: Array) -> Array:
    """Return the HC3 covariance of the coefficients: residuals enlarged by `1 / (1 - leverage)`, no common variance."""
    w = np.sqrt(weights)
    q, r = np.linalg.qr(x * w[:, None])
    root = np.linalg.inv(r)
    rest = 1 - np.sum(q * q, axis=1)
    if np.any(rest < 1e-12):  # a point that the curve must pass has no residual to judge it by
        return np.full((x.shape[1], x.shape[1]), np.nan)
    scaled = q * (w * residuals / rest)[:, None]
    return root @ (scaled.T @ scaled) @ root.T


def covariance_interval(
    coef: Array, cov: Array, a: Array, level: float, dof: int, *, extra: float | Array = 0.0
) -> tuple[Array, Array]:
    """Return `a' b +- t sqrt(a' C a + extra)`; here `extra` is a variance in the fitted space."""
    v = a @ coef
    half = t_quantile((1 + level) / 2, dof) * np.sqrt(np.sum((a @ cov) * a, axis=-1) + extra)
    return v - half, v + half


def hc3(solution: Solution, a: Array, level: float) -> tuple[Array, Array]:
    """Return the heteroscedasticity-robust t interval of each functional."""
    residuals = solution.residuals / np.sqrt(solution.weights)
    cov = sandwich(solution.x, residuals, solution.weights)
    return covariance_interval(solution.coef, cov, a, level, solution.dof)


def resamples(solution: Solution, level: float, n_boot: int, seed: int) -> Array:
    """Return residuals drawn with replacement, (n_boot, N), or raise `FitError` for too few."""
    tail = (1 - level) / 2
    if n_boot < 1 / tail:
        raise FitError(
            f"n_boot={n_boot} is too few for a {100 * level:g}% interval; use at least {int(np.ceil(1 / tail))}"
        )
    n_obs = len(solution.z)
    picks = np.random.default_rng(seed).integers(0, n_obs, size=(n_boot, n_obs))
    return solution.residuals[picks]


def bootstrap_profile(
    law: Law, solution: Solution, level: float, *, n_boot: int, seed: int
) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Return percentile intervals of the linear parameters of a law with a theta, and of theta.

    Every resample gets the theta of a parabola through the least point of the grid and its neighbours: one stacked
    least squares serves them all.
    """
    problem, tail = solution.profile.problem, (1 - level) / 2  # type: ignore[union-attr]
    drawn = resamples(solution, level, n_boot, seed)
    curve = (solution.z * problem.root_w - solution.residuals)[None]
    theta, coef = np.empty(n_boot), np.empty((n_boot, len(solution.coef)))
    for part in problem.batches(n_boot):
        star = replace(problem, z=(curve + drawn[part]) / problem.root_w)
        theta[part] = star.grid_minimum()
        coef[part] = star.at(theta[part, None]).coef[:, 0]
    named = {}
    for name, functional in law.parameters.items():
        v = np.sum(functional.vector(solution.center, theta) * coef, axis=-1)
        lo, hi = np.quantile(v, [tail, 1 - tail])
        named[name] = functional.interval(float(lo), float(hi))
    lo, hi = np.quantile(theta, [tail, 1 - tail])
    return named, (float(lo), float(hi))


def bootstrap(
    solution: Solution, a: Array, level: float, *, n_boot: int, seed: int, studentised: bool
) -> tuple[Array, Array]:
    """Return residual-bootstrap intervals of each functional: studentised, or plain percentiles.

    The percentile interval is too short at the sizes of a sweep (.872 at ten points where .95 is claimed); the
    studentised one keeps its level. All resamples are one matrix product. A resample of equal residuals has no scale to
    divide by and is left out of the studentised one.
    """
    tail = (1 - level) / 2
    v = a @ solution.coef
    if solution.rss == 0:
        return v.copy(), v.copy()
    drawn = resamples(solution, level, n_boot, seed)
    projected = drawn @ solution.q  # (n_boot, p)
    shift = projected @ (a @ solution.root).T  # (n_boot, functionals)
    if not studentised:
        lo, hi = np.quantile(shift, [tail, 1 - tail], axis=0)
        return v + lo, v + hi
    left = drawn - projected @ solution.q.T
    scale = np.sqrt(np.sum(left * left, axis=1) / solution.dof)
    good = scale > 1e-9 * solution.sigma
    if good.sum() < 1 / tail:
        return np.full_like(v, -np.inf), np.full_like(v, np.inf)
    root_h = np.sqrt(solution.h(a))
    lo, hi = np.quantile(shift[good] / (scale[good, None] * root_h), [tail, 1 - tail], axis=0)
    return v - hi * solution.sigma * root_h, v - lo * solution.sigma * root_h
