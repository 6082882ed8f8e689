"""Budgets: the closed forms against the definition of the interval, and the answers where the law cannot say."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import ScalingFit

from .curves import BUDGETS, CURVES, OCRBENCH, quiet


def accepted(fit: ScalingFit, n0: float, *, share: float | None, score: float, level: float) -> bool:
    """True where the fit that is forced through the target at `n0` is not rejected: by a second least squares."""
    from scipy.special import stdtrit

    w = np.sqrt(fit.weights)
    x, z = np.stack([np.ones(len(fit.n)), np.log(fit.n)], axis=1), np.log(fit.score)
    # one linear constraint a'b = v leaves a line of coefficients b = b0 + s d
    if share is None:
        a, v = np.array([1, math.log(n0)]), math.log(score)
    else:
        a, v = np.array([0, math.log(n0 / fit.n.max())]), math.log(share)
    b0, d = a * v / (a @ a), np.array([-a[1], a[0]])
    left = w * (z - x @ b0)
    forced = left - w * (x @ d) * ((w * (x @ d)) @ left) / np.sum((w * (x @ d)) ** 2)
    threshold = fit.rss * (1 + stdtrit(fit.dof, (1 + level) / 2) ** 2 / fit.dof)
    return bool(forced @ forced <= threshold)


@pytest.mark.parametrize("metric", ["Overall@POPE", "Final Score@OCRBench", "Overall@ChartQA_TEST"])
@pytest.mark.parametrize("of", ["full", "max", "score"])
@pytest.mark.parametrize("level", [0.6, 0.95])
def test_the_ends_are_where_a_likelihood_ratio_test_turns(metric: str, of: str, level: float) -> None:
    n, score = CURVES[metric]
    fit = quiet(n, score, weights=np.linspace(1, 3, 10))
    target = 0.9 * max(score) if of == "score" else 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        answer = fit.budget_for(target, of=of, level=level)
    wanted = {"full": 0.9 * fit(768), "max": 0.9 * max(score), "score": 0.9 * max(score)}[of]
    assert answer.target_score == pytest.approx(wanted) and answer.target == target
    assert fit(answer.exact) == pytest.approx(wanted)
    assert answer.lo < answer.exact < answer.hi
    how: dict[str, Any] = {"share": 0.9 if of == "full" else None, "score": wanted, "level": level}
    inside, outside = 1 + 1e-6, 1 - 1e-6
    assert accepted(fit, answer.lo * inside, **how) and not accepted(fit, answer.lo * outside, **how)
    assert accepted(fit, answer.hi * outside, **how) and not accepted(fit, answer.hi * inside, **how)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.floats(0.05, 0.8), st.integers(1, 2000), st.sampled_from(["full", "max", "score"]))
def test_noise_free_budgets_come_back_whole(p: float, n0: int, of: str) -> None:
    """A budget that is hit exactly is not rounded up by the last bit."""
    n = [1, 10, 100, 2001]
    fit = quiet(n, [5 * x**p for x in n])
    target = 5 * n0**p if of == "score" else (n0 / 2001) ** p
    answer = fit.budget_for(target, of=of)
    assert answer.exact == pytest.approx(n0, rel=1e-9) and answer.n == n0


def test_the_observed_budget() -> None:
    n, score = [1, 8, 8, 64, 64, 512], [10, 28, 32, 30, 46, 44]  # means 10, 30, 38, 44
    fit = quiet(n, score)
    assert fit.budget_for(0.8, of="max").observed == 64  # .8 x 44 = 35.2
    assert fit.budget_for(0.6).observed == 8  # .6 x 44 = 26.4
    assert fit.budget_for(31, of="score").observed == 64
    nothing = fit.budget_for(45, of="score")  # one replicate has 46, no mean reaches 45
    assert nothing.observed is None and nothing.reachable and nothing.n is not None


def test_a_power_law_has_no_asymptote() -> None:
    fit = quiet(BUDGETS, OCRBENCH)
    answer = fit.budget_for(0.9, of="asymptote")
    assert answer.reachable is False and answer.n == answer.observed == 256 and math.isnan(answer.exact)


def test_never_less_than_one_token() -> None:
    answer = quiet(BUDGETS, OCRBENCH).budget_for(1e-6)
    assert answer.n == 1 and 0 <= answer.exact < 1
    assert quiet(BUDGETS, OCRBENCH).budget_for(1e-300, of="score").n == 1


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_far_beyond_any_number() -> None:
    n = [1, 8, 64, 512]
    fit = quiet(n, [10 * x**0.001 for x in n])
    answer = fit.budget_for(1e6, of="score")  # n = 10**5000
    assert answer.reachable is False and math.isnan(answer.exact)
    assert math.isinf(answer.target_score) is False and answer.observed is None and answer.n is None
    json.dumps(answer.to_dict(), allow_nan=False)


def test_a_budget_is_plain_json() -> None:
    answer = quiet(BUDGETS, OCRBENCH).budget_for(0.95).to_dict()
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["n"] == 670 and answer["of"] == "full" and answer["level"] == 0.95


def test_the_budget_of_a_linear_price() -> None:
    """Maximum of `c n**p - price n`: `n = (p c / price)**(1 / (1 - p))`."""
    c, p, price = 12.0, 0.237, 0.02
    fit = quiet(BUDGETS, c * np.array(BUDGETS) ** p)
    best = fit.optimal_budget(lambda n: 0.5 * n, weight=2 * price, n_max=4000)
    exact = (p * c / price) ** (1 / (1 - p))
    assert abs(best.n - exact) < 1 and not best.on_bound
    assert best.objective == pytest.approx(best.score - 2 * price * best.cost)
    ends = fit.optimal_budget(float, weight=0.0)
    assert ends.n == 768 and ends.on_bound
    assert fit.optimal_budget(float, weight=1e9).n == 1
    assert fit.optimal_budget(float, max_cost=100).n == 100
    falling = quiet(BUDGETS, 12 * np.array(BUDGETS) ** -0.2)
    assert falling.optimal_budget(float, max_cost=100).n == 1
