"""The published curves under every form: each figure that the package promises, at the digits given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling import LAWS, fit_power_law

from .curves import BUDGETS, CURVES, OCRBENCH, TRUTHS, options, quiet, same, truth

OCR: dict[str, dict[str, Any]] = {
    "power": {
        "params": {"c": "60.271521", "alpha": "-.37273080"},
        "ci": {"c": ("26.7341", "135.881"), "alpha": ("-.54842705", "-.19703454")},
        "rss": "1.86377705",
        "aicc": "134.646844",
        "skill": "-23.5434",
    },
    "power_additive": {
        "params": {"c": "148.990", "alpha": "-.1918173"},
        "ci": {"c": ("95.2694", "214.101"), "alpha": ("-.270289", "-.124035")},
        "rss": "26171.5864",
        "aicc": "117.077216",
        "skill": "-4.67976",
    },
    "loglinear": {
        "params": {"a": "67.332402", "b": "68.134900"},
        "ci": {"a": ("16.7727", "117.892"), "b": ("57.2074", "79.0624")},
        "rss": "7209.55405",
        "aicc": "104.184544",
        "skill": "-1.93494",
    },
    "saturating": {
        "params": {"s1": "20.28070", "b": "116.4702", "g": ".1631713"},
        "ci": {
            "s1": ("-14.298", "54.689"),
            "b": ("90.917", "145.815"),
            "g": (".08664", ".24155"),
            "asymptote": ("595.28", "1106.8"),
        },
        "rss": "1574.47334",
        "aicc": "94.969681",
        "skill": "-.40963",
    },
    "regime": {
        "params": {"c": "60.27152", "beta": "nan", "n_balance": "nan"},
        "ci": {"n_balance": ("0", "inf")},
        "rss": "1.86377705",
        "aicc": "140.646844",
        "skill": "-23.5434",
    },
    "broken": {
        "params": {"c": "24.0189", "p1": "1.15507", "p2": ".137124", "d": "8.20871"},
        "ci": {"p2": (".08734", ".18374")},
        "rss": ".0239542",
        "aicc": "106.104692",
    },
    "logit": {
        "params": {"a": "-2.762656", "b": ".4704178"},
        "ci": {"a": ("-3.60181", "-1.9235"), "b": (".289051", ".651784")},
        "rss": "1.98601369",
        "aicc": "126.208916",
        "skill": "-7.76601",
    },
    "neglog": {
        "params": {"a": "1.027030", "b": "-.2263671"},
        "ci": {"b": ("-.284479", "-.168255")},
        "rss": ".203892533",
        "aicc": "114.177760",
        "skill": "-3.46194",
    },
    "binomial": {
        "params": {"a": "-2.1327358", "b": ".34570979"},
        "ci": {"b": (".2286432", ".4627764")},
        "aicc": "nan",
    },
}


def test_every_form_has_its_figures() -> None:
    assert set(OCR) == set(LAWS) == set(TRUTHS)


@pytest.mark.parametrize("form", list(LAWS))
def test_ocrbench(form: str) -> None:
    wanted, fit = OCR[form], quiet(BUDGETS, OCRBENCH, **options(form) | {"floor": 0, "ceil": 1000})
    assert set(fit.params) == set(wanted["params"])
    for name, printed in wanted["params"].items():
        assert same(fit.params[name], printed), name
    for name, ends in wanted["ci"].items():
        assert all(map(same, fit.ci[name], ends)), name
    assert same(fit.aicc, wanted["aicc"])
    if "rss" in wanted:
        assert same(fit.rss, wanted["rss"]) and fit.sigma == pytest.approx((fit.rss / fit.dof) ** 0.5)
    if "skill" in wanted:
        assert same(fit.skill_vs_baseline(384).skill, wanted["skill"])
    assert fit.ci_method == ("t" if LAWS[form].theta is None else "profile")


def test_the_broken_law_needs_eight_budgets_to_be_judged() -> None:
    with pytest.raises(FitError) as caught:
        quiet(BUDGETS, OCRBENCH, form="broken").skill_vs_baseline(384)
    assert str(caught.value) == 'holdout_from=384 leaves 7 budgets to fit; form="broken" needs 8'


def test_ocrbench_saturating() -> None:
    fit = quiet(BUDGETS, OCRBENCH, form="saturating", n_items=1000, floor=0, ceil=1000)
    assert same(fit.asymptote, "734.0715") and same(fit.chi2_dof, "1.02614")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, new = fit.interval(1536), fit.interval(1536, kind="new")
        answer = fit.budget_for(0.95)
    assert all(map(same, mean, ("491.311", "547.578"))) and all(map(same, new, ("473.587", "564.110")))
    assert same(answer.exact, "423.4127") and all(map(same, (answer.lo, answer.hi), ("358.696", "477.846")))
    assert answer.n == 424 and answer.observed == 512 and fit.identified["asymptote"]


def test_ocrbench_binomial() -> None:
    fit = quiet(BUDGETS, OCRBENCH, form="binomial", n_items=1000, floor=0, ceil=1000)
    assert same(fit.chi2_dof, "16.2569") and fit.sigma == pytest.approx(fit.chi2_dof**0.5)


def test_pope_saturating() -> None:
    fit = quiet(*CURVES["Overall@POPE"], form="saturating")
    assert same(fit.params["s1"], "58.27648") and same(fit.params["b"], "13.72646")
    assert same(fit.params["g"], ".4643427") and same(fit.asymptote, "87.83753")
    assert all(map(same, fit.ci["g"], (".36504", ".58152")))
    assert all(map(same, fit.ci["asymptote"], ("86.1176", "90.1379"))) and same(fit.aicc, "37.987472")
    answer = fit.budget_for(0.95)
    assert same(answer.exact, "34.9465") and all(map(same, (answer.lo, answer.hi), ("20.656", "57.008")))


def test_seedbench_img() -> None:
    n, score = CURVES["Overall@SEEDBench_IMG"]
    fit = quiet(n, score, form="saturating", floor=0, ceil=100)
    assert same(fit.params["g"], ".1202055") and all(map(same, fit.ci["g"], ("-.018930", ".261576")))
    assert same(fit.asymptote, "70.8334") and not fit.identified["asymptote"] and fit.identified["g"]
    assert all(map(same, fit.ci["asymptote"], ("56.787", "inf")))
    printed = {"neglog": "40.9130", "loglinear": "42.1687", "saturating": "43.4652", "logit": "43.7605"}
    for form, aicc in (printed | {"power": "49.2759"}).items():
        assert same(quiet(n, score, form=form, floor=0, ceil=100).aicc, aicc), form


def test_mmstar_binomial() -> None:
    fit = quiet(*CURVES["Overall@MMStar"], form="binomial", n_items=1500)
    assert same(fit.params["a"], "-.90087020") and same(fit.params["b"], ".04098031")
    assert same(fit.ci["b"][0], ".01935596") and fit.ci["b"][1] == pytest.approx(0.06260466, abs=5e-9)
    assert same(fit.chi2_dof, "1.13619")


@pytest.mark.parametrize("form", list(LAWS))
def test_noise_free_data_give_their_parameters_back(form: str) -> None:
    """To 1e-9 in the closed forms and 1e-6 in the searched ones; the intervals have no width, and nothing warns."""
    law = LAWS[form]
    tight = 1e-9 if law.theta is None else 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_power_law(BUDGETS, truth(form), **options(form))
    assert fit.params == pytest.approx(TRUTHS[form], rel=tight)
    assert all(fit.identified.values()) and fit.at_bound == () and fit.converged
    assert fit.outliers == () and fit.loo_rmse < 1e-8 and fit(8) == pytest.approx(truth(form, 8), rel=1e-9)
    if law.counted:  # the errors of the counts remain
        assert fit.rss < 1e-20 and fit.sigma == 1.0
        return
    assert fit.sigma < 1e-12
    for name, value in TRUTHS[form].items():
        assert fit.ci[name] == pytest.approx((value, value), rel=tight)
    half = fit.budget_for(0.9)
    assert half.lo == pytest.approx(half.exact, rel=tight) and half.hi == pytest.approx(half.exact, rel=tight)
    assert fit(half.exact) == pytest.approx(0.9 * fit(768), rel=1e-9)
    assert fit.interval(1000, kind="new") == pytest.approx((truth(form, 1000),) * 2, rel=1e-9)


def test_the_regime_law_where_it_is_identified() -> None:
    n, e = np.array(BUDGETS, float), np.random.default_rng(0).normal(size=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_power_law(n, 5 * (n * (n + 40) / 41) ** 0.1 * np.exp(0.005 * e), form="regime")
    assert same(fit.params["c"], "5.00774") and same(fit.params["beta"], ".193922")
    assert same(fit.params["n_balance"], "30.3912")
    assert all(map(same, fit.ci["n_balance"], ("19.4932", "50.5638"))) and all(fit.identified.values())


def test_the_exponent_of_the_paper_as_a_function_of_the_budget() -> None:
    n = np.array(BUDGETS, float)
    fit = quiet(n, 5 * (n * (n + 5) / 6) ** 0.1, form="regime")
    at_50 = fit.alpha_at(50) / fit.params["beta"]
    assert at_50 == pytest.approx(0.5 * np.log(6 / 55) / np.log(50) - 0.5, rel=1e-9) and same(at_50, "-.783175")


def test_the_budget_with_a_cost() -> None:
    best = quiet(BUDGETS, OCRBENCH, form="saturating").optimal_budget(
        lambda n: (2 * 6.5e9 * (n + 50) + 2 * 32 * 4096 * (n + 50) ** 2) / 1e12, weight=10, n_max=2048
    )
    assert best.n == 341 and not best.on_bound


def test_forms_that_warn_on_the_published_curves() -> None:
    """A form that stays inside the bounds, and one that need not."""
    n, score = CURVES["Overall@POPE"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("logit", "neglog", "saturating"):
            fit_power_law(n, score, form=form, floor=0, ceil=100)
    for form in ("power", "power_additive", "loglinear"):
        with pytest.warns(ScalingFitWarning, match="^out-of-range: .* above ceil = 100; "):
            fit_power_law(n, score, form=form, floor=0, ceil=100)
