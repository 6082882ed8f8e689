"""A joint law at one size or budget, and the split of a cost between the two."""

# ruff: noqa: SIM300  - N and T are no constants here

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling.joint import JointFit, fit_joint_law

from .data import LOSSES, PRODUCT, N, T, issued, quiet

# Slices


def test_a_slice_is_the_curve_at_one_size() -> None:
    tokens = np.array([0.5, 1, 7, 40, 100])
    cases = [fit_joint_law(N, T, PRODUCT), fit_joint_law(N, T, PRODUCT, form="loglinear")]
    cases.append(quiet(N, T, PRODUCT, form="additive"))
    for fit in cases:
        for curve, at in (
            (fit.slice(N=3), lambda v, fit=fit: fit(3, v)),
            (fit.slice(T=9), lambda v, fit=fit: fit(v, 9)),
        ):
            np.testing.assert_allclose(curve(tokens), at(tokens), rtol=1e-13)
            assert isinstance(curve(8), float) and curve(tokens).shape == (5,)
            h = 1e-6
            slope = (np.log(at(tokens * math.exp(h))) - np.log(at(tokens * math.exp(-h)))) / (2 * h)
            np.testing.assert_allclose(curve.slope_at(tokens), slope, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(curve.marginal(tokens), at(2 * tokens) - at(tokens), rtol=1e-9)
            np.testing.assert_allclose(curve.marginal(tokens, 3), at(tokens + 3) - at(tokens), rtol=1e-9)
            assert curve.budget_for(float(at(10.0))) == pytest.approx(10, rel=1e-9)
    product, line, additive = cases
    assert product.slice(N=3).asymptote == product.params["D"] and line.slice(N=3).asymptote == -math.inf
    assert additive.slice(N=3).asymptote == pytest.approx(additive(3, 1e300))
    assert product.slice(N=3).over == "T" and product.slice(T=3).over == "N" and product.slice(T=3).held == 3


def test_what_a_slice_never_reaches() -> None:
    curve = fit_joint_law(N, T, PRODUCT).slice(N=4)
    with pytest.raises(FitError) as caught:
        curve.budget_for(0.1)
    lo, hi = curve(1), curve(576)
    assert str(caught.value) == (
        f"no T gives y = 0.1: the curve goes from {lo:.6g} to {hi:.6g} over the fitted T, and to 0.200024 as T grows"
    )
    far, near = curve(1200), curve(1100)
    assert issued(lambda: curve.budget_for(far)) == ["extrapolation: T = 1200 is 2.1 times the largest fitted T, 576"]
    assert issued(lambda: curve.budget_for(near)) == []
    low = curve(0.25)
    assert issued(lambda: curve.budget_for(low)) == [
        "extrapolation: T = 0.25 is 4.0 times below the smallest fitted T, 1"
    ]


# Splitting a cost


def brute(fit: JointFit, Q: float, cost: float, sign: float = 1.0) -> float:
    tokens = np.geomspace(1e-3, 1e5, 400001)
    return float(tokens[np.argmin(sign * fit(cost / (Q + tokens), tokens))])


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
@pytest.mark.parametrize(
    "options", [{"form": "product"}, {"form": "loglinear"}, *({"form": "additive", "loss": loss} for loss in LOSSES)]
)
@pytest.mark.parametrize("Q, cost", [(50.0, 300.0), (10.0, 80.0)])
def test_the_split_is_the_best_by_brute_force(options: dict[str, str], Q: float, cost: float) -> None:
    y = 0.2 + 0.3 * N**-0.35 + 0.15 * T**-0.2 if options["form"] == "additive" else PRODUCT
    fit = fit_joint_law(N, T, y, **options)
    best = fit.allocate(Q, cost=cost)
    assert best.interior and best.T == pytest.approx(brute(fit, Q, cost), rel=1e-4)
    assert best.N * (Q + best.T) == pytest.approx(cost, rel=1e-12) and best.y == fit(best.N, best.T)
    if options["form"] == "product":
        a, b = fit.params["a"], fit.params["b"]
        assert best.T == pytest.approx(Q * b / (a - b), rel=1e-12)
        free = fit.allocate(Q)
        assert free.T == best.T and math.isnan(free.N) and math.isnan(free.y) and free.cost is None
    held = fit.allocate(Q, cost=cost, T_max=best.T / 2)
    assert held.T == best.T / 2 and not held.interior and held.y > best.y
    held = fit.allocate(Q, cost=cost, T_min=best.T * 2)
    assert held.T == best.T * 2 and not held.interior and held.y > best.y
    held = fit.allocate(Q, cost=cost, N_min=best.N * 1.2)
    assert held.N == pytest.approx(best.N * 1.2) and not held.interior and held.y > best.y


def test_scores_are_maximised() -> None:
    score = 40 * N**0.3 * T**0.1
    fit = quiet(N, T, score)
    best = fit.allocate(50, cost=300, goal="max")
    assert best.T == pytest.approx(25, rel=1e-6) and best.N == pytest.approx(4, rel=1e-6) and best.interior
    assert best.T == pytest.approx(brute(fit, 50, 300, -1.0), rel=1e-4)
    with pytest.raises(FitError) as caught:
        fit.allocate(50, cost=300)
    assert str(caught.value) == (
        'neither N nor T improves y by this law; is goal= the right way round? "min" is for errors, "max" for scores'
    )


def test_the_whole_budget_goes_to_tokens_where_they_bring_more() -> None:
    fit = fit_joint_law(N, T, 0.5 * N**-0.1 * T**-0.3 + 0.2)
    best = fit.allocate(50, cost=300)
    assert not best.interior and best.N == pytest.approx(0.5) and best.T == pytest.approx(300 / 0.5 - 50)
    assert fit.allocate(50, cost=300, N_min=2).T == pytest.approx(100)
    assert fit.allocate(50, cost=300, T_max=144).T == 144
    assert fit.allocate(50).T == math.inf
    assert fit.allocate(50).to_dict()["T"] == "inf" and fit.allocate(50).to_dict()["N"] == "nan"
    with pytest.raises(FitError) as caught:
        fit.allocate(50, cost=20)
    assert str(caught.value) == "cost=20 pays for no vision token: N (Q + T) is 25 at N = 0.5 and T = 0"
    with pytest.raises(FitError) as caught:
        fit.allocate(50, cost=30, T_min=20)
    assert str(caught.value) == "cost=30 leaves T = 10 at N = 0.5, below T_min=20"
    with pytest.raises(FitError) as caught:
        fit_joint_law(N, T, PRODUCT).allocate(50, cost=300, N_min=5, T_min=36)
    assert str(caught.value) == "cost=300 leaves T = 10 at N = 5, below T_min=36"


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_the_whole_budget_goes_to_size_where_tokens_bring_nothing() -> None:
    fit = fit_joint_law(N, T, 0.5 * N**-0.3 * T**0.05 + 0.2)
    best = fit.allocate(50, cost=300)
    assert best.T == 1 and best.N == pytest.approx(300 / 51) and not best.interior
    assert fit.allocate(50, cost=300, T_min=36).T == 36
    assert fit_joint_law(N, T, PRODUCT).allocate(0, cost=20).T == 1  # no text: each token costs as much as the first


def test_splits_that_a_law_cannot_give() -> None:
    fit = fit_joint_law(N, T, 0.2 + 0.3 * N**-0.35 + 0.15 * T**-0.2, form="additive")
    with pytest.raises(FitError) as caught:
        fit.allocate(50)
    assert str(caught.value) == 'form="additive": the best split depends on the cost; pass cost='
    with pytest.raises(FitError, match=r"^neither N nor T improves y by this law"):
        fit.allocate(50, cost=300, goal="max")
    rising = quiet(N, T, 0.3 * N**0.35 + 0.15 * T**-0.2, form="additive", loss="log_mse")
    with pytest.raises(FitError) as caught:
        rising.allocate(50, cost=300)
    assert str(caught.value).startswith('form="additive" splits a cost where both exponents are above 0, but a = -0.35')


def test_a_split_far_from_the_data_warns() -> None:
    fit = fit_joint_law(N, T, PRODUCT)
    (text,) = issued(lambda: fit.allocate(50, cost=3000))
    assert text == "extrapolation: N = 40.0233 is 5.7 times the largest fitted N, 7"
    assert quiet_allocate(fit, 50, cost=3000).warnings == (text,)


def quiet_allocate(fit: JointFit, *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit.allocate(*args, **options)
