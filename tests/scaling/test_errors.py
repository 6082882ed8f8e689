"""Every mistake has its message, word for word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError, TokscaleError
from tokscale.scaling import ScalingFit, fit_many, fit_power_law

from .curves import BUDGETS, OCRBENCH, quiet

N, S = [1, 8, 64, 512], [12.0, 20.0, 33.0, 52.0]
FORMS = "binomial, broken, logit, loglinear, neglog, power, power_additive, regime, saturating"

MISTAKES: list[tuple[str, tuple[Any, Any], dict[str, Any], str]] = [
    (
        "shapes",
        (BUDGETS, OCRBENCH[:9]),
        {},
        "n has shape (10,) and score has shape (9,); both must be one-dimensional and of equal length",
    ),
    (
        "two axes",
        ([N], [S]),
        {},
        "n has shape (1, 4) and score has shape (1, 4); both must be one-dimensional and of equal length",
    ),
    ("score not finite", (N, [1, 2, 3, np.nan]), {}, "score is not finite at index [3]"),
    ("n not finite", ([1, np.inf, 3, np.nan], S), {}, "n is not finite at index [1, 3]"),
    ("se not finite", (N, S), {"se": [1, 1, np.nan, 1]}, "se is not finite at index [2]"),
    ("weights not finite", (N, S), {"weights": [np.inf, 1, 1, 1]}, "weights is not finite at index [0]"),
    (
        "no vision tokens",
        ([0, 8, 64, 512], S),
        {},
        "n must be positive, got 0 at index [0]; to include a budget of no vision tokens count the text tokens too "
        "(n + text tokens)",
    ),
    (
        "score not positive",
        (N, [1, 2, -1, 3]),
        {},
        'form="power" takes the logarithm of the score, which is -1.0 at index [2]; use form="power_additive", '
        '"loglinear" or "saturating", or form="binomial" with n_items=',
    ),
    ("one budget", ([64] * 4, S), {}, "all 4 points have n = 64; a law needs at least 2 distinct budgets"),
    ("one point", ([64], [3]), {}, "the only point has n = 64; a law needs at least 2 distinct budgets"),
    ("no point", ([], []), {}, "there are no points to fit; a law needs at least 2 distinct budgets"),
    ("bounds", (N, S), {"floor": 100, "ceil": 0}, "ceil=0 must exceed floor=100"),
    ("bound", (N, S), {"ceil": np.inf}, "ceil=inf is not finite"),
    ("bound of words", (N, S), {"ceil": "top"}, "floor=None and ceil='top' must be numbers"),
    ("se", (N, S), {"se": [1, 0, 1, 1]}, "se must be positive, got 0.0 at index [1]"),
    ("weights", (N, S), {"weights": [1, 1, 1, -2]}, "weights must be positive, got -2.0 at index [3]"),
    (
        "length of se",
        (N, S),
        {"se": [1, 2]},
        "se has shape (2,), but there are 4 points; pass one number for each",
    ),
    (
        "two weights",
        (N, S),
        {"se": 1, "weights": N},
        "se= and weights= both set the weights of the fit; pass one of them",
    ),
    (
        "se out of proportion",
        (N, S),
        {"se": 1e-200},
        "se is so small or so large beside the score that the weights are not finite",
    ),
    (
        "counts of another scale",
        (BUDGETS, OCRBENCH),
        {"n_items": 1000},
        "n_items= needs scores between floor and ceil = (0, 100), but score is 221.0 at index [1]; pass the floor= and "
        "ceil= of this score",
    ),
    ("level", (N, S), {"level": 95}, "level=95 must lie in (0, 1); did you mean 0.95?"),
    ("level zero", (N, S), {"level": 0}, "level=0 must lie in (0, 1)"),
    ("level of words", (N, S), {"level": "high"}, "level=high must lie in (0, 1)"),
    ("form", (N, S), {"form": "powr"}, f'form="powr" is unknown; choose from {FORMS}'),
    ("form of no name", (N, S), {"form": None}, f"form=None is unknown; choose from {FORMS}"),
    (
        "ci",
        (N, S),
        {"ci": "z"},
        'ci="z" is unknown; choose from None, auto, bootstrap, bootstrap_t, hc3, profile, t',
    ),
    (
        "robust",
        (N, S),
        {"robust": "ransac"},
        'robust="ransac" is unknown; choose from None, bisquare, huber, lad, theil_sen',
    ),
    (
        "robust with an interval",
        (N, S),
        {"robust": "huber", "ci": "t"},
        'ci="t" does not go with robust="huber", which has an interval of its own; pass ci="auto"',
    ),
    (
        "robust with weights",
        (N, S),
        {"robust": "theil_sen", "weights": N},
        'robust="theil_sen" takes neither se= nor weights=; use robust="huber", "bisquare" or "lad"',
    ),
    ("seed", (N, S), {"seed": 1.5}, "seed must be an integer >= 0, got 1.5"),
    (
        "resamples",
        (N, S),
        {"ci": "bootstrap", "n_boot": 39},
        "n_boot=39 is too few for a 95% interval; use at least 40",
    ),
    (
        "excluded budget",
        (N, S),
        {"exclude": [8, 9]},
        "exclude= names budgets that are not in n: 9; n has 1, 8, 64, 512",
    ),
    (
        "all but one excluded",
        (N, S),
        {"exclude": [1, 8, 64]},
        "the only point has n = 512; a law needs at least 2 distinct budgets",
    ),
]


@pytest.mark.parametrize(("data", "options", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_the_mistake_is_named(data: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError) as caught:
        fit_power_law(*data, **options)
    assert str(caught.value) == message
    assert isinstance(caught.value, TokscaleError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [["a", "b"], [1j, 2], np.ma.masked_array([1.0, 2.0], [False, True]), object()])
def test_what_cannot_be_read_as_numbers(value: Any) -> None:
    with pytest.raises(FitError, match=r"^score cannot be read as numbers: "):
        fit_power_law([1, 2], value)


def test_a_bad_point_may_be_excluded() -> None:
    fit = quiet([0, *N], [np.nan, *S], exclude=[0])
    assert fit.params == quiet(N, S).params and fit.excluded == (0.0,)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda fit: fit.budget_for(95),
            'budget_for(95): a fraction lies in (0, 1); for an absolute score pass of="score"',
        ),
        (
            lambda fit: fit.budget_for(1.0, of="max"),
            'budget_for(1.0): a fraction lies in (0, 1); for an absolute score pass of="score"',
        ),
        (
            lambda fit: fit.budget_for(-3, of="score"),
            'budget_for(-3, of="score"): form="power" takes scores above 0 only',
        ),
        (lambda fit: fit.budget_for("most"), "budget_for('most'): the target must be a number"),
        (lambda fit: fit.budget_for(0.9, of="best"), 'of="best" is unknown; choose from asymptote, full, max, score'),
        (lambda fit: fit.budget_for(0.9, level=95), "level=95 must lie in (0, 1); did you mean 0.95?"),
        (
            lambda fit: fit.skill_vs_baseline(8),
            'holdout_from=8 leaves 1 budget to fit; form="power" needs 3',
        ),
        (
            lambda fit: fit.skill_vs_baseline(),
            'holdout_from=8 leaves 1 budget to fit; form="power" needs 3',
        ),
        (
            lambda fit: fit.skill_vs_baseline(1000),
            "holdout_from=1000 leaves no budget to predict; the largest is 512",
        ),
        (lambda fit: fit(0), "n must be positive, got 0"),
        (lambda fit: fit([1, -2]), "n must be positive, got -2 at index [1]"),
        (lambda fit: fit([1, np.nan]), "n is not finite at index [1]"),
        (lambda fit: fit.interval(8, kind="both"), 'kind="both" is unknown; choose from mean, new'),
        (lambda fit: fit.marginal(8, step="triple"), 'step="triple" is unknown; choose from double'),
        (
            lambda fit: fit.optimal_budget(float),
            "optimal_budget takes either weight= (score per unit of cost) or max_cost=, and just one of them",
        ),
        (
            lambda fit: fit.optimal_budget(float, weight=-1),
            "weight=-1 must be a finite number >= 0",
        ),
        (
            lambda fit: fit.optimal_budget(float, max_cost=0.5),
            "max_cost=0.5 is below the least cost, 1 at n = 1",
        ),
        (
            lambda fit: fit.optimal_budget(lambda n: np.nan, weight=1),
            "cost(1) is nan; a cost must be a finite number",
        ),
        (
            lambda fit: fit.optimal_budget(float, weight=1, n_max=0),
            "n_max must be an integer >= 1, got 0",
        ),
    ],
)
def test_a_question_the_fit_does_not_take(ask: Any, message: str) -> None:
    with pytest.raises(FitError) as caught:
        ask(quiet(N, S))
    assert str(caught.value) == message


def test_a_form_without_a_constant_exponent_says_where_it_is() -> None:
    data = quiet(N, S).to_dict() | {"params": {"a": 1.0, "b": 2.0}}
    with pytest.raises(AttributeError, match=r"alpha_at\(n\) .* slope_at\(n\)"):
        _ = ScalingFit.from_dict(data).alpha


def test_what_from_dict_does_not_take() -> None:
    data = quiet(N, S).to_dict()
    for wrong, message in (
        ({**data, "schema": 2}, "from_dict reads what to_dict wrote with schema 1, got 2"),
        ([1], "from_dict reads what to_dict wrote with schema 1, got 'list'"),
        ({k: v for k, v in data.items() if k not in ("coef", "n")}, "from_dict misses n, coef"),
        ({**data, "form": "powr"}, f'form="powr" is unknown; choose from {FORMS}'),
    ):
        with pytest.raises(FitError) as caught:
            ScalingFit.from_dict(wrong)  # type: ignore[arg-type]
        assert str(caught.value) == message


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_many_curves_name_the_one_that_fails() -> None:
    for curves, message in (
        ({"a": (N, S)}, "fit_many needs at least 2 curves, got 1"),
        ({"a": (N, S), "b": ([1, 2], [1, -1])}, 'curve "b": form="power" takes the logarithm'),
        (
            {"a": (N, S), "b": ([1, 2], [1, 2])},
            'curve "b" has no standard error of the exponent to weigh it by (it is nan)',
        ),
        ({"a": (N, S), "b": (N, [3] * 4)}, 'curve "b" has no standard error of the exponent to weigh it by (it is 0)'),
    ):
        with pytest.raises(FitError) as caught:
            fit_many(curves)
        assert str(caught.value).startswith(message)
