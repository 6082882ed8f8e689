"""Which form is best, and whether the data can tell: the figures promised, and what cannot be compared."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest

import tokscale
from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling import LAWS, LawComparison, compare_laws, fit_power_law

from .curves import BUDGETS, CURVES, OCRBENCH, quiet

SEED = CURVES["Overall@SEEDBench_IMG"]


def test_ocrbench() -> None:
    found = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000)
    assert found.best == "saturating" and found.undecided == () and found.skipped == {}
    aicc = {
        "power": 134.646844, "power_additive": 117.077216, "loglinear": 104.184544, "saturating": 94.969681,
        "regime": 140.646844, "broken": 106.104692, "logit": 126.208916, "neglog": 114.177760,
    }  # fmt: skip
    assert list(found.fits) == list(aicc)
    assert {form: round(value, 6) for form, value in found.values.items()} == aicc
    skill = {
        "power": -23.5434, "power_additive": -4.67976, "loglinear": -1.93494, "saturating": -0.40963,
        "regime": -23.5434, "logit": -7.76601, "neglog": -3.46194,
    }  # fmt: skip
    again = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000, holdout_from=384).skill
    assert again.pop("broken") is None  # seven budgets are left
    for form, printed in skill.items():
        assert round(again[form].skill, len(str(printed).partition(".")[2])) == printed
    for form, fit in found.fits.items():
        assert fit.to_dict() == quiet(BUDGETS, OCRBENCH, form=form, floor=0, ceil=1000).to_dict()


def test_seedbench_cannot_tell() -> None:
    found = compare_laws(*SEED, floor=0, ceil=100)
    printed = {"neglog": 40.9130, "loglinear": 42.1687, "saturating": 43.4652, "logit": 43.7605, "power": 49.2759}
    assert {form: round(found.values[form], 4) for form in printed} == printed
    assert found.best == "neglog" and found.undecided == ("loglinear",)
    assert "undecided: loglinear is within 2 AICc of neglog: these data do not choose" in found.warnings
    assert compare_laws(*SEED).best == "loglinear"


def test_weights_are_those_of_akaike() -> None:
    found = compare_laws(*SEED, floor=0, ceil=100)
    assert sum(found.weights.values()) == pytest.approx(1)
    ratio = found.weights["loglinear"] / found.weights["neglog"]
    assert ratio == pytest.approx(math.exp((found.values["neglog"] - found.values["loglinear"]) / 2))
    few = compare_laws([1, 8, 64, 512], [10.0, 14.0, 22.0, 30.0], forms=["power", "loglinear"])
    assert all(math.isinf(v) for v in few.values.values()) and set(few.weights.values()) == {0.5}


@pytest.mark.parametrize("criterion", ["loo", "holdout"])
def test_other_criteria(criterion: str) -> None:
    found = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000, criterion=criterion, holdout_from=384)
    for form, value in found.values.items():
        fit = found.fits[form]
        assert value == (fit.loo_rmse if criterion == "loo" else fit.skill_vs_baseline(384).mape)
    assert found.best == min(found.values, key=found.values.__getitem__) and found.undecided == ()
    assert ("broken" in found.skipped) == (criterion == "holdout")
    if criterion == "holdout":
        assert found.skipped["broken"] == 'holdout_from=384 leaves 7 budgets to fit; form="broken" needs 8'


def test_which_forms_are_tried() -> None:
    always = ["power", "power_additive", "loglinear", "saturating", "regime"]
    n, score = [1, 8, 64, 256, 512], [10.0, 19.0, 33.0, 45.0, 52.0]
    assert list(compare_laws(n, score).fits) == always
    assert list(compare_laws(n, score, floor=0, ceil=100).fits) == [*always, "logit", "neglog"]
    assert list(compare_laws(BUDGETS, OCRBENCH).fits) == [*always, "broken"]
    assert list(compare_laws(n, score, forms=["logit", "power"], floor=0, ceil=100).fits) == ["logit", "power"]
    counted = compare_laws(n, score, n_items=200)  # the default bounds of counts are not those of a link
    assert list(counted.fits) == always and counted.fits["power"].chi2_dof is not None


def test_a_form_that_cannot_take_the_data_is_skipped() -> None:
    n, score = [1, 8, 64, 256, 512], [0.0, 19.0, 33.0, 45.0, 52.0]
    found = compare_laws(n, score, floor=0, ceil=100)
    assert set(found.skipped) == {"power", "regime", "logit", "neglog"}
    assert found.skipped["power"].startswith('form="power" takes the logarithm of the score, which is 0.0 at index [0]')
    assert set(found.fits) == set(found.values) == set(found.weights) == set(found.skill) == {
        "power_additive", "loglinear", "saturating",
    }  # fmt: skip
    with pytest.raises(FitError, match=r"^form=\"power\" takes the logarithm"):
        compare_laws(n, score, forms=["power", "regime"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forms": ["power", "powr"]}, 'form="powr" is unknown; choose from ' + ", ".join(sorted(LAWS))),
        ({"criterion": "bic"}, 'criterion="bic" is unknown; choose from aicc, holdout, loo'),
        (
            {"forms": ["binomial"]},
            'form="binomial" is a quasi-likelihood without an AICc; compare_laws cannot take it',
        ),
        ({"forms": "power"}, "forms must be a list of names of laws, got 'power'"),
        ({"forms": []}, "forms must be a list of names of laws, got []"),
        ({"level": 95}, "level=95 must lie in (0, 1); did you mean 0.95?"),
    ],
)
def test_the_mistake_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError) as caught:
        compare_laws(BUDGETS, OCRBENCH, **options)
    assert str(caught.value) == message


def test_nothing_is_issued_and_what_is_said_is_listed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000)
        text = found.summary()
    assert found.warnings == (
        "no-skill: on held-out budgets the law (MAPE 7.0%) is worse than carrying the best score forward (5.0%)",
    )
    assert text.startswith("saturating is best by AICc, of 8 forms") and found.warnings[0] in text
    assert [row["form"] for row in found.table()] == sorted(found.values, key=found.values.__getitem__)
    assert found.table()[0]["delta"] == 0 and found.table()[0]["k"] == 3


@pytest.mark.parametrize("score", [[30.0] * 10, (12 * np.array(BUDGETS) ** 0.237).tolist()])
def test_constant_and_noise_free_scores(score: list[float]) -> None:
    """No numpy warning; of equals, the form with fewer parameters is best."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_laws(BUDGETS, score, floor=0, ceil=100)
        found.summary()
        assert found.best == "power"  # what is exact to rounding is as exact as the others
    if score[0] == score[1]:
        assert all(v == -math.inf for v in found.values.values()) and found.best == "power"


def test_plain_json() -> None:
    found = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["best"] == "saturating" and plain["schema"] == 1
    fit = tokscale.ScalingFit.from_dict(plain["fits"]["broken"])
    assert fit(100) == found.fits["broken"](100)
    assert plain["skill"]["broken"] is None and plain["skill"]["power"]["n_test"] == 3


def test_a_permutation_changes_no_bit() -> None:
    order = np.random.default_rng(0).permutation(10)
    n, score = np.array(BUDGETS)[order], np.array(OCRBENCH)[order]
    one, other = compare_laws(BUDGETS, OCRBENCH, floor=0, ceil=1000), compare_laws(n, score, floor=0, ceil=1000)
    assert one.values == other.values and one.weights == other.weights and one.skill == other.skill


def test_public() -> None:
    assert tokscale.compare_laws is compare_laws and isinstance(compare_laws(*SEED), LawComparison)
    with pytest.warns(ScalingFitWarning):
        fit_power_law(BUDGETS, OCRBENCH, ceil=1000)
