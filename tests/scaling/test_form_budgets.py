"""Budgets under every form: ends by their definition, whole numbers, and targets that no budget reaches.

The ends under the searched forms are tested with their other profile intervals.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import LAWS, Budget, ScalingFit

from .curves import BUDGETS, CURVES, OCRBENCH, options, quiet, truth

N = np.array(BUDGETS, float)
E = np.cos(2.3 * np.arange(10) ** 2)
LINES = [form for form, law in LAWS.items() if law.theta is None]


def asked(fit: ScalingFit, target: float, of: str = "full", level: float | None = None) -> Budget:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit.budget_for(target, of=of, level=level)


@pytest.mark.parametrize("form", LINES)
@pytest.mark.parametrize(("of", "level"), [("full", 0.95), ("full", 0.5), ("max", 0.95), ("score", 0.999)])
def test_the_ends_on_a_line(form: str, of: str, level: float) -> None:
    """`(v - a'b)^2 = t^2 a'Ca` at both ends, with C from the normal equations in the fitted space."""
    from scipy import stats

    law, score = LAWS[form], truth(form) * np.exp(0.03 * E)
    weights = np.ones(10) if law.counted else np.linspace(1, 3, 10)
    more = {} if law.counted else {"weights": weights}
    fit = quiet(N, score, **options(form), **more)
    target = 0.9 * float(fit(768)) if of == "score" else 0.9
    answer = asked(fit, target, of, level)
    x = np.stack([np.ones(10), np.log(N)], axis=1)
    if law.counted:
        u = fit.fitted / 100
        weights, b = 1000 * u * (1 - u), np.array([fit.params["a"], fit.params["b"]])
    else:
        z = law.link(score, 0.0, 100.0)
        b = np.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights * z))
    cov = fit.sigma**2 * np.linalg.inv(x.T @ (weights[:, None] * x))
    t = stats.t.ppf((1 + level) / 2, 8)
    wanted = {"full": 0.9 * fit(768), "max": 0.9 * np.max(score), "score": 0.9 * fit(768)}[of]
    assert answer.target_score == pytest.approx(wanted) and fit(answer.exact) == pytest.approx(wanted)
    assert answer.lo < answer.exact < answer.hi
    for end in (answer.lo, answer.hi):
        a, v = np.array([1, math.log(end)]), float(law.link(np.array(wanted), 0.0, 100.0))
        if of == "full" and law.logarithmic:
            a, v = a - np.array([1, math.log(768)]), math.log(0.9)
        elif of == "full" and not law.bounded:
            a, v = a - 0.9 * np.array([1, math.log(768)]), 0.0
        assert (v - a @ b) ** 2 == pytest.approx(t**2 * (a @ cov @ a), rel=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(list(LAWS)), st.integers(2, 3000), st.sampled_from(["full", "max", "score"]))
def test_noise_free_budgets_come_back_whole(form: str, n0: int, of: str) -> None:
    """A budget that is hit exactly is not rounded up by the last bits."""
    n = np.array([1, 4, 10, 30, 100, 300, 1000, 3001.0])
    fit = quiet(n, truth(form, n), **options(form))
    target = float(truth(form, n0))
    answer = asked(fit, target if of == "score" else target / float(truth(form, 3001)), of)
    assert answer.exact == pytest.approx(n0, rel=1e-6 if fit.law.theta else 1e-9)
    assert answer.n in (n0, n0 + 1) if fit.law.theta else answer.n == n0


def test_a_share_of_the_asymptote() -> None:
    fit = quiet(*CURVES["Overall@POPE"], form="saturating")
    answer = asked(fit, 0.97, "asymptote")
    assert answer.reachable and fit(answer.exact) == pytest.approx(0.97 * fit.asymptote)
    fixed = asked(fit, 0.97 * fit.asymptote, "score")
    assert (answer.lo, answer.exact, answer.hi) == (fixed.lo, fixed.exact, fixed.hi)
    unsure = quiet(*CURVES["Overall@SEEDBench_IMG"], form="saturating")
    none = asked(unsure, 0.9, "asymptote")
    assert none.reachable is False and none.n == none.observed and math.isnan(none.exact)
    for form in ("power", "loglinear", "regime", "broken"):
        assert asked(quiet(BUDGETS, OCRBENCH, form=form), 0.9, "asymptote").reachable is False


def test_a_target_above_the_asymptote() -> None:
    fit = quiet(*CURVES["Overall@POPE"], form="saturating")
    answer = asked(fit, float(fit.asymptote) + 0.5, "score")
    assert answer.reachable is False and answer.n is None and answer.observed is None and math.isnan(answer.hi)
    near = asked(fit, fit.ci["asymptote"][0] + 0.2, "score")  # beyond what some accepted curves ever reach
    assert near.reachable and near.hi == math.inf and near.lo < near.exact


@pytest.mark.parametrize("form", ["logit", "neglog", "binomial"])
def test_a_target_outside_the_bounds(form: str) -> None:
    fit = quiet(N, truth(form) * np.exp(0.01 * E), **options(form))
    for target in (100.0, 0.0, -5.0):
        assert asked(fit, target, "score").reachable is False
    above = asked(fit, 120.0, "score")
    assert above.reachable is False and above.observed is None
    assert above.warnings == (
        "out-of-range: the target score 120 is above ceil = 100: the law leaves the range of scores, and its share of "
        'the full score with it; form="logit" or "neglog" stays inside',
    )


def test_a_floor_moves_the_share_of_a_bounded_form() -> None:
    """A share is of the score itself; the floor belongs to the link."""
    fit = quiet(N, 25 + 0.75 * truth("logit"), form="logit", floor=25, ceil=100)
    assert fit.params == pytest.approx({"a": -2.0, "b": 0.3}, rel=1e-9)
    answer = asked(fit, 0.9)
    assert fit(answer.exact) == pytest.approx(0.9 * fit(768))
    assert asked(fit, 24.0, "score").reachable is False  # below the floor: no budget is that bad


@pytest.mark.parametrize("form", list(LAWS))
def test_a_higher_level_is_wider_and_a_lower_target_is_cheaper(form: str) -> None:
    fit = quiet(N, truth(form) * np.exp(0.01 * E), **options(form))
    answers = [asked(fit, 0.9, level=level) for level in (0.5, 0.9, 0.99)]
    assert answers[0].lo > answers[1].lo > answers[2].lo and answers[0].hi < answers[1].hi < answers[2].hi
    exact = [asked(fit, share).exact for share in (0.5, 0.8, 0.95, 0.999)]
    assert exact == sorted(exact) and exact[-1] < 768
    assert asked(fit, 1e-9).n == 1 or LAWS[form].logarithmic is False


@pytest.mark.parametrize("form", ["saturating", "regime", "broken", "power_additive"])
def test_where_the_exponent_is_not_shown_to_be_positive(form: str) -> None:
    fit = quiet(N, 40 * (1 + 0.03 * E), form=form)
    for of, target in (("full", 0.9), ("max", 0.9), ("score", 39.0)):
        answer = asked(fit, target, of)
        assert answer.reachable is False and all(map(math.isnan, (answer.exact, answer.lo, answer.hi)))
        assert answer.n == (None if answer.observed is None else math.ceil(answer.observed))


@pytest.mark.parametrize("form", list(LAWS))
def test_the_best_at_a_price(form: str) -> None:
    fit = quiet(N, truth(form), **options(form))
    best = fit.optimal_budget(lambda n: 0.01 * n, weight=2.0, n_max=900)
    n = np.arange(1, 901)
    assert best.n == n[np.argmax(truth(form, n) - 0.02 * n)] and best.score == pytest.approx(truth(form, best.n))
    assert fit.optimal_budget(float, max_cost=64.5).n == 64 and fit.optimal_budget(float, weight=0.0).n == 768
