"""How good a fit is: errors on the score scale, likelihood, leave-one-out errors, outliers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import FitError
from .curve import Curve
from .intervals import t_quantile
from .law import Array
from .robust import robust_scale


def scale(curve: Curve) -> dict[str, float]:
    """Return `rss` (weighted, fitted space) and `sigma**2 = rss / dof`."""
    rss, dof = float(curve.residuals @ curve.residuals), curve.solution.dof
    if curve.solution.dispersion is not None:
        return {"rss": rss, "sigma": math.sqrt(curve.solution.dispersion)}
    return {"rss": rss, "sigma": math.sqrt(rss / dof) if dof > 0 else math.nan}


def quality(curve: Curve, fitted: Array) -> dict[str, float]:
    """Return r2, mean absolute and mean relative error on the score scale, and r2 of ln S for the logarithmic forms."""
    score = curve.points.score
    error = score - fitted
    log = math.nan
    if curve.law.logarithmic:
        with np.errstate(divide="ignore"):
            log = _r2(curve.solution.z, curve.residuals / np.sqrt(curve.points.weights))
    mae, mape = float(np.mean(np.abs(error))), relative_error(fitted, score)
    return {"r2": _r2(score, error), "r2_log": log, "mae": mae, "mape": mape}


def relative_error(predicted: Any, score: Array) -> float:
    """Return the mean of `|predicted - score| / |score|`: infinite where a score of 0 is missed."""
    error = np.abs(predicted - score)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.mean(np.where(error == 0, 0.0, error / np.abs(score))))


def _r2(values: Array, error: Array) -> float:
    if np.all(values == values[0]):
        return math.nan
    spread = values - np.mean(values)
    unit = np.max(np.abs(spread))  # squares of very small scores would vanish
    return 1 - float(np.sum((error / unit) ** 2) / np.sum((spread / unit) ** 2))


def likelihood(curve: Curve, rss: float) -> dict[str, float]:
    """Return the Gaussian log-likelihood on the score scale, AICc and BIC: forms fitted in different spaces compare."""
    points, n = curve.points, len(curve.points)
    if curve.law.counted:  # a quasi-likelihood: nothing to compare with
        return dict.fromkeys(("loglik", "aicc", "bic"), math.nan)
    k = len(curve.law.params) + 1  # sigma counts
    loglik = math.inf
    spread = float(np.max(curve.solution.z) - np.min(curve.solution.z))
    if math.sqrt(rss / n) > 1e-11 * spread * math.sqrt(float(np.mean(points.weights))):  # else it is rounding
        jacobian = float(np.sum(curve.law.log_jacobian(points.score, points.floor, points.ceil)))
        loglik = -n / 2 * (math.log(2 * math.pi) + math.log(rss / n) + 1) + jacobian
        loglik += 0.5 * float(np.sum(np.log(points.weights)))
    aicc = -2 * loglik + 2 * k + 2 * k * (k + 1) / (n - k - 1) if n - k - 1 > 0 else math.inf
    return {"loglik": loglik, "aicc": aicc, "bic": -2 * loglik + k * math.log(n)}


def leave_one_out(curve: Curve) -> dict[str, float]:
    """Return the root mean square error of each point predicted without it, on the score scale and in the fitted space.

    Least squares has the closed form `e_i / (1 - h_ii)`; everything else is fitted again without each point.
    """
    points, solution = curve.points, curve.solution
    _, counts = np.unique(points.n, return_counts=True)
    if len(counts) - np.any(counts == 1) < curve.law.min_budgets:
        return {"loo_rmse": math.nan, "loo_rmse_link": math.nan}
    if points.constant:
        error = np.zeros(len(points))
    elif curve.law.theta is not None:
        error = solution.z - _all_without(curve)
    elif curve.robust is None and not curve.law.counted:
        error = solution.residuals / np.sqrt(points.weights) / (1 - solution.leverage)
    else:
        try:
            error = np.array([_without(curve, i) for i in range(len(points))])
        except FitError:  # counts that have no best fit without one of them
            return {"loo_rmse": math.nan, "loo_rmse_link": math.nan}
    score_error = points.score - curve.law.inverse(solution.z - error, points.floor, points.ceil)
    if not np.any(error):
        score_error = error
    return {
        "loo_rmse": float(np.sqrt(np.mean(score_error**2))),
        "loo_rmse_link": float(np.sqrt(np.mean(error**2))),
    }


def _all_without(curve: Curve) -> Array:
    """Return the prediction of each point by the law fitted without it: all fits in one search."""
    problem, law, n_obs = curve.solution.profile.problem, curve.law, len(curve.points)  # type: ignore[union-attr]
    others = ~np.eye(n_obs, dtype=bool)
    predicted = np.empty(n_obs)
    for part in problem.batches(n_obs):
        grids = np.stack([law.theta.grid(problem.log_n[row]) for row in others[part]])  # type: ignore[union-attr]
        theta, found = replace(problem, root_w=problem.root_w * others[part], grid=grids).minimise()
        x = law.basis(problem.log_n[part], problem.center, theta)
        predicted[part] = np.sum(x * found.coef[:, 0], axis=-1)
    return predicted


def _without(curve: Curve, i: int) -> float:
    rest = Curve.of(curve.law, curve.points.keep(np.arange(len(curve.points)) != i), curve.robust)
    log_n = np.log(curve.points.n[i : i + 1])
    return float(curve.solution.z[i] - curve.law.linear(rest.coef, rest.center, rest.theta, log_n)[0])


def chi_square(curve: Curve, fitted: Array) -> dict[str, Any]:
    """Return chi2 per degree of freedom under the errors of the scores, and the factor by which these are too small."""
    points, dof = curve.points, curve.solution.dof
    if curve.law.counted:  # the errors of the model, not those at the observed shares
        chi2 = float(curve.residuals @ curve.residuals) / dof if dof > 0 else math.nan
        return {"chi2_dof": chi2, "birge": max(1.0, math.sqrt(chi2)) if dof > 0 else math.nan}
    if points.score_se is None:
        return {"chi2_dof": None, "birge": None}
    chi2 = float(np.sum(((points.score - fitted) / points.score_se) ** 2)) / dof if dof > 0 else math.nan
    return {"chi2_dof": chi2, "birge": max(1.0, math.sqrt(chi2)) if dof > 0 else math.nan}


def studentized(curve: Curve, rss: float) -> Array:
    """Return externally studentised residuals: each in units of the scatter of the others; NaN where there is none.

    For a robust line the unit is its own scale, which the point hardly moves.
    """
    solution, error = curve.solution, curve.residuals
    n_obs, dof = len(solution.z), solution.dof
    spread = float(np.max(solution.z) - np.min(solution.z))
    if dof <= 1 or math.sqrt(rss / dof) <= 1e-9 * spread * math.sqrt(float(np.mean(solution.weights))):
        return np.full(n_obs, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(solution.leverage < 1 - 1e-12, 1 - solution.leverage, np.nan)
        if curve.robust is None:
            unit = np.sqrt(np.maximum(rss - error**2 / rest, 0) / (dof - 1))
        else:
            unit = np.full(n_obs, robust_scale(error))
        return np.where(error == 0, 0.0, error / (unit * np.sqrt(rest)))


def outliers(curve: Curve, t: Array, level: float) -> dict[str, Any]:
    """Return the positions of outliers among the sorted points, and the Bonferroni limit."""
    n_obs, dof = len(t), curve.solution.dof - 1
    if dof < 1 or np.all(np.isnan(t)):
        return {"where": np.array([], dtype=int), "limit": math.inf}
    limit = t_quantile(1 - (1 - level) / (2 * n_obs), dof)
    return {"where": np.flatnonzero(np.abs(t) > limit), "limit": limit}
