"""The quasi-binomial law against a general minimiser, and on counts of none and all."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling import LAWS, ScalingFit, fit_power_law
from tokscale.scaling.curve import Curve
from tokscale.scaling.points import read_points

from .curves import BUDGETS, CURVES, quiet, same

NONE_AND_ALL = [0.0, 0.0, 3.0, 5.0, 20.0, 44.0, 71.0, 95.0, 100.0, 100.0]


def minus_log_likelihood(b: np.ndarray, n: np.ndarray, u: np.ndarray, items: np.ndarray) -> float:
    eta = b[0] + b[1] * np.log(n)
    return float(np.sum(items * (np.logaddexp(0, eta) - u * eta)))


def information(b: np.ndarray, n: np.ndarray, items: np.ndarray) -> np.ndarray:
    x = np.stack([np.ones(len(n)), np.log(n)], axis=1)
    p = 1 / (1 + np.exp(-x @ b))
    return x.T @ ((items * p * (1 - p))[:, None] * x)


@pytest.mark.parametrize("metric", ["Overall@MMStar", "Overall@POPE", "none and all"])
@pytest.mark.parametrize("equal", [True, False])
def test_the_quasi_likelihood(metric: str, equal: bool) -> None:
    from scipy import optimize, stats

    n = np.array(BUDGETS, float)
    score = NONE_AND_ALL if metric == "none and all" else CURVES[metric][1]
    u, items = np.array(score) / 100, np.full(10, 500.0) if equal else np.linspace(100, 1000, 10)
    fit = quiet(n, score, form="binomial", n_items=500 if equal else items)
    given_ = (n, u, items)
    found = optimize.minimize(minus_log_likelihood, np.zeros(2), args=given_, method="Nelder-Mead", tol=1e-12)
    b = np.array(list(fit.params.values()))
    assert b == pytest.approx(found.x, abs=1e-5)
    assert minus_log_likelihood(b, *given_) <= found.fun * (1 + 1e-12)
    p = 1 / (1 + np.exp(-b[0] - b[1] * np.log(n)))
    chi2 = np.sum(items * (u - p) ** 2 / (p * (1 - p))) / 8
    assert fit.chi2_dof == pytest.approx(chi2) and fit.sigma**2 == pytest.approx(max(1.0, chi2))
    assert fit.birge == pytest.approx(max(1.0, math.sqrt(chi2)))
    cov = max(1.0, chi2) * np.linalg.inv(information(b, n, items))
    assert list(fit.se.values()) == pytest.approx(list(np.sqrt(np.diag(cov))), rel=1e-6)
    t = stats.t.ppf(0.975, 8)
    for name, value, se in zip("ab", b, np.sqrt(np.diag(cov))):
        assert fit.ci[name] == pytest.approx((value - t * se, value + t * se), rel=1e-6)
    a = np.array([1, np.log(100)])
    ends = a @ b + t * math.sqrt(a @ cov @ a) * np.array([-1, 1])
    assert fit.interval(100) == pytest.approx(tuple(100 / (1 + np.exp(-ends))), rel=1e-6)
    assert fit.fitted == pytest.approx(100 * p, rel=1e-6) and fit.leverage.sum() == pytest.approx(2)


def test_leave_one_out_is_by_refits() -> None:
    n, score = CURVES["Overall@MMStar"]
    items = np.linspace(500, 1500, 10)
    fit = quiet(n, score, form="binomial", n_items=items)
    errors = []
    for i in range(10):
        keep = np.arange(10) != i
        part = quiet(np.array(n)[keep], np.array(score)[keep], form="binomial", n_items=items[keep])
        errors.append(score[i] - part(n[i]))
    assert fit.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-8)


def test_few_budgets() -> None:
    fit = quiet([1, 8, 64], [20.0, 31.0, 42.0], form="binomial", n_items=200)
    assert fit.dof == 1 and all(math.isfinite(end) for end in fit.ci["b"])
    with pytest.raises(FitError) as caught:
        quiet([1, 8], [20.0, 31.0], form="binomial", n_items=200)
    assert str(caught.value) == 'form="binomial" has 2 parameters and needs at least 3 distinct budgets, got 2'


@pytest.mark.parametrize(("floor", "ceil"), [(0, 1), (0, 100), (25, 100), (-1, 3)])
def test_the_bounds_are_a_unit(floor: float, ceil: float) -> None:
    u = np.array(NONE_AND_ALL) / 100
    one = quiet(BUDGETS, 100 * u, form="binomial", n_items=80)
    other = quiet(BUDGETS, floor + (ceil - floor) * u, form="binomial", n_items=80, floor=floor, ceil=ceil)
    assert other.params == pytest.approx(one.params, rel=1e-9) and other.chi2_dof == pytest.approx(one.chi2_dof)
    assert other(30) == pytest.approx(floor + (ceil - floor) * one(30) / 100)
    assert other.asymptote == ceil and one.asymptote == 100


def test_counts_that_are_not_whole_are_used_as_they_are() -> None:
    whole = quiet(BUDGETS, np.round(np.array(NONE_AND_ALL)), form="binomial", n_items=100)
    near = quiet(BUDGETS, np.array(NONE_AND_ALL) * (1 - 1e-4), form="binomial", n_items=100)
    assert near.params == pytest.approx(whole.params, rel=2e-3) and near.params != whole.params


@pytest.mark.parametrize(
    "score", [[0, 0, 0, 0, 0, 100, 100, 100, 100, 100], [0, 0, 0, 0, 0, 50, 100, 100, 100, 100], [100] * 4 + [0] * 6]
)
def test_counts_that_no_curve_fits_best(score: list[float]) -> None:
    with pytest.raises(FitError) as caught:
        quiet(BUDGETS, score, form="binomial", n_items=100)
    assert str(caught.value) == (
        'form="binomial" has no best fit for these counts: some budgets have every item right and the others none; add '
        "budgets between them"
    )


@pytest.mark.parametrize("score", [0.0, 100.0, 37.5])
def test_equal_shares_have_no_slope(score: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ScalingFitWarning)
        fit = fit_power_law(BUDGETS, [score] * 10, form="binomial", n_items=50)
        text = fit.summary()
    assert fit.params["b"] == 0 and fit.ci["b"] == (0, 0) and "the law cannot say" in text
    assert np.all(fit.residuals == 0) and fit.rss == 0 and math.isnan(fit.r2)
    assert any(note.startswith("flat: the 95% interval of the exponent, (0, 0)") for note in fit.warnings)


def test_what_a_model_of_counts_does_not_have() -> None:
    fit = quiet(BUDGETS, CURVES["Overall@MMStar"][1], form="binomial", n_items=1500)
    assert math.isnan(fit.loglik) and math.isnan(fit.aicc) and math.isnan(fit.bic)
    with pytest.raises(FitError) as caught:
        fit.interval(100, kind="new")
    assert str(caught.value) == ('form="binomial" has no interval for a new score; kind="mean" is that of the curve')


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_more_items_say_more() -> None:
    """Without overdispersion the standard error falls with the root of the number of items, and phi stays 1."""
    u = 1 / (1 + np.exp(1 - 0.2 * np.log(BUDGETS)))
    few, many = (fit_power_law(BUDGETS, 100 * u, form="binomial", n_items=m) for m in (100, 10_000))
    assert few.sigma == many.sigma == 1 and few.se["b"] == pytest.approx(10 * many.se["b"])
    assert same(few.params["b"], "0.2") and few.ci["b"][0] > 0


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=10), st.integers(0, 2**32 - 1))
def test_any_counts(right: list[int], seed: int) -> None:
    """A fit, or the message that there is none; the score equations hold, in any order of the points."""
    n = np.array(BUDGETS[: len(right)], float)
    score = np.array(right) / 0.3
    try:
        fit = quiet(n, score, form="binomial", n_items=30)
    except FitError as error:
        assert "no best fit" in str(error)
        return
    order = np.random.default_rng(seed).permutation(len(n))
    assert quiet(n[order], score[order], form="binomial", n_items=30).coef == fit.coef
    if len(set(right)) > 1:
        left = (score - fit.fitted) * 0.3
        assert abs(left.sum()) < 1e-6 and abs(left @ np.log(n)) < 1e-6
    points = read_points(LAWS["binomial"], n, score, n_items=30)
    assert Curve.of(LAWS["binomial"], points).solution.dof == len(n) - 2
    assert isinstance(fit, ScalingFit) and fit.interval(50)[0] <= fit(50) * (1 + 1e-12)


def test_counts_that_have_no_fit_without_one_of_them() -> None:
    """Left out, a point of four may leave counts that are all right or all wrong; the fit itself stands."""
    n, score = [1, 8, 64, 512], [0.0, 20.0, 60.0, 100.0]
    fit = quiet(n, score, form="binomial", n_items=50, floor=0, ceil=100)
    assert fit.params["a"] == pytest.approx(-4.379, abs=1e-3) and fit.params["b"] == pytest.approx(1.236, abs=1e-3)
    assert np.isnan(fit.loo_rmse) and np.isfinite(fit.interval(64)).all()
    with pytest.raises(FitError, match="has no best fit for these counts"):
        quiet(n, [0.0, 0.0, 100.0, 100.0], form="binomial", n_items=50, floor=0, ceil=100)
