"""Every warning and note, word for word, and whether it is issued or only listed."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import fit_power_law

from .curves import BUDGETS, CURVES, OCRBENCH, quiet

N, S = [1, 8, 64, 512], [12.0, 20.0, 33.0, 52.0]


def issued(ask: Any) -> list[str]:
    """Return the texts of the warnings that `ask()` issues; each points at this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask()
    assert all(w.category is ScalingFitWarning and w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


def test_flat() -> None:
    n, score = CURVES["Overall@RealWorldQA"]
    text = (
        "flat: the 95% interval of the exponent, (-0.02383, 0.02984), contains 0: these data do not show that the "
        "score depends on the budget"
    )
    assert issued(lambda: fit_power_law(n, score)) == [text]
    fit = quiet(n, score)
    assert text in fit.warnings
    answers: list[Any] = []
    assert issued(lambda: answers.append(fit.budget_for(0.95))) == [text] == list(answers[0].warnings)
    assert text.replace("95%", "90%").partition("(")[0] in issued(lambda: fit_power_law(n, score, level=0.9))[0]
    assert issued(lambda: fit_power_law(n, score, ci=None)) == []  # without an interval nothing can be said


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_a_fall_is_not_flat_but_no_budget_reaches_more() -> None:
    fit = fit_power_law(N, S[::-1])
    assert fit.exponent_ci[1] < 0 and not any(text.startswith("flat") for text in fit.warnings)
    answer = fit.budget_for(0.95)
    assert answer.reachable is False and answer.warnings == () and answer.observed == 1


@pytest.mark.parametrize("score", [50.0, 0.1, 7e-5, 3e8])
@pytest.mark.parametrize("robust", [None, "theil_sen", "huber", "bisquare", "lad"])
def test_a_constant_score(score: float, robust: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ScalingFitWarning)
        fit = fit_power_law(BUDGETS, [score] * 10, robust=robust, n_items=100, floor=0, ceil=1e9)
        text = fit.summary()
        assert fit.to_dict()["r2"] == "nan"
    assert fit.alpha == 0 and fit.exponent == 0 and math.copysign(1, fit.exponent) == 1
    if robust != "lad":
        assert fit.ci["alpha"] == (0, 0) and fit.exponent_ci == (0, 0)
        assert any(note.startswith("flat: the 95% interval of the exponent, (0, 0)") for note in fit.warnings)
    assert fit.rss == 0 and fit.loglik == math.inf and fit.aicc == -math.inf and math.isnan(fit.r2)
    assert np.all(fit.residuals == 0) and fit.loo_rmse == 0 and fit.outliers == ()
    assert "the law cannot say" in text


def test_no_interval() -> None:
    text = "no-interval: 2 distinct budgets determine the 2 parameters of power exactly; an interval needs 3"
    assert issued(lambda: fit_power_law([1, 64], [10, 20])) == [text]
    for n, score in (([1, 64], [10, 20]), ([1, 1, 64, 64], [10, 11, 20, 23])):
        fit = quiet(n, score)
        assert fit.identified == {"c": False, "alpha": False}
        assert all(math.isnan(end) for pair in fit.ci.values() for end in pair) and fit.ci_method is None
        assert all(math.isnan(end) for end in fit.interval(8)) and math.isnan(fit.exponent_ci[0])
        assert all(math.isnan(v) for v in fit.se.values())
        answer = issued(lambda fit=fit: fit.budget_for(0.5))
        assert answer == [text] and not any("flat" in note for note in fit.warnings)
    exact = quiet([1, 64], [10, 20])
    assert exact(64) == pytest.approx(20) and exact.alpha == pytest.approx(-math.log(2) / math.log(64))
    assert math.isnan(exact.sigma) and exact.dof == 0 and math.isnan(exact.loo_rmse)
    assert math.isfinite(quiet([1, 1, 64, 64], [10, 11, 20, 23]).loo_rmse)


def test_out_of_range() -> None:
    above = (
        "out-of-range: the 95% interval for a new score at n = 1536 reaches 3384, above ceil = 1000; "
        'form="logit" or "neglog" stays inside'
    )
    assert issued(lambda: fit_power_law(BUDGETS, OCRBENCH, ceil=1000)) == [above]
    assert issued(lambda: fit_power_law(BUDGETS, OCRBENCH)) == []
    (below,) = issued(lambda: fit_power_law(N, [52.0, 33.0, 20.0, 12.0], floor=10, ceil=1000))
    assert below.startswith("out-of-range: the 95% interval for a new score at n = 1024 reaches 9.")
    assert below.endswith('below floor = 10; form="logit" or "neglog" stays inside')
    # counted items are percentages unless said otherwise
    assert issued(lambda: fit_power_law(N, [12.0, 25.0, 50.0, 95.0], n_items=200))[0].endswith(
        'above ceil = 100; form="logit" or "neglog" stays inside'
    )


def test_extrapolation() -> None:
    fit = quiet(BUDGETS, OCRBENCH)
    text = "extrapolation: n = 4096 is 5.3 times the largest fitted budget, 768"
    assert issued(lambda: fit.interval([8, 4096])) == [text]
    assert issued(lambda: fit.interval([8, 1536])) == []
    assert issued(lambda: fit(4096)) == []
    (far,) = issued(lambda: fit.budget_for(2000, of="score"))
    assert far.startswith("extrapolation: n = 12") and far.endswith(" times the largest fitted budget, 768")
    answer = quiet(BUDGETS, OCRBENCH).budget_for
    with pytest.warns(ScalingFitWarning, match="^extrapolation"):
        assert answer(2000, of="score").extrapolated
    assert issued(lambda: fit.budget_for(800, of="score")) == []  # n = 1033: extrapolated, by less than a factor of two
    assert fit.budget_for(800, of="score").extrapolated


def test_notes_are_listed_and_not_issued() -> None:
    leverage = "leverage: n = 1 has leverage 0.53: it decides half of this fit"
    outlier = "outliers: n = 1 is an outlier (studentised residual -16.53, limit 4.03)"
    assert issued(lambda: fit_power_law(BUDGETS, OCRBENCH)) == []
    assert quiet(BUDGETS, OCRBENCH).warnings == (leverage, outlier)


def test_non_monotone() -> None:
    score = [10.0, 20.0, 40.0, 32.0, 52.0]
    text = "non-monotone: the score falls by more than 3 standard errors from n = 64 to n = 128"
    n = [1, 8, 64, 128, 512]
    assert text in quiet(n, score, se=1.8).warnings  # 8 > 3 sqrt(2) 1.8 = 7.6
    assert text not in quiet(n, score, se=1.9).warnings  # 8 < 3 sqrt(2) 1.9 = 8.1
    assert text not in quiet(n, score).warnings
    assert text in quiet(n, score, n_items=1000).warnings and text not in quiet(n, score, n_items=50).warnings
    # the mean of four replicates has half the error
    assert text in quiet([*n, 64, 64, 64, 128, 128, 128], [*score, 40, 40, 40, 32, 32, 32], se=3.6).warnings


def test_small_sample() -> None:
    fit = quiet(N, S)
    assert "small-sample: AICc needs 5 points for the 2 parameters of power and sigma, got 4" in fit.warnings
    assert fit.aicc == math.inf and math.isfinite(fit.bic)
    assert math.isfinite(quiet([*N, 1024], [*S, 66.0]).aicc)


def test_no_skill_comes_from_the_summary() -> None:
    fit = quiet(BUDGETS, OCRBENCH)
    text = "no-skill: on held-out budgets the law (MAPE 121.8%) is worse than carrying the best score forward (5.0%)"
    assert text in fit.summary() and text not in fit.warnings
    assert issued(fit.summary) == []


def test_the_summary_says_what_matters() -> None:
    fit = quiet(BUDGETS, OCRBENCH, floor=0, ceil=1000, n_items=1000, exclude=[512])
    text = fit.summary()
    for part in (
        "S(n) = c / n**alpha, 9 points, n = 1 to 768",
        f"c     = {fit.c:.6g}",
        f"alpha = {fit.alpha:.6g}",
        "95% interval (t)",
        "leave-one-out error",
        "chi2 per degree of freedom",
        "left out: n = 512",
        "alpha fitted up to n = 16:",
        "held out n >= 256",
        "95% of the score at n = 768: n = ",
        *(f"! {note}" for note in fit.warnings),
    ):
        assert part in text
    assert "no interval" in quiet(N, S, ci=None).summary()
    assert 'robust="huber"' in quiet(N, S, robust="huber").summary()
    assert "alpha=-0.37273 (-0.5484, -0.197); 10 points)" in repr(quiet(BUDGETS, OCRBENCH))
