"""The forms with a searched number: minima, standard errors, leave-one-out and bootstrap against other ways to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tokscale.scaling import LAWS, fit_power_law
from tokscale.scaling.least_squares import problem_of
from tokscale.scaling.points import read_points

from .curves import BUDGETS, CURVES, OCRBENCH, quiet
from .reference import SEARCHED, curve, in_space, least_rss, noisy, pack, unpack

searched = pytest.mark.parametrize("form", SEARCHED)
WEIGHTS = np.linspace(1, 3, len(BUDGETS))
KINDS = {"plain": {}, "weights": {"weights": WEIGHTS}, "se": {"se": 1 / WEIGHTS}}


@searched
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("seed", [1, 2])
def test_no_solver_finds_less(form: str, kind: str, seed: int) -> None:
    fit = quiet(*noisy(form, seed), form=form, **KINDS[kind])
    other = least_rss(fit)
    assert fit.rss <= other * (1 + 1e-10) and other <= fit.rss * (1 + 1e-8)
    at = curve(form, fit.n, fit.optimum)
    assert np.sum(fit.weights * (in_space(fit, fit.score) - at) ** 2) == pytest.approx(fit.rss, rel=1e-9)
    np.testing.assert_allclose(in_space(fit, fit.fitted), at, rtol=1e-10)


@pytest.mark.parametrize("metric", ["Overall@POPE", "Final Score@OCRBench", "Overall@MME", "Overall@ChartQA_TEST"])
@pytest.mark.parametrize("form", ["power_additive", "saturating", "broken"])
def test_curve_fit_agrees_on_the_published_curves(form: str, metric: str) -> None:
    from scipy.optimize import curve_fit

    fit = quiet(*CURVES[metric], form=form)
    names = list(fit.optimum)

    def model(n: Any, *values: float) -> Any:
        return curve(form, n, unpack(names, values))

    start = pack(fit.optimum) + 0.01
    values, _ = curve_fit(model, fit.n, in_space(fit, fit.score), p0=start, xtol=1e-14, ftol=1e-14, maxfev=20000)
    rss = float(np.sum((in_space(fit, fit.score) - model(fit.n, *values)) ** 2))
    assert rss == pytest.approx(fit.rss, rel=1e-8) and not fit.at_bound
    np.testing.assert_allclose(list(unpack(names, values).values()), list(fit.optimum.values()), rtol=1e-4)


@searched
@pytest.mark.parametrize("kind", list(KINDS))
def test_standard_errors_are_those_of_the_whole_model(form: str, kind: str) -> None:
    """`sigma^2 (J'WJ)^-1` with J the numeric derivative of the formula in its named parameters."""
    fit = quiet(*noisy(form), form=form, **KINDS[kind])
    columns = []
    for name, value in fit.params.items():
        h = 1e-6 * max(abs(value), 1e-3)
        up, down = (curve(form, fit.n, fit.params | {name: value + s * h}) for s in (1, -1))
        columns.append((up - down) / (2 * h))
    j = np.stack(columns, axis=1) * np.sqrt(fit.weights)[:, None]
    se = fit.sigma * np.sqrt(np.diag(np.linalg.inv(j.T @ j)))
    assert list(fit.se.values()) == pytest.approx(list(se), rel=1e-5)
    hat = np.diag(j @ np.linalg.solve(j.T @ j, j.T))
    np.testing.assert_allclose(fit.leverage, hat, rtol=1e-5, atol=1e-9)
    assert fit.leverage.sum() == pytest.approx(len(fit.params), rel=1e-9)


@searched
@pytest.mark.parametrize("kind", list(KINDS))
def test_leave_one_out_is_what_refits_give(form: str, kind: str) -> None:
    n, score = noisy(form)
    fit = quiet(n, score, form=form, **KINDS[kind])
    direct, linked = [], []
    for i in range(len(n)):
        keep = np.arange(len(n)) != i
        rest = {name: values[keep] for name, values in KINDS[kind].items()}
        part = quiet(n[keep], score[keep], form=form, ci=None, **rest)
        direct.append(score[i] - part(n[i]))
        linked.append(in_space(fit, score[i]) - in_space(fit, part(n[i])))
    assert fit.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(direct))), rel=1e-6)
    assert fit.loo_rmse_link == pytest.approx(np.sqrt(np.mean(np.square(linked))), rel=1e-6)


@searched
def test_a_bootstrap_is_its_refits(form: str) -> None:
    """Fits of the same draws; two parabolas find each minimum within half a percent of the interval."""
    n, score = noisy(form)
    fit = quiet(n, score, form=form, ci="bootstrap", n_boot=100, seed=3, weights=WEIGHTS)
    base = in_space(fit, fit.fitted)
    left = np.sqrt(WEIGHTS) * (in_space(fit, score) - base)
    found: dict[str, list[float]] = {name: [] for name in fit.params}
    for picks in np.random.default_rng(3).integers(0, 10, size=(100, 10)):
        star = base + left[picks] / np.sqrt(WEIGHTS)
        again = quiet(n, np.exp(star) if fit.law.logarithmic else star, form=form, ci=None, weights=WEIGHTS)
        for name, value in again.optimum.items():
            found[name].append(value)
    for name, values in found.items():
        lo, hi = np.quantile(values, [0.025, 0.975])
        assert fit.ci[name] == pytest.approx((lo, hi), abs=5e-3 * (hi - lo)), name
    assert fit.ci_method == "bootstrap"
    assert fit.interval(100) == quiet(n, score, form=form, weights=WEIGHTS).interval(100)


@searched
def test_the_grid_is_ascending_and_holds_what_the_form_promises(form: str) -> None:
    law = LAWS[form]
    assert law.theta is not None
    grid = law.theta.grid(np.log(BUDGETS))
    assert np.all(np.diff(grid) > 0) and (math.isnan(law.theta.flat) or law.theta.flat in grid)
    ends = {"power_additive": (-3, 3), "saturating": (-3, 8), "regime": (0, 1e5), "broken": (0.3, math.log(768) - 0.3)}
    assert (grid[0], grid[-1]) == pytest.approx(ends[form])
    close = np.log([100.0, 100.5, 101.0])
    assert np.all(np.diff(law.theta.grid(close)) > 0)
    if form == "broken":  # a break lies inside the budgets, however close they are
        assert close[0] < law.theta.grid(close)[0] and law.theta.grid(close)[-1] < close[-1]


@searched
def test_the_profile_is_the_least_squares_of_each_theta(form: str) -> None:
    """Gram-Schmidt done twice against `lstsq`, over the whole grid, with weights."""
    n, score = noisy(form)
    points = read_points(LAWS[form], n, score, weights=WEIGHTS)
    law, log_n = LAWS[form], np.log(points.n)
    problem = problem_of(law, points, log_n, law.center(log_n), law.link(points.score, None, None))
    found = problem.at(problem.grid)
    unit = np.max(problem.z**2)
    for i in range(0, len(problem.grid), 7):
        x = law.basis(log_n, problem.center, problem.grid[i]) * problem.root_w[:, None]
        coef, *_ = np.linalg.lstsq(x, problem.z * problem.root_w, rcond=None)
        left = problem.z * problem.root_w - x @ coef
        assert found.rss[i] == pytest.approx(left @ left, rel=1e-8, abs=1e-12 * unit)
        a = np.arange(1.0, x.shape[1] + 1)
        v, h = found.functional(np.broadcast_to(a, (len(problem.grid), len(a))))
        assert v[i] == pytest.approx(a @ coef, rel=1e-6)
        assert h[i] == pytest.approx(a @ np.linalg.pinv(x.T @ x, rcond=1e-18) @ a, rel=1e-5)


def test_a_small_g_is_the_loglinear_law() -> None:
    """The curve is continuous through g = 0: the log-linear law's curve, and its sum of squares, are within reach."""
    line = quiet(BUDGETS, OCRBENCH, form="loglinear")
    log_scores = 10 + 6 * np.log(BUDGETS)
    fit = fit_power_law(BUDGETS, log_scores, form="saturating")
    assert abs(fit.params["g"]) < 1e-9 and fit.params["b"] == pytest.approx(6) and fit.params["s1"] == pytest.approx(10)
    assert quiet(BUDGETS, OCRBENCH, form="saturating").rss < line.rss
    law = LAWS["saturating"]
    at = [law.basis(np.log(200.0), 0.0, g)[1] for g in (-1e-7, 0.0, 1e-7)]
    assert at[0] > at[1] > at[2] and at[0] - at[2] == pytest.approx(1e-7 * np.log(200) ** 2, rel=1e-3)


@pytest.mark.parametrize("low", [1, 100, 10_000])
def test_the_smallest_budget_does_not_matter(low: int) -> None:
    """A steep curve over budgets that do not begin at 1 keeps its digits."""
    n = low * np.array([1, 2, 3, 5, 8, 13, 21], float)
    score = 60 - 20 * (n / low) ** -2.5
    fit = fit_power_law(n, score, form="saturating")
    assert fit.params["g"] == pytest.approx(2.5, rel=1e-6) and fit.asymptote == pytest.approx(60, rel=1e-9)
    np.testing.assert_allclose(fit(n), score, rtol=1e-10)
