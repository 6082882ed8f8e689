"""Every warning and note under every form it concerns, word for word, and what goes with it in the fields."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import LAWS, ScalingFit, fit_power_law

from .curves import BUDGETS, CURVES, OCRBENCH, options, quiet, truth

N = np.array(BUDGETS, float)
every = pytest.mark.parametrize("form", list(LAWS))
E = np.cos(2.3 * np.arange(10) ** 2)
STATED = {form: law.exponent_is[0] for form, law in LAWS.items() if law.exponent_is is not None}


def issued(ask: Any) -> list[str]:
    """Return the texts of the warnings that `ask()` issues; each points at this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask()
    assert all(w.category is ScalingFitWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


@every
def test_flat(form: str) -> None:
    score = 30 * (1 + 0.05 * E)
    texts = issued(lambda: fit_power_law(N, score, **options(form)))
    fit = quiet(N, score, **options(form))
    if form in STATED:
        lo, hi = fit.ci[STATED[form]]
        sign = LAWS[form].exponent_is[1]  # type: ignore[index]
        lo, hi = sorted((sign * lo, sign * hi))
    else:  # the rise of ln S over the budgets
        lo, hi = fit._curve.growth_interval(0.95)
        assert lo < math.log(fit(768) / fit(1)) < hi
    text = (
        f"flat: the 95% interval of the exponent, ({lo:.4g}, {hi:.4g}), contains 0: these data do not show that the "
        "score depends on the budget"
    )
    assert text in texts and text in fit.warnings
    answers: list[Any] = []
    assert issued(lambda: answers.append(fit.budget_for(0.95))) == [text]
    answer = answers[0]
    assert answer.warnings == (text,) and answer.reachable is False and answer.n == answer.observed == 1
    assert not any(note.startswith("flat") for note in quiet(N, score, **options(form), ci=None).warnings)


@every
def test_a_fall_is_not_flat_but_no_budget_reaches_more(form: str) -> None:
    fit = quiet(N, truth(form)[::-1] * (1 + 0.001 * E), **options(form))
    assert fit._curve.growth_interval(0.95)[1] < 0 and not any(note.startswith("flat") for note in fit.warnings)
    for of in ("full", "max"):
        answer = fit.budget_for(0.95, of=of)
        assert answer.reachable is False and answer.warnings == () and answer.observed == 1
    assert fit(1) > fit(768)
    if LAWS[form].bounded:
        assert fit.asymptote == 0


@every
def test_no_interval(form: str) -> None:
    law = LAWS[form]
    few = law.min_budgets
    fit = quiet(N[:few], truth(form)[:few], **options(form))
    if few == law.min_interval:
        assert all(fit.identified.values()) and not any(note.startswith("no-interval") for note in fit.warnings)
        return
    text = (
        f"no-interval: {few} distinct budgets determine the {few} parameters of {form} exactly; an interval needs "
        f"{few + 1}"
    )
    assert issued(lambda: fit_power_law(N[:few], truth(form)[:few], **options(form))) == [text]
    for times in (1, 2):  # replicates do not help
        fit = quiet(np.repeat(N[:few], times), np.repeat(truth(form)[:few], times), **options(form))
        assert text in fit.warnings and not any(fit.identified.values()) and fit.ci_method is None
        assert all(math.isnan(end) for pair in fit.ci.values() for end in pair)
        assert all(math.isnan(v) for v in fit.se.values())
        assert all(math.isnan(end) for end in fit.interval(5)) and fit(N[:few]) == pytest.approx(truth(form)[:few])
        answers: list[Any] = []
        assert issued(lambda fit=fit, answers=answers: answers.append(fit.budget_for(0.9))) == [text]
        assert answers[0].reachable is False and "no interval" in fit.summary()
    assert math.isfinite(quiet(N[: few + 1], truth(form)[: few + 1] * (1 + 0.01 * E[: few + 1]), **options(form)).sigma)


@every
def test_exactly_the_budgets_of_an_interval(form: str) -> None:
    few = LAWS[form].min_interval
    fit = quiet(N[:few], truth(form)[:few] * (1 + 0.003 * E[:few]), **options(form))
    assert fit.dof == few - len(fit.params) and fit.ci_method is not None
    for name, (lo, hi) in fit.ci.items():
        assert lo <= fit.optimum.get(name, fit.asymptote) <= hi
    lo, hi = fit.interval(N[few - 1])
    assert lo < fit(N[few - 1]) < hi
    assert math.isnan(fit.loo_rmse) or few > LAWS[form].min_budgets


@pytest.mark.parametrize("form", ["power_additive", "loglinear", "saturating", "power", "regime"])
def test_out_of_range(form: str) -> None:
    score = 40 + 8 * np.log(N) + 2 * E
    (text,) = [t for t in issued(lambda: fit_power_law(N, score, form=form, ceil=95)) if t.startswith("out-of-range")]
    reach = quiet(N, score, form=form).interval(1536, kind="new")[1]
    assert text == (
        f"out-of-range: the 95% interval for a new score at n = 1536 reaches {reach:.4g}, above ceil = 95; "
        'form="logit" or "neglog" stays inside'
    )
    (text,) = issued(lambda: fit_power_law(N, 120 - score, form="loglinear", floor=30))
    reach = quiet(N, 120 - score, form="loglinear").interval(1536, kind="new")[0]
    assert text.endswith(f"reaches {reach:.4g}, below floor = 30; " + 'form="logit" or "neglog" stays inside')
    assert not issued(lambda: fit_power_law(N, score, form="logit", floor=0, ceil=101))


@every
def test_extrapolation(form: str) -> None:
    fit = quiet(N, truth(form) * (1 + 0.003 * E), **options(form))
    text = "extrapolation: n = 4096 is 5.3 times the largest fitted budget, 768"
    assert issued(lambda: fit.interval([8, 4096])) == [text] and issued(lambda: fit.interval(1536)) == []
    target = float(fit(3000))
    answers: list[Any] = []
    (said,) = issued(lambda: answers.append(fit.budget_for(target, of="score")))
    assert said.startswith("extrapolation: n = ") and said.endswith(" is 3.9 times the largest fitted budget, 768")
    assert answers[0].extrapolated and answers[0].warnings == (said,) and answers[0].exact == pytest.approx(3000)
    assert issued(lambda: fit.budget_for(float(fit(1000)), of="score")) == []


@pytest.mark.parametrize(("form", "name", "extra"), [("regime", "n_balance", 1), ("broken", "d", 2)])
def test_unidentified(form: str, name: str, extra: int) -> None:
    from scipy import stats

    score = 12 * N**0.237 * np.exp(0.02 * E)
    fit, power = quiet(N, score, form=form), quiet(N, score)
    f = max(0.0, (power.rss - fit.rss) / extra / (fit.rss / fit.dof))
    p = stats.f.sf(f, extra, fit.dof)
    text = (
        f"unidentified: {name} is not identified: the {form} law is no better than a power law (F = {f:.3g}, "
        f"p = {p:.3g})"
    )
    assert p > 0.05 and issued(lambda: fit_power_law(N, score, form=form)) == [text]
    hidden = ("beta", "n_balance") if form == "regime" else ("d",)
    for key in fit.params:
        assert math.isnan(fit.params[key]) == (key in hidden) and fit.identified[key] == (key not in hidden)
        assert math.isfinite(fit.optimum[key]) and math.isnan(fit.se[key]) == (key in hidden)
    assert fit.ci[name][0] == 0 or fit.ci[name][1] == math.inf
    assert fit(128) == pytest.approx(score[5], rel=0.1)
    assert fit.budget_for(0.9).reachable and text in fit.summary()
    level = 1 - p + 1e-3 if p < 1 else 1.0
    if 0 < level < 1 and f > 0:
        again = quiet(N, score, form=form, level=1 - p - 1e-3) if p < 0.99 else fit
        assert math.isfinite(again.params[name]) or again.at_bound
        assert math.isnan(quiet(N, score, form=form, level=level).params[name])


def at_bound(form: str, score: Any, name: str, value: str, ends: str, n: Any = N) -> ScalingFit:
    text = f"at-bound: {name} = {value} is at the bound of its search range {ends}"
    assert text in issued(lambda: fit_power_law(n, score, form=form))
    fit = quiet(n, score, form=form)
    assert text in fit.warnings and fit.at_bound == (name,) and not fit.identified[name]
    assert math.isnan(fit.params[name]) and math.isnan(fit.se[name]) and math.isfinite(fit.optimum[name])
    assert fit.optimum[name] == pytest.approx(float(value), rel=1e-5)
    assert "nan" in fit.summary() and f"{name}=nan" in repr(fit)
    assert not any(note.startswith("accelerating") for note in fit.warnings)
    return fit


def test_at_bound() -> None:
    low = at_bound("saturating", CURVES["Overall@RealWorldQA"][1], "g", "-3", "[-3, 8]")
    assert low.asymptote == math.inf and not low.identified["asymptote"]
    high = at_bound("saturating", [1, 5, 5, 5, 5, 5, 5.01, 5, 4.99, 5], "g", "8", "[-3, 8]")
    assert high.asymptote == pytest.approx(5, abs=0.01) and high.identified["asymptote"]
    assert high.ci["g"][1] == math.inf and high.budget_for(0.9).reachable
    steep = at_bound("power_additive", [1, 1, 1, 1, 1, 1, 1, 1, 1, 50.0], "alpha", "-3", "[-3, 3]")
    assert steep.ci["alpha"][0] == -math.inf and math.isnan(steep.exponent) and steep.exponent_ci[1] == math.inf
    at_bound("power_additive", [50.0, 1e-3, 0, 0, 0, 0, 0, 0, 0, 0], "alpha", "3", "[-3, 3]")
    bent = CURVES["Overall@SEEDBench_IMG"][1]
    broken = at_bound("broken", bent, "d", "1.34986", "[1.34986, 568.948]")
    assert broken.identified["p1"] and broken.ci["d"][0] == 0
    n = N**3
    score = 5 * (n + 1e7) ** 0.2 * n**0.1 * np.exp(0.01 * np.cos(N))
    far = at_bound("regime", score, "n_balance", "100000", "[0, 100000]", n)
    assert math.isnan(far.params["beta"]) and far.ci["n_balance"][1] == math.inf


def test_a_bound_that_few_budgets_reach_is_no_estimate_either() -> None:
    fit = quiet([1, 2, 4], [1.0, 1.0, 30.0], form="saturating")
    assert fit.at_bound == ("g",) and math.isnan(fit.params["g"]) and math.isfinite(fit.optimum["g"])
    two = quiet([1, 2, 4], [1.0, 1.4, 3.0], form="regime")
    assert math.isnan(two.params["beta"]) and math.isnan(two.params["n_balance"])
    assert not any(note.startswith("unidentified") for note in two.warnings)


def test_accelerating() -> None:
    n = N
    score = 10 + 3 * (n**0.2 - 1) / 0.2
    fit = quiet(n, score * (1 + 1e-3 * E), form="saturating")
    note = f"accelerating: g = {fit.params['g']:.2g} < 0: the curve accelerates; it has no asymptote"
    assert note in fit.warnings and issued(lambda: fit_power_law(n, score * (1 + 1e-3 * E), form="saturating")) == []
    assert fit.asymptote == math.inf and fit.ci["asymptote"][1] == math.inf and not fit.identified["asymptote"]
    assert fit.budget_for(0.9, of="asymptote").reachable is False
    assert not any("accelerating" in text for text in quiet(n, OCRBENCH, form="saturating").warnings)


@every
def test_leverage_and_outliers(form: str) -> None:
    score = truth(form) * np.where(N == 64, 1.3, 1.0) * (1 + 0.002 * E)
    fit = quiet(N, score, **options(form) | ({"n_items": 100_000} if LAWS[form].counted else {}))
    for b, h in zip(BUDGETS, fit.leverage):
        note = f"leverage: n = {b} has leverage {h:.2f}: it decides half of this fit"
        assert (note in fit.warnings) == (h > 0.5)
    assert fit.outliers == (4,)
    from scipy import stats

    limit = stats.t.ppf(1 - 0.05 / 20, fit.dof - 1)
    assert (
        f"outliers: n = 64 is an outlier (studentised residual {fit.studentized[4]:.2f}, limit {limit:.2f})"
        in fit.warnings
    )


@every
def test_non_monotone(form: str) -> None:
    score = np.linspace(20, 60, 10)
    score[7] = 40
    text = "non-monotone: the score falls by more than 3 standard errors from n = 256 to n = 384"
    assert text in quiet(N, score, **options(form) | {"n_items": 2000}).warnings
    assert text not in quiet(N, score, **options(form) | {"n_items": 50}).warnings
    if not LAWS[form].counted:
        assert text in quiet(N, score, **options(form), se=1.0).warnings
        assert text not in quiet(N, score, **options(form)).warnings


@every
def test_small_sample(form: str) -> None:
    law = LAWS[form]
    need = len(law.params) + 3
    few = max(law.min_budgets, need - 1)
    fit = quiet(N[:few], truth(form)[:few] * (1 + 0.01 * E[:few]), **options(form))
    text = f"small-sample: AICc needs {need} points for the {need - 3} parameters of {form} and sigma, got {few}"
    assert (text in fit.warnings) == (few < need and not law.counted)
    if few < need and not law.counted:
        assert fit.aicc == math.inf and math.isfinite(fit.bic)
