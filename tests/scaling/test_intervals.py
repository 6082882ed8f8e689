"""Intervals: against independent formulas, and by how often they hold the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tokscale.scaling import Budget, ScalingFit

from .curves import BUDGETS, OCRBENCH, quiet

TRUE_C, TRUE_P, NOISE = 12.0, 0.237, 0.15


def design(n: list[int]) -> np.ndarray:
    return np.stack([np.ones(len(n)), np.log(n)], axis=1)


def test_t_is_the_textbook_interval() -> None:
    from scipy import stats

    fit, x, z = quiet(BUDGETS, OCRBENCH), np.log(BUDGETS), np.log(OCRBENCH)
    line = stats.linregress(x, z)
    t = stats.t.ppf(0.975, 8)
    assert fit.ci["alpha"] == pytest.approx((-line.slope - t * line.stderr, -line.slope + t * line.stderr))
    half = t * line.intercept_stderr
    assert fit.ci["c"] == pytest.approx((np.exp(line.intercept - half), np.exp(line.intercept + half)))
    assert fit.se["c"] == pytest.approx(fit.c * line.intercept_stderr)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_and_new_observation(weighted: bool) -> None:
    from scipy import stats

    weights = np.linspace(1, 4, 10) if weighted else np.ones(10)
    fit = quiet(BUDGETS, OCRBENCH, weights=weights)
    x, z = design(BUDGETS), np.log(OCRBENCH)
    inverse = np.linalg.inv(x.T @ (weights[:, None] * x))
    b = inverse @ (x.T @ (weights * z))
    sigma2 = np.sum(weights * (z - x @ b) ** 2) / 8
    a = np.array([1, np.log(100)])
    for kind, extra in (("mean", 0.0), ("new", np.mean(1 / weights))):
        half = stats.t.ppf(0.95, 8) * np.sqrt(sigma2 * (a @ inverse @ a + extra))
        wanted = np.exp([a @ b - half, a @ b + half])
        assert fit.interval(100, kind=kind, level=0.9) == pytest.approx(tuple(wanted), rel=1e-9)


def test_hc3_is_its_formula() -> None:
    from scipy import stats

    fit, x, z = quiet(BUDGETS, OCRBENCH, ci="hc3"), design(BUDGETS), np.log(OCRBENCH)
    inverse = np.linalg.inv(x.T @ x)
    e, h = z - x @ (inverse @ x.T @ z), np.diag(x @ inverse @ x.T)
    cov = inverse @ (x.T @ np.diag((e / (1 - h)) ** 2) @ x) @ inverse
    half = stats.t.ppf(0.975, 8) * math.sqrt(cov[1, 1])
    assert fit.ci["alpha"] == pytest.approx((fit.alpha - half, fit.alpha + half), rel=1e-9)
    assert fit.ci_method == "hc3" and fit.se == quiet(BUDGETS, OCRBENCH).se


def test_studentised_residuals_are_those_of_the_fit_without_the_point() -> None:
    fit, x, z = quiet(BUDGETS, OCRBENCH), design(BUDGETS), np.log(OCRBENCH)
    for i in range(10):
        keep = np.arange(10) != i
        b, rss, *_ = np.linalg.lstsq(x[keep], z[keep], rcond=None)
        inverse = np.linalg.inv(x[keep].T @ x[keep])
        unit = math.sqrt(rss[0] / 7 * (1 + x[i] @ inverse @ x[i]))
        assert fit.studentized[i] == pytest.approx((z[i] - x[i] @ b) / unit, rel=1e-9)


def test_the_likelihood_is_that_of_a_log_normal() -> None:
    from scipy import stats

    fit = quiet(BUDGETS, OCRBENCH)
    s = math.sqrt(fit.rss / 10)
    loglik = stats.lognorm.logpdf(OCRBENCH, s, scale=fit(BUDGETS)).sum()
    assert fit.loglik == pytest.approx(loglik, rel=1e-12)
    assert fit.aicc == pytest.approx(-2 * loglik + 6 + 24 / 6) and fit.bic == pytest.approx(
        -2 * loglik + 3 * np.log(10)
    )


@pytest.mark.parametrize("ci", ["bootstrap", "bootstrap_t"])
def test_a_bootstrap_is_its_resamples(ci: str) -> None:
    """The one matrix product against a loop of refits over the same draws."""
    fit = quiet(BUDGETS, OCRBENCH, ci=ci, n_boot=200, seed=3)
    base, x, z = quiet(BUDGETS, OCRBENCH), design(BUDGETS), np.log(OCRBENCH)
    line = np.log(base.fitted)
    found = []
    for picks in np.random.default_rng(3).integers(0, 10, size=(200, 10)):
        star = line + (z - line)[picks]
        b, rss, *_ = np.linalg.lstsq(x, star, rcond=None)
        unit = math.sqrt(rss[0] / 8) / base.sigma * base.se["alpha"] if ci == "bootstrap_t" else 1.0
        found.append((b[1] - base.exponent) / unit)
    lo, hi = np.quantile(found, [0.025, 0.975])
    if ci == "bootstrap":
        wanted = (base.exponent + lo, base.exponent + hi)
    else:
        wanted = (base.exponent - hi * base.se["alpha"], base.exponent - lo * base.se["alpha"])
    assert fit.exponent_ci == pytest.approx(wanted, rel=1e-9)
    assert fit.ci_method == ci
    assert fit.ci == quiet(BUDGETS, OCRBENCH, ci=ci, n_boot=200, seed=3).ci
    assert fit.ci != quiet(BUDGETS, OCRBENCH, ci=ci, n_boot=200, seed=4).ci


def test_ci_decides_the_field_alone() -> None:
    fits = [quiet(BUDGETS, OCRBENCH, ci=ci) for ci in ("t", "profile", "auto", "hc3", "bootstrap", "bootstrap_t", None)]
    assert len({fit.interval(100) for fit in fits}) == 1 and len({fit.budget_for(0.9).hi for fit in fits}) == 1
    assert fits[0].ci == fits[1].ci == fits[2].ci and [f.ci_method for f in fits[:3]] == ["t"] * 3
    assert all(math.isnan(end) for pair in fits[-1].ci.values() for end in pair) and fits[-1].ci_method is None
    assert fits[-1].identified == {"c": True, "alpha": True}


@pytest.mark.parametrize("ci", ["t", "hc3", "bootstrap", "bootstrap_t"])
def test_three_points_are_the_fewest_with_an_interval(ci: str) -> None:
    fit = quiet([1, 8, 64], [10, 14, 22], ci=ci)
    assert fit.ci["alpha"][0] <= fit.alpha <= fit.ci["alpha"][1]


@pytest.fixture(scope="module")
def simulated() -> list[ScalingFit]:
    """Fits to data sets `12 n**.237` with log-normal noise of .15 at the paper's budgets."""
    rng = np.random.default_rng(20241225)
    truth = TRUE_C * np.array(BUDGETS) ** TRUE_P
    return [quiet(BUDGETS, truth * np.exp(NOISE * rng.normal(size=10))) for _ in range(4000)]


def covers(pair: tuple[float, float], truth: float) -> bool:
    return pair[0] <= truth <= pair[1]


def ends(budget: Budget) -> tuple[float, float]:
    return budget.lo, budget.hi


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ("alpha", lambda fit: covers(fit.ci["alpha"], -TRUE_P)),
        ("c", lambda fit: covers(fit.ci["c"], TRUE_C)),
        ("mean", lambda fit: covers(fit.interval(1536), TRUE_C * 1536**TRUE_P)),
        ("budget", lambda fit: covers(ends(fit.budget_for(0.9)), 768 * 0.9 ** (1 / TRUE_P))),
    ],
)
def test_coverage(simulated: list[ScalingFit], what: str, holds: Callable[[ScalingFit], bool]) -> None:
    """Three Monte-Carlo standard errors of a share of .95 among 4000 are .0103."""
    share = np.mean([holds(fit) for fit in simulated])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / len(simulated))


def test_coverage_of_a_new_score_and_of_a_fixed_target(simulated: list[ScalingFit]) -> None:
    rng = np.random.default_rng(7)
    new = TRUE_C * 1536**TRUE_P * np.exp(NOISE * rng.normal(size=len(simulated)))
    bound = 3 * math.sqrt(0.95 * 0.05 / len(simulated))
    share = np.mean([covers(fit.interval(1536, kind="new"), s) for fit, s in zip(simulated, new)])
    assert abs(share - 0.95) < bound
    n_true = 100.0
    target = TRUE_C * n_true**TRUE_P
    answers = [fit.budget_for(target, of="score") for fit in simulated]
    assert abs(np.mean([covers(ends(b), n_true) for b in answers]) - 0.95) < bound
