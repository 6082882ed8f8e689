"""Fixed parameters, and what the data cannot say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tokscale.scaling.joint import fit_joint_law

from .data import LOSSES, PRODUCT, E, N, T, issued, quiet

# Fixed parameters


@pytest.mark.parametrize("names", ["D", "A", "a", "b", "AD", "ab", "abD", "Ab"])
def test_fixed_parameters_of_the_product(names: str) -> None:
    truth = {"A": 0.5, "a": 0.3, "b": 0.1, "D": 0.2}
    fix = {name: truth[name] for name in names}
    fit = fit_joint_law(N, T, PRODUCT - E, fix=fix)
    assert fit.params == pytest.approx(truth, rel=1e-7) and fit.fix == fix
    assert all(fit.params[name] == value for name, value in fix.items()) and all(fit.identified.values())
    noisy = fit_joint_law(N, T, PRODUCT, fix=fix)
    assert noisy.rss >= 3.15484e-5 and noisy.dof == 24 + len(fix)
    assert (noisy.profile_D == ()) == ("D" in fix)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("names", ["E", "A", "B", "a", "b", "ab", "AB", "EaB"])
def test_fixed_parameters_of_the_additive_law(loss: str, names: str) -> None:
    truth = {"E": 0.5, "A": 0.4, "B": 0.6, "a": 0.3, "b": 0.2}
    fix = {name: truth[name] for name in names}
    fit = fit_joint_law(N, T, 0.5 + 0.4 * N**-0.3 + 0.6 * T**-0.2, form="additive", loss=loss, fix=fix)
    assert fit.params == pytest.approx(truth, rel=1e-6) and list(fit.params) == list(truth)
    assert all(fit.params[name] == value for name, value in fix.items()) and fit.warnings == ()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_constant_at_all(loss: str) -> None:
    y = 0.4 * N**-0.3 + 0.6 * T**-0.2
    for fit in (
        fit_joint_law(N, T, y, form="additive", loss=loss, fix={"E": 0}),
        quiet(N, T, y, form="additive", loss=loss),
    ):
        assert fit.params == pytest.approx({"E": 0, "A": 0.4, "B": 0.6, "a": 0.3, "b": 0.2}, rel=1e-6, abs=1e-9)
    assert fit.identified["E"] is False
    assert fit.warnings == ("unidentified: E is not identified: the law with E = 0 leaves no residuals to explain",)


def test_fixed_parameters_of_the_loglinear_law() -> None:
    y = 1 - 0.2 * np.log(N) + 0.1 * np.log(T)
    for fix in ({"a": 1}, {"b": -0.2}, {"b": -0.2, "c": 0.1}):
        fit = fit_joint_law(N, T, y, form="loglinear", fix=fix)
        assert fit.params == pytest.approx({"a": 1, "b": -0.2, "c": 0.1}, rel=1e-9)


# What the data cannot say


@pytest.mark.parametrize("form, names", [("product", "ab"), ("additive", "ab"), ("loglinear", "bc")])
def test_an_ill_conditioned_design(form: str, names: str) -> None:
    size = np.geomspace(1, 100, 12)
    tokens = size**1.5 * (1 + 0.1 * np.sin(np.arange(12)))
    y = 0.5 * size**-0.3 + 0.2
    r = np.corrcoef(np.log(size), np.log(tokens))[0, 1]
    text = (
        f"unidentified: ln N and ln T have correlation {r:.4f}: these data do not tell the exponents of N and T apart; "
        "measure every size at the same budgets"
    )
    assert r > 0.99 and text in issued(lambda: fit_joint_law(size, tokens, y, form=form))
    fit = quiet(size, tokens, y, form=form)
    assert not any(fit.identified[name] for name in names)
    exponent = {"product": "b", "additive": "b", "loglinear": "c"}[form]
    assert not any("correlation" in said for said in quiet(size, tokens, y, form=form, fix={exponent: 0.1}).warnings)
    apart = size[np.arange(12) * 5 % 12]
    assert not any("correlation" in said for said in quiet(size, apart, y, form=form).warnings)


@pytest.mark.parametrize(
    "options", [{"form": "product"}, {"form": "loglinear"}, *({"form": "additive", "loss": loss} for loss in LOSSES)]
)
def test_constant_scores_and_terms_that_say_nothing(options: dict[str, str]) -> None:
    fit = quiet(N, T, np.full(28, 0.7), **options)
    assert fit(3, 5) == pytest.approx(0.7, rel=1e-9) and fit.sigma < 1e-9
    assert json.dumps(fit.to_dict(), allow_nan=False) and fit.summary()
    tokens_only = quiet(N, T, 0.2 + 0.5 * T**-0.2, **options)
    if options["form"] == "additive":
        both = [
            f"unidentified: {p} and {q} are not identified: y does not depend on {axis}"
            for p, q, axis in ("AaN", "BbT")
        ]
        assert set(both) <= set(fit.warnings) and not any(fit.identified[name] for name in "AaBb")
        assert both[0] in tokens_only.warnings and both[1] not in tokens_only.warnings
        assert tokens_only.identified["B"] and not tokens_only.identified["A"]


def test_an_exponent_at_its_bound() -> None:
    y = 0.3 - 0.05 * np.log(N) + 0.4 * T**-0.5
    text = "at-bound: a = 0.01 is at the bound of its search range [0.01, 3]"
    assert text in issued(lambda: fit_joint_law(N, T, y, form="additive"))
    fit = quiet(N, T, y, form="additive")
    assert fit.params["a"] == 0.01 and not fit.identified["a"] and fit.params["b"] == pytest.approx(0.5, rel=1e-2)
    assert quiet(N, T, y, form="additive", fix={"a": 0.01}).rss == pytest.approx(fit.rss, rel=1e-9)


def test_too_few_points_to_test_a_constant() -> None:
    text = "unidentified: D is not identified: no degree of freedom is left to test D = 0; D = 0 is used"
    assert issued(lambda: fit_joint_law([1, 1, 4, 4], [1, 8, 1, 8], [0.9, 0.6, 0.5, 0.4])) == [text]
    fit = quiet([1, 1, 4], [1, 8, 1], [0.9, 0.6, 0.5])
    assert fit.rss < 1e-25 and fit.dof == 0 and math.isnan(fit.sigma) and fit.to_dict()["rss"] < 1e-25
