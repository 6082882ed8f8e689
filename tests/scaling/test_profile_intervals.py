"""Profile intervals are what their definition says: an end is where the fit forced to that value just passes the test.

The forced fit is found by a general solver over all parameters of the formula, from many starts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import ScalingFit

from .curves import BUDGETS, CURVES, OCRBENCH, quiet
from .reference import SEARCHED, Named, curve, least_rss, noisy, threshold

searched = pytest.mark.parametrize("form", SEARCHED)
WEIGHTS = np.linspace(1, 3, len(BUDGETS))


def the_test_turns(fit: ScalingFit, ends: Any, forced: Callable[[Named, float], float], level: float) -> None:
    """Check both ends: accepted a thousandth of the width inside, refused a thousandth outside."""
    limit, width = threshold(fit, level), ends[1] - ends[0]
    assert math.isfinite(width) and width > 0
    for end, outward in zip(ends, (-1, 1)):
        for shift, accepted in ((-1e-3, True), (1e-3, False)):
            value = end + outward * shift * width
            rss = least_rss(fit, lambda named, value=value: forced(named, value))
            assert bool(rss <= limit) == accepted, (end, rss, limit)


@searched
@pytest.mark.parametrize(("level", "weighted"), [(0.95, False), (0.5, True)])
def test_named_parameters(form: str, level: float, weighted: bool) -> None:
    fit = quiet(*noisy(form), form=form, level=level, weights=WEIGHTS if weighted else None)
    for name in fit.params:
        unit = fit.ci[name][1] - fit.ci[name][0]
        the_test_turns(fit, fit.ci[name], lambda p, v, name=name, unit=unit: (p[name] - v) / unit, level)


@searched
@pytest.mark.parametrize("n", [4.0, 3000.0])
def test_the_curve(form: str, n: float) -> None:
    fit = quiet(*noisy(form), form=form, weights=WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        ends = np.array(fit.interval(n, level=0.9))
    ends = np.log(ends) if fit.law.logarithmic else ends
    the_test_turns(fit, ends, lambda p, v: float(curve(form, n, p) - v) / (ends[1] - ends[0]), 0.9)


def test_the_asymptote() -> None:
    fit = quiet(*CURVES["Overall@POPE"], form="saturating")
    the_test_turns(fit, fit.ci["asymptote"], lambda p, v: p["s1"] + p["b"] / p["g"] - v, 0.95)


@searched
@pytest.mark.parametrize("of", ["full", "max", "score"])
@pytest.mark.parametrize("level", [0.6, 0.95])
def test_budgets(form: str, of: str, level: float) -> None:
    n, score = noisy(form)
    fit = quiet(n, score, form=form, weights=WEIGHTS)
    target = float(0.85 * np.max(score)) if of == "score" else 0.85
    answer = fit.budget_for(target, of=of, level=level)
    assert fit(answer.exact) == pytest.approx(answer.target_score, rel=1e-9)

    def forced(p: Named, log_n: float) -> float:
        at = float(curve(form, math.exp(log_n), p))
        if of != "full":
            return at - float(np.log(answer.target_score) if fit.law.logarithmic else answer.target_score)
        full = float(curve(form, 768.0, p))
        return at - full - math.log(0.85) if fit.law.logarithmic else at - 0.85 * full

    the_test_turns(fit, np.log([answer.lo, answer.hi]), forced, level)


@searched
def test_a_new_score_adds_its_own_variance(form: str) -> None:
    """The set of v with `min over parameters of R + (v - S(n))^2 / e <= T`, e the mean of 1 / w."""
    fit = quiet(*noisy(form), form=form, weights=WEIGHTS)
    ends = np.array(fit.interval(100, kind="new"))
    ends = np.log(ends) if fit.law.logarithmic else ends
    extra, limit = float(np.mean(1 / WEIGHTS)), threshold(fit, 0.95)
    width = ends[1] - ends[0]
    # a new score of weight 1 / e among the data: the sum of squares with it is what the solver makes least
    for end, outward in zip(ends, (-1, 1)):
        for shift, accepted in ((-1e-3, True), (1e-3, False)):
            value = end + outward * shift * width
            more = SimpleNamespace(
                form=form,
                law=fit.law,
                optimum=fit.optimum,
                se=fit.se,
                n=np.append(fit.n, 100.0),
                score=np.append(fit.score, math.exp(value) if fit.law.logarithmic else value),
                weights=np.append(fit.weights, 1 / extra),
            )
            assert bool(least_rss(more) <= limit) == accepted


@searched
def test_arrays_are_the_same_as_one_at_a_time(form: str) -> None:
    fit = quiet(*noisy(form), form=form)
    n = np.geomspace(1, 1500, 200).reshape(8, 25)
    for kind in ("mean", "new"):
        lo, hi = fit.interval(n, kind=kind)
        assert lo.shape == hi.shape == (8, 25) and np.all(lo < hi)
        assert np.all(lo <= fit(n)) and np.all(fit(n) <= hi)
        for i in (0, 57, 199):
            one = fit.interval(float(n.flat[i]), kind=kind)
            assert isinstance(one[0], float) and one == (lo.flat[i], hi.flat[i])


@searched
def test_a_higher_level_is_wider(form: str) -> None:
    fits = [quiet(*noisy(form), form=form, level=level) for level in (0.5, 0.9, 0.999)]
    for name in fits[0].ci:
        lows, highs = zip(*(fit.ci[name] for fit in fits))
        assert sorted(lows, reverse=True) == list(lows) and sorted(highs) == list(highs), name
    for kind in ("mean", "new"):
        assert fits[0].interval(20, kind=kind, level=0.999) == fits[2].interval(20, kind=kind)


def test_ends_at_a_bound_of_the_search_are_no_ends() -> None:
    """Where the accepted thetas reach the end of the range the interval has none."""
    flat = quiet(*CURVES["Overall@RealWorldQA"], form="saturating")
    assert flat.ci["g"] == (-math.inf, math.inf) and flat.ci["asymptote"] == (-math.inf, math.inf)
    steps = quiet([1, 2, 4, 8, 16], [1.0, 5.0, 5.02, 4.99, 5.0], form="saturating")
    assert steps.ci["g"][1] == math.inf and steps.ci["g"][0] > 0
    assert math.isfinite(steps.ci["asymptote"][0]) and math.isfinite(steps.ci["asymptote"][1])
    regime = quiet(BUDGETS, OCRBENCH, form="regime")
    assert regime.ci["n_balance"] == (0.0, math.inf)


def test_an_interval_of_g_near_zero_gives_a_far_asymptote() -> None:
    """The upper end follows the lower end of g between 0 and the first place of the grid."""
    n = np.array(BUDGETS, float)
    score = 10 + 5 * np.log(n) - 0.004 * np.log(n) ** 2 + 1e-4 * np.array([1, -1] * 5)
    fit = quiet(n, score, form="saturating")
    assert 0 < fit.ci["g"][0] < fit.params["g"]
    far = quiet(n, 10 + 5 * (1 - n**-4e-4) / 4e-4 + 1e-4 * np.array([1, -1] * 5), form="saturating")
    assert 0 < far.ci["g"][0] < 4e-4 < far.ci["g"][1] < 1e-3
    lo, hi = far.ci["asymptote"]
    assert lo < 10 + 5 / 4e-4 < hi and hi > 10 + 4.9 / far.ci["g"][0] and far.identified["asymptote"]
