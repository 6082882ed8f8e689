"""Noise-free, constant, nearly constant, huge, tiny, falling, crowded data under every form: answers, and no warning.

The suite turns every warning but those of `quiet` into an error.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling import LAWS, ScalingFit

from .curves import BUDGETS, options, quiet, truth

N = np.array(BUDGETS, float)
E = np.cos(2.3 * np.arange(10) ** 2)  # something like noise
every = pytest.mark.parametrize("form", list(LAWS))
unbounded = pytest.mark.parametrize("form", [form for form, law in LAWS.items() if not law.bounded])
additive = pytest.mark.parametrize("form", ["power_additive", "loglinear", "saturating"])


def ask_everything(fit: ScalingFit) -> None:
    """Ask all that a fit answers, and check what must hold of any."""
    json.dumps(fit.to_dict(), allow_nan=False)
    assert fit.summary() and repr(fit)
    n = np.array([0.5, 1.0, 20.0, 1000.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        for of, target in (("full", 0.9), ("asymptote", 0.9), ("score", float(np.mean(fit.score)))):
            try:
                answer = fit.budget_for(target, of=of)
            except FitError as error:
                assert "takes scores above 0 only" in str(error)
                continue
            if answer.reachable:
                slack = 1e-6 * answer.exact
                assert answer.lo <= answer.exact + slack and answer.exact <= answer.hi + slack
                assert answer.n is not None and answer.n >= max(1.0, math.floor(answer.exact))
            else:
                assert math.isnan(answer.exact) and math.isnan(answer.lo) and math.isnan(answer.hi)
        for kind in ("mean",) if fit.law.counted else ("mean", "new"):
            for level in (0.5, 0.999):
                lo, hi = fit.interval(n, kind=kind, level=level)
                if len(np.unique(fit.n)) >= fit.law.min_interval:
                    assert np.all(lo <= fit(n) * (1 + 1e-9) + 1e-9) and np.all(fit(n) * (1 - 1e-9) - 1e-9 <= hi)
    for question in (fit.alpha_at, fit.slope_at, fit.marginal):
        assert np.shape(question(n)) == n.shape
    for name, (lo, hi) in fit.ci.items():
        value = fit.optimum.get(name, fit.asymptote)
        slack = 1e-9 * (1 + abs(value)) if math.isfinite(value) else 0.0
        assert math.isnan(lo) or (lo <= value + slack and value - slack <= hi), name


KINDS: dict[str, Any] = {
    "noise-free": lambda t: (N, t),
    "noisy": lambda t: (N, np.clip(t * np.exp(0.3 * E), 0.1, 99)),
    "falling": lambda t: (N, t[::-1]),
    "falling, noisy": lambda t: (N, t[::-1] * np.exp(0.02 * E)),
    "almost constant": lambda t: (N, 33.3 * (1 + 1e-9 * E)),
    "constant but for the last bits": lambda t: (N, 33.3 * (1 + 2.3e-16 * np.round(2 * E))),
    "one bit": lambda t: (N, np.append(np.full(9, 33.3), np.nextafter(33.3, 34))),
    "step": lambda t: (N, np.repeat([10.0, 50.0], 5)),
    "spike": lambda t: (N, np.where(N == 64, 50.0, 10.0)),
    "not from 1": lambda t: (100 * N, t * np.exp(0.02 * E)),
    "below 1": lambda t: (N / 1000, t * np.exp(0.02 * E)),
    "crowded": lambda t: (np.linspace(100, 101, 10), 30 * np.exp(0.05 * E)),
    "far apart": lambda t: (np.geomspace(1, 1e9, 10), np.clip(t * np.exp(0.05 * E), 0.1, 99)),
    "two replicates": lambda t: (np.sort(np.append(N[:-1], 8.0)), t * np.exp(0.02 * E)),
}


@every
@pytest.mark.parametrize("kind", list(KINDS))
def test_any_data(form: str, kind: str) -> None:
    n, score = KINDS[kind](truth(form))
    fit = quiet(n, score, **options(form))
    ask_everything(fit)
    if not fit.law.counted:
        for more in ({"weights": np.linspace(0.1, 9, 10)}, {"se": np.linspace(0.1, 0.5, 10), "level": 0.5}):
            json.dumps(quiet(n, score, **options(form), **more).to_dict(), allow_nan=False)
        drawn = quiet(n, score, **options(form), ci="bootstrap", n_boot=50, level=0.9)
        json.dumps(drawn.to_dict(), allow_nan=False)
    assert math.isfinite(fit.rss) and all(math.isfinite(v) for v in fit.optimum.values() if kind != "crowded")


@every
def test_a_constant_score(form: str) -> None:
    law = LAWS[form]
    fit = quiet(N, np.full(10, 37.5), **options(form))
    ask_everything(fit)
    name, sign = law.exponent_is or ("beta" if form == "regime" else "p1", 1)
    assert fit.optimum[name] == 0 and math.copysign(1, fit.optimum[name]) == 1
    assert fit.ci[name] == (0, 0) and sign in (-1, 1)
    assert math.isnan(fit.r2) and fit.rss == 0 and np.all(fit.residuals == 0) and np.all(fit.fitted == 37.5)
    text = (
        "flat: the 95% interval of the exponent, (0, 0), contains 0: these data do not show that the score depends on "
        "the budget"
    )
    assert text in fit.warnings and fit.outliers == () and fit.at_bound == ()
    with pytest.warns(ScalingFitWarning, match="^flat: "):
        answer = fit.budget_for(0.95)
    assert answer.reachable is False and answer.observed == 1 and answer.n == 1
    assert fit([1, 50, 5000]) == pytest.approx(37.5, rel=1e-12) and fit.loo_rmse < 1e-12
    assert fit.interval(100) == pytest.approx((37.5, 37.5), rel=1e-12)
    if not law.counted:
        assert fit.aicc == -math.inf and fit.interval(100, kind="new") == pytest.approx((37.5, 37.5), rel=1e-12)
    if law.theta is not None and law.theta.free:  # equal scores say nothing of a bend
        assert not fit.identified[law.theta.name]
        assert fit.ci[law.theta.name] == tuple(law.theta.value(end) for end in law.theta.beyond)


@unbounded
@pytest.mark.parametrize("scale", [1e-120, 1e-9, 1e9, 1e120])
def test_scores_of_any_size(form: str, scale: float) -> None:
    plain, fit = quiet(N, truth(form) * np.exp(0.01 * E), form=form), None
    fit = quiet(N, scale * truth(form) * np.exp(0.01 * E), form=form)
    with np.errstate(over="ignore"):
        ask_everything(fit)
    for name in {"alpha", "g", "beta", "n_balance", "p1", "p2", "d"} & set(fit.optimum):
        assert fit.optimum[name] == pytest.approx(plain.optimum[name], rel=1e-6)
    assert fit.budget_for(0.9).hi == pytest.approx(plain.budget_for(0.9).hi, rel=1e-6)


@additive
@pytest.mark.parametrize(("scale", "size"), [(1e200, "large"), (1e-200, "small")])
def test_scores_whose_squares_are_no_numbers(form: str, scale: float, size: str) -> None:
    score = scale * np.arange(1.0, 11)
    with pytest.raises(FitError) as caught:
        quiet(N, score, form=form)
    assert str(caught.value) == (
        f'form="{form}" squares the scores, and the largest, {score[-1]:g}, is too {size} for that; give them in '
        "another unit"
    )
    nothing = quiet(N, np.zeros(10), form=form)  # a score of 0 is a constant like any
    assert nothing(8) == 0 and nothing.mape == 0 and nothing.skill_vs_baseline().mape == 0
    some = quiet(N, np.append(np.zeros(5), np.arange(5.0)), form=form)
    assert some.mape == math.inf and some.mae < 5 and math.isfinite(some.skill_vs_baseline(384).mape)


@additive
@pytest.mark.parametrize("shift", [-5.0, -37.0, -100.0])
def test_scores_below_zero(form: str, shift: float) -> None:
    """Scores of either sign have a curve; what needs a logarithm is NaN there."""
    fit = quiet(N, 10 + 6 * np.log(N) + shift + 0.1 * E, form=form)
    ask_everything(fit)
    if form == "loglinear":
        assert fit.params["b"] == pytest.approx(6, abs=0.1)
        assert math.isnan(fit.alpha_at(8)) == (fit(8) < 0 or fit(1) < 0)
        answer = fit.budget_for(float(fit(100)), of="score")
        assert answer.exact == pytest.approx(100) and answer.lo < 100 < answer.hi
    assert math.isnan(fit.r2_log) and fit.mape > 0


def test_a_share_of_a_negative_score_is_less_than_it() -> None:
    """.9 x -20 lies above the largest score of the curve: the budget for it is beyond the data."""
    fit = quiet(N, -60 + 6 * np.log(N) + 0.1 * E, form="loglinear")
    answer = fit.budget_for(0.9)
    assert answer.exact > 768 and answer.extrapolated and fit(answer.exact) == pytest.approx(0.9 * fit(768))


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_shares_that_reach_one_hundred() -> None:
    """ceil = 1: shares of 1 and 0 are for counts; logit and neglog say so."""
    u = np.array([0.0, 0.05, 0.1, 0.3, 0.6, 0.8, 0.9, 0.95, 1.0, 1.0])
    fit = quiet(N, u, form="binomial", n_items=200, floor=0, ceil=1)
    ask_everything(fit)
    assert 0 < fit(1) < fit(768) < 1 and fit.asymptote == 1
    for form in ("logit", "neglog"):
        with pytest.raises(FitError) as caught:
            quiet(N, u, form=form, floor=0, ceil=1)
        assert str(caught.value) == (
            f'form="{form}" needs floor < score < ceil = (0, 1), but score is 0.0 at index [0]; use form="binomial" '
            "with n_items="
        )
        inside = quiet(N, np.clip(u, 0.01, 0.99), form=form, floor=0, ceil=1)
        ask_everything(inside)
        assert inside.asymptote == 1 and 0 < inside(0.1) < inside(1e6) <= 1
