"""Every mistake under every form it concerns, word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError
from tokscale.scaling import LAWS, fit_power_law

from .curves import BUDGETS, options, quiet, truth

every = pytest.mark.parametrize("form", list(LAWS))


def those(**wanted: bool) -> Any:
    """Parametrise over the forms whose flags are as wanted."""
    found = [form for form, law in LAWS.items() if all(getattr(law, k) == v for k, v in wanted.items())]
    assert found
    return pytest.mark.parametrize("form", found)


def refused(*data: Any, **given: Any) -> str:
    with pytest.raises(FitError) as caught:
        fit_power_law(*data, **given)
    return str(caught.value)


def good(form: str) -> tuple[Any, Any]:
    return np.array(BUDGETS, float), truth(form).copy()


@those(logarithmic=True)
def test_a_score_without_a_logarithm(form: str) -> None:
    n, score = good(form)
    score[2] = -1
    assert refused(n, score, form=form) == (
        f'form="{form}" takes the logarithm of the score, which is -1.0 at index [2]; use form="power_additive", '
        '"loglinear" or "saturating", or form="binomial" with n_items='
    )
    score[2] = 0
    assert "which is 0.0 at index [2]" in refused(n, score, form=form)
    if len(BUDGETS) - 1 >= LAWS[form].min_budgets:
        quiet(n, score, form=form, exclude=[n[2]])


@every
def test_one_budget(form: str) -> None:
    assert refused([64] * 4, [1.0, 2.0, 3.0, 4.0], **options(form)) == (
        "all 4 points have n = 64; a law needs at least 2 distinct budgets"
    )


@every
def test_too_few_budgets(form: str) -> None:
    law, (n, score) = LAWS[form], good(form)
    few = law.min_budgets - 1
    if few < 2:
        quiet(n[:2], score[:2], **options(form))
        return
    text = (
        f'form="{form}" has {len(law.params)} parameters and needs at least {law.min_budgets} distinct budgets, '
        f"got {few}"
    )
    assert refused(n[:few], score[:few], **options(form)) == text
    assert refused(np.repeat(n[:few], 3), np.repeat(score[:few], 3), **options(form)) == text
    assert refused(n, score, **options(form), exclude=n[few:]) == text


def test_how_many_budgets_each_form_needs() -> None:
    assert {form: (law.min_budgets, law.min_interval, len(law.params)) for form, law in LAWS.items()} == {
        "power": (2, 3, 2),
        "power_additive": (2, 3, 2),
        "loglinear": (2, 3, 2),
        "saturating": (3, 4, 3),
        "regime": (3, 4, 3),
        "broken": (8, 8, 4),
        "logit": (2, 3, 2),
        "neglog": (2, 3, 2),
        "binomial": (3, 3, 2),
    }


@those(bounded=True, counted=False)
def test_bounds(form: str) -> None:
    n, score = good(form)
    for given in ({}, {"floor": 0}, {"ceil": 100}, {"n_items": 500}):
        assert refused(n, score, form=form, **given) == f'form="{form}" needs floor= and ceil='
    for value, place in ((100.0, 9), (0.0, 0), (-3.0, 4)):
        bad = score.copy()
        bad[place] = value
        assert refused(n, bad, form=form, floor=0, ceil=100) == (
            f'form="{form}" needs floor < score < ceil = (0, 100), but score is {value!r} at index [{place}]; use '
            'form="binomial" with n_items='
        )


@every
def test_the_order_of_the_bounds(form: str) -> None:
    assert refused(*good(form), **options(form) | {"floor": 100, "ceil": 0}) == "ceil=0 must exceed floor=100"
    assert refused(*good(form), **options(form) | {"floor": 7, "ceil": 7}) == "ceil=7 must exceed floor=7"


def test_a_model_of_counts() -> None:
    n, score = good("binomial")
    assert refused(n, score, form="binomial") == 'form="binomial" needs n_items='
    for given in ({"se": 1.0}, {"weights": n}):
        assert refused(n, score, form="binomial", n_items=100, **given) == (
            'form="binomial" is weighted by n_items=; it takes neither se= nor weights='
        )
    assert refused(n, score, form="binomial", n_items=0) == "n_items must be positive, got 0.0 at index [0]"
    score[3] = 101
    assert refused(n, score, form="binomial", n_items=100) == (
        "n_items= needs scores between floor and ceil = (0, 100), but score is 101.0 at index [3]; pass the floor= and "
        "ceil= of this score"
    )
    for ci in ("hc3", "bootstrap", "bootstrap_t"):
        assert refused(*good("binomial"), form="binomial", n_items=100, ci=ci) == (
            f'ci="{ci}" resamples or weighs scores, and form="binomial" models counts; it takes ci="t"'
        )
    assert quiet(*good("binomial"), form="binomial", n_items=100, ci="profile").ci_method == "t"


@every
@pytest.mark.parametrize("ci", ["t", "hc3", "bootstrap_t"])
def test_intervals_for_the_linear_forms_only(form: str, ci: str) -> None:
    if LAWS[form].theta is not None:
        assert refused(*good(form), form=form, ci=ci) == (
            f'ci="{ci}" works with the linear forms only; form="{form}" takes "profile" or "bootstrap"'
        )
    elif not LAWS[form].counted:
        assert quiet(*good(form), **options(form), ci=ci).ci_method == ci


@every
def test_robust_is_for_the_power_law(form: str) -> None:
    if form != "power":
        assert refused(*good(form), **options(form), robust="huber") == 'robust= works with form="power" only'


@every
def test_the_options_of_every_form(form: str) -> None:
    n, score = good(form)
    law = LAWS[form]
    assert refused(n, score, **options(form), level=95) == "level=95 must lie in (0, 1); did you mean 0.95?"
    assert refused(n, score[:9], **options(form)) == (
        "n has shape (10,) and score has shape (9,); both must be one-dimensional and of equal length"
    )
    n[0] = 0
    assert refused(n, score, **options(form)) == (
        "n must be positive, got 0 at index [0]; to include a budget of no vision tokens count the text tokens too "
        "(n + text tokens)"
    )
    n[0] = 1
    for name in ("n", "score"):
        data = {"n": n, "score": score, name: np.append(good(form)[name == "score"][:9], np.nan)}
        assert refused(data["n"], data["score"], **options(form)) == f"{name} is not finite at index [9]"
    if not law.counted:
        errors = np.ones(10)
        errors[1] = 0
        assert refused(n, score, **options(form), se=errors) == "se must be positive, got 0.0 at index [1]"


@every
def test_questions_that_a_fit_does_not_take(form: str) -> None:
    law, fit = LAWS[form], quiet(*good(form), **options(form))
    left = sum(b < 8 for b in BUDGETS)
    with pytest.raises(FitError) as caught:
        fit.skill_vs_baseline(8)
    assert str(caught.value) == f'holdout_from=8 leaves {left} budget to fit; form="{form}" needs {law.min_interval}'
    for of in ("full", "max", "asymptote"):
        with pytest.raises(FitError) as caught:
            fit.budget_for(95, of=of)
        assert str(caught.value) == ('budget_for(95): a fraction lies in (0, 1); for an absolute score pass of="score"')
    if law.logarithmic:
        with pytest.raises(FitError) as caught:
            fit.budget_for(-3, of="score")
        assert str(caught.value) == f'budget_for(-3, of="score"): form="{form}" takes scores above 0 only'


@every
def test_forms_without_a_constant_exponent_say_where_it_is(form: str) -> None:
    fit = quiet(*good(form), **options(form))
    for name in ("c", "alpha"):
        if name in fit.params:
            assert getattr(fit, name) == fit.params[name]
            continue
        with pytest.raises(AttributeError) as caught:
            getattr(fit, name)
        assert str(caught.value) == (
            f'form="{form}" has no constant {name}; alpha_at(n) gives -ln(S(n)/S(1))/ln n and slope_at(n) the local '
            "slope"
        )
    for ask in (lambda: fit.exponent, lambda: fit.exponent_ci, fit.alpha_by_range):
        if "alpha" in fit.params:
            assert ask()
            continue
        with pytest.raises(AttributeError, match=r"alpha_at\(n\) .* slope_at\(n\)"):
            ask()
