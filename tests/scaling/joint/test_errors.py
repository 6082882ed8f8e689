"""Every mistake has one clear message."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError
from tokscale.scaling.joint import JointFit, fit_joint_law

from .data import PRODUCT, I, N, T

# Errors


@pytest.mark.parametrize(
    "data, options, text",
    [
        (
            (N, T[:9], PRODUCT),
            {},
            "N has shape (28,), T has shape (9,) and y has shape (28,); all must be one-dimensional and of equal "
            "length",
        ),
        (
            (N.reshape(4, 7),) * 3,
            {},
            "N has shape (4, 7), T has shape (4, 7) and y has shape (4, 7); all must be one-dimensional and of equal "
            "length",
        ),
        (([], [], []), {}, "there are no points to fit; a joint law needs at least 2 distinct N and 2 distinct T"),
        ((N, T, np.where(I == 3, np.nan, PRODUCT)), {}, "y is not finite at index [3]"),
        ((np.where(I == 3, np.inf, N), T, PRODUCT), {}, "N is not finite at index [3]"),
        ((np.where(I == 2, -1, N), T, PRODUCT), {}, "N must be positive, got -1 at index [2]"),
        (
            (N, np.where(I == 0, 0, T), PRODUCT),
            {},
            "T must be positive, got 0 at index [0]; to include a budget of no vision tokens count the text tokens too "
            "(T + text tokens)",
        ),
        (
            (N, T, np.where(I == 4, -0.5, PRODUCT)),
            {},
            'form="product" needs y above 0, got -0.5 at index [4]; use form="loglinear", or "additive" with '
            'loss="mse"',
        ),
        (
            (N, T, np.where(I == 4, 0, PRODUCT)),
            {"form": "additive", "loss": "huber"},
            'loss="huber" takes the logarithm of y, which is 0.0 at index [4]; use loss="mse"',
        ),
        (
            (np.full(28, 7), T, PRODUCT),
            {},
            'all 28 points have N = 7; form="product" needs at least 2 distinct N and 2 distinct T',
        ),
        (([7], [1], [1]), {}, 'the only point has N = 7; form="product" needs at least 2 distinct N and 2 distinct T'),
        (
            (N[:14], T[:14], PRODUCT[:14]),
            {"form": "additive"},
            'form="additive" needs at least 3 distinct N and 3 distinct T, got 2 and 7',
        ),
        (
            ([1, 2, 3, 3], [1, 2, 3, 1], [4, 3, 2, 1]),
            {"form": "additive"},
            'form="additive" has 5 parameters to fit and needs as many distinct (N, T), got 4',
        ),
        (
            ([1, 2, 4], [3, 12, 48], [4, 3, 2]),
            {},
            "ln T is a linear function of ln N at these points, so their exponents cannot be told apart; measure one "
            'size at another budget, or fix one: fix={"b": 0.1}',
        ),
        ((N, T, PRODUCT), {"form": "powr"}, 'form="powr" is unknown; choose from additive, loglinear, product'),
        ((N, T, PRODUCT), {"loss": "l2"}, 'loss="l2" is unknown; choose from huber, lad, log_mse, mse'),
        (
            (N, T, PRODUCT),
            {"loss": "huber"},
            'loss="huber" works with form="additive" only; form="product" takes loss="mse"',
        ),
        ((N, T, PRODUCT), {"delta": 0}, "delta must be a finite number above 0, got 0"),
        ((N, T, PRODUCT), {"delta": "x"}, "delta must be a finite number above 0, got 'x'"),
        ((N, T, PRODUCT), {"level": 95}, "level=95 must lie in (0, 1); did you mean 0.95?"),
        ((N, T, PRODUCT), {"fix": {"E": 1}}, 'fix="E" is unknown; choose from A, D, a, b'),
        ((N, T, PRODUCT), {"fix": 0.1}, 'fix= takes a dict such as {"D": 0.1}, got 0.1'),
        ((N, T, PRODUCT), {"fix": {"D": math.nan}}, 'fix["D"] must be a finite number, got nan'),
        ((N, T, PRODUCT), {"fix": {"D": None}}, 'fix["D"] must be a finite number, got None'),
        ((N, T, PRODUCT), {"fix": {"A": 0}}, 'fix["A"] must not be 0, which takes N and T out of the law'),
        (
            (N, T, PRODUCT),
            {"fix": {"E": -1}, "form": "additive", "loss": "lad"},
            'fix["E"] must be at least 0 with loss="lad", which fits ln y; got -1',
        ),
        (
            (N, T, PRODUCT),
            {"fix": {"B": 0}, "form": "additive"},
            'fix["B"] must not be 0, which takes T out of the law',
        ),
        (
            (N, T, PRODUCT),
            {"fix": {"b": 0}, "form": "additive"},
            'fix["b"] must not be 0, where its term is a constant like E',
        ),
        (
            (N, T, PRODUCT),
            {"fix": dict.fromkeys("abc", 1), "form": "loglinear"},
            "fix= sets every parameter of loglinear; leave at least one to fit",
        ),
    ],
)
def test_errors(data: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(FitError) as caught:
        fit_joint_law(*data, **options)
    assert str(caught.value) == text


def test_text_for_numbers_is_refused() -> None:
    with pytest.raises(FitError, match=r"^T cannot be read as numbers: "):
        fit_joint_law(N, ["a"] * 28, PRODUCT)


def test_questions_are_checked() -> None:
    fit = fit_joint_law(N, T, PRODUCT)
    for ask, text in (
        (lambda: fit(0, 1), "N must be positive, got 0"),
        (lambda: fit([1, 2], [1, 0]), "T must be positive, got 0 at index [1]"),
        (lambda: fit(1, math.nan), "T is not finite at index [0]"),
        (lambda: fit([1, 2], [1, 2, 3]), "N of shape (2,) and T of shape (3,) do not broadcast"),
        (lambda: fit.slice(), "slice takes either N= (a curve over T) or T= (a curve over N), and just one of them"),
        (
            lambda: fit.slice(N=1, T=1),
            "slice takes either N= (a curve over T) or T= (a curve over N), and just one of them",
        ),
        (lambda: fit.slice(N=[1, 2]), "slice takes one N, got shape (2,)"),
        (lambda: fit.slice(N=4).marginal(1, "half"), 'step="half" is unknown; choose from double, or a number'),
        (lambda: fit.slice(N=4).budget_for(math.nan), "budget_for(nan): the target must be a finite number"),
        (lambda: fit.allocate(-1), "text_tokens must be a finite number of at least 0, got -1"),
        (lambda: fit.allocate(50, cost=0), "cost must be a finite number above 0, got 0"),
        (lambda: fit.allocate(50, T_max=math.inf), "T_max must be a finite number above 0, got inf"),
        (lambda: fit.allocate(50, T_min=9, T_max=4), "T_min=9 is above T_max=4"),
        (lambda: fit.allocate(50, goal="up"), 'goal="up" is unknown; choose from max, min'),
        (lambda: JointFit.from_dict({}), "from_dict reads what to_dict wrote with schema 1, got None"),
        (
            lambda: JointFit.from_dict({"schema": 1, **fit.to_dict(), "form": "x"}),
            'form="x" is unknown; choose from additive, loglinear, product',
        ),
    ):
        with pytest.raises(FitError) as caught:
            ask()
        assert str(caught.value) == text
    data = fit.to_dict()
    del data["rss"], data["level"]
    with pytest.raises(FitError, match=r"^from_dict misses rss, level$"):
        JointFit.from_dict(data)
