"""Every form in the table: its link, its basis and its parameters agree with one another."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokscale.scaling import LAWS, Law

from .curves import BUDGETS, FORMULAS, options, quiet, truth

forms = pytest.mark.parametrize("law", list(LAWS.values()), ids=list(LAWS))
FLOOR, CEIL = 0.0, 100.0
SCORES = np.array([3.0, 17.5, 42.0, 80.0, 99.0])
STEP = 1e-5  # central differences: error of order STEP**2


@forms
def test_the_inverse_undoes_the_link(law: Law) -> None:
    z = law.link(SCORES, FLOOR, CEIL)
    np.testing.assert_allclose(law.inverse(z, FLOOR, CEIL), SCORES, rtol=1e-13)


@forms
def test_the_jacobian_is_the_slope_of_the_link(law: Law) -> None:
    h = STEP * np.minimum(SCORES, CEIL - SCORES)
    numeric = (law.link(SCORES + h, FLOOR, CEIL) - law.link(SCORES - h, FLOOR, CEIL)) / (2 * h)
    np.testing.assert_allclose(law.link_slope(SCORES, FLOOR, CEIL), numeric, rtol=1e-7)
    np.testing.assert_allclose(law.log_jacobian(SCORES, FLOOR, CEIL), np.log(np.abs(numeric)), rtol=1e-7, atol=1e-7)


def thetas(law: Law) -> list[float]:
    """Return places inside and near the ends of the range of theta; 0.0 for a form without one."""
    if law.theta is None:
        return [0.0]
    grid = law.theta.grid(np.log(BUDGETS))
    return [float(t) for t in (*grid[[1, len(grid) // 3, len(grid) // 2, -2]], law.theta.flat) if np.isfinite(t)]


def numeric_slope(ask: Callable[[float], Any], at: float, step: float = STEP) -> Any:
    return (ask(at + step) - ask(at - step)) / (2 * step)


@forms
def test_the_slopes_of_the_basis(law: Law) -> None:
    log_n = np.log([1.5, 8.0, 300.0])
    for theta in thetas(law):
        numeric = numeric_slope(lambda t, theta=theta: law.basis(log_n + t, 2.0, theta), 0.0)
        unit = 1e-8 * np.max(np.abs(numeric))
        np.testing.assert_allclose(law.basis_slope(log_n, 2.0, theta), numeric, rtol=1e-7, atol=unit)
        if law.theta is not None:
            step = STEP * max(1.0, abs(theta))
            numeric = numeric_slope(lambda t: law.basis(log_n, 2.0, t), theta, step)
            unit = 1e-7 * np.max(np.abs(numeric))
            np.testing.assert_allclose(law.theta.basis_slope(log_n, 2.0, theta), numeric, rtol=1e-7, atol=unit)


@forms
def test_the_basis_takes_many_places_and_thetas_at_once(law: Law) -> None:
    """The same bits as one at a time, for every function of `(log_n, center, theta)`."""
    log_n, many = np.log([1.5, 8.0, 300.0]), np.array(thetas(law))
    for ask in (law.basis, law.basis_slope, *([] if law.theta is None else [law.theta.basis_slope])):
        block = np.broadcast_arrays(ask(log_n, 2.0, many[:, None]), np.zeros((len(many), 3, 1)))[0]
        for i, theta in enumerate(many):
            for j, place in enumerate(log_n):
                np.testing.assert_array_equal(block[i, j], ask(place, 2.0, theta))


@forms
def test_the_named_parameters_have_the_derivative_they_claim(law: Law) -> None:
    for theta in thetas(law):
        for f in law.parameters.values():
            assert f.vector(2.0, np.array(theta)).shape == law.basis(np.array(0.0), 2.0, theta).shape
            if law.theta is None:
                continue
            step = STEP * max(1.0, abs(theta))
            numeric = numeric_slope(lambda t, f=f: f.vector(2.0, np.array(t)), theta, step)
            claimed = 0.0 if f.vector_slope is None else f.vector_slope(2.0, np.array(theta))
            np.testing.assert_allclose(claimed + 0 * numeric, numeric, rtol=1e-7, atol=1e-9)
    for f in law.parameters.values():
        for v in (-0.7, 0.4):
            assert f.scale(v) == pytest.approx(abs(numeric_slope(f.value, v)), rel=1e-8)
        assert f.interval(-0.7, 0.4)[0] < f.interval(-0.7, 0.4)[1]
    if law.theta is not None:
        assert law.theta.scale(0.4) == pytest.approx(abs(numeric_slope(law.theta.value, 0.4)), rel=1e-8)


@forms
def test_the_named_parameters_are_what_the_formula_says(law: Law) -> None:
    """Coefficients at another centre, or the curve written out with the named parameters, are the same curve."""
    n = np.array([1.0, 3.0, 70.0])
    coef = {1: [4.0], 2: [0.5, 0.3], 3: [0.5, 0.3, -0.2]}[len(law.basis(np.array(0.0), 0.0, 1.0))]
    for theta in thetas(law):
        b = np.array(coef)
        named = {k: f.value(float(f.vector(0.7, np.array(theta)) @ b)) for k, f in law.parameters.items()}
        if law.theta is not None:
            named[law.theta.name] = law.theta.value(theta)
        predicted = law.predict(b, 0.7 if law.form != "regime" else 0.0, theta, n, FLOOR, CEIL)
        np.testing.assert_allclose(predicted, FORMULAS[law.form](n, **named), rtol=1e-11)


@forms
def test_standard_errors_are_weights_in_the_fitted_space(law: Law) -> None:
    """Weights `1 / (se |dlink/dS|)^2` at the scores, whatever the slope of the link."""
    if law.counted:
        return
    score, se = truth(law.form) * (1 + 0.01 * np.cos(np.arange(10.0) ** 2)), np.linspace(0.2, 1, 10)
    by_se = quiet(BUDGETS, score, **options(law.form), se=se)
    slope = np.abs(law.link_slope(score, FLOOR, CEIL))
    by_weight = quiet(BUDGETS, score, **options(law.form), weights=1 / (se * slope) ** 2)
    np.testing.assert_allclose(by_se.weights, by_weight.weights, rtol=1e-12)
    assert by_se.coef == pytest.approx(by_weight.coef, rel=1e-9) and by_se.aicc == pytest.approx(by_weight.aicc)
    chi2 = np.sum((by_se.residuals / se) ** 2) / by_se.dof
    assert by_se.chi2_dof == pytest.approx(chi2) and by_se.birge == pytest.approx(max(1.0, chi2**0.5))
    assert by_weight.chi2_dof is None and by_weight.birge is None
    counted = quiet(BUDGETS, score, **options(law.form), n_items=400)
    assert counted.coef == quiet(BUDGETS, score, **options(law.form)).coef  # the errors of the items do not weigh
    u = score / 100
    np.testing.assert_allclose(counted.score_se, 100 * np.sqrt(u * (1 - u) / 400))


@forms
def test_many_replicates_take_little_memory(law: Law) -> None:
    """Leave-one-out and bootstrap of 200 points: all searches at once would take several times as much."""
    import tracemalloc

    n = np.repeat(BUDGETS, 20)
    score = truth(law.form, n) * (1 + 0.01 * np.cos(np.arange(200.0) ** 2))
    tracemalloc.start()
    fit = quiet(n, score, **options(law.form), ci="auto" if law.counted else "bootstrap", n_boot=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6 and fit.loo_rmse == pytest.approx(np.sqrt(np.mean(fit.residuals**2)), rel=0.02)


@forms
def test_a_law_is_copied_and_pickled_by_its_name(law: Law) -> None:
    assert copy.deepcopy(law) is law
    assert pickle.loads(pickle.dumps(law)) is law


def test_noise_free_power_data_give_their_parameters_back() -> None:
    fit = quiet(BUDGETS, 12 * np.array(BUDGETS) ** 0.237)
    assert fit.c == pytest.approx(12, rel=1e-9) and fit.alpha == pytest.approx(-0.237, rel=1e-9)
    assert fit.sigma < 1e-12
    assert fit.ci["alpha"] == pytest.approx((-0.237, -0.237), rel=1e-9)
    assert fit.ci["c"] == pytest.approx((12, 12), rel=1e-9)
    assert fit.outliers == () and np.all(np.isnan(fit.studentized))
    assert fit.budget_for(0.95).exact == pytest.approx(768 * 0.95 ** (1 / 0.237), rel=1e-9)


def test_what_the_fit_predicts() -> None:
    fit = quiet(BUDGETS, 12 * np.array(BUDGETS) ** 0.237)
    assert isinstance(fit(8), float) and fit(8) == fit([8, 16])[0]
    assert fit(np.ones((2, 3))).shape == (2, 3)
    np.testing.assert_allclose(fit.alpha_at([1, 2, 50]), -0.237, rtol=1e-9)
    np.testing.assert_allclose(fit.slope_at([1, 2, 50]), 0.237, rtol=1e-9)
    assert fit.marginal(64) == pytest.approx(fit(64) * (2**0.237 - 1), rel=1e-9)
    assert fit.marginal(64, step=8) == pytest.approx(fit(72) - fit(64))
    assert fit.asymptote == np.inf
    noisy = quiet([1, 8, 64, 512], [12, 22, 30, 55])
    assert noisy(64, mean=True) == pytest.approx(noisy(64) * np.exp(noisy.sigma**2 / 2))


def test_the_fields_speak_of_the_points_kept_in_the_order_given() -> None:
    n, score = [512, 1, 64, 8, 100], [52.0, 12.0, 33.0, 19.0, 1.0]
    fit = quiet(n, score, exclude=[100], weights=[1, 2, 3, 4, 5])
    assert fit.n.tolist() == [512, 1, 64, 8] and fit.weights.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(fit.residuals, fit.score - fit.fitted)
    np.testing.assert_allclose(fit.fitted, fit(fit.n), rtol=1e-14)
    assert fit.leverage.sum() == pytest.approx(2) and fit.excluded_points == ((100.0, 1.0),)
    assert fit.mae == pytest.approx(np.mean(np.abs(fit.residuals)))
    assert fit.mape == pytest.approx(np.mean(np.abs(fit.residuals / fit.score)))
    with pytest.raises(ValueError, match="read-only"):
        fit.n[0] = 3


def test_alpha_by_range_ends_with_the_fit() -> None:
    fit = quiet(*([1, 8, 8, 64, 512], [12, 22, 20, 30, 55]))
    ranges = fit.alpha_by_range()
    assert [r.n_max for r in ranges] == [64, 512]
    assert ranges[-1][1:] == (fit.alpha, *fit.ci["alpha"])
    part = quiet([1, 8, 8, 64], [12, 22, 20, 30])
    assert ranges[0][1:] == (part.alpha, *part.ci["alpha"])


def test_skill_beside_the_best_score_so_far() -> None:
    n = [1, 4, 16, 64, 256, 1024]
    growing = quiet(n, 10 * np.array(n) ** 0.2).skill_vs_baseline()
    assert growing.holdout_from == 64 and (growing.n_train, growing.n_test) == (3, 3)
    assert growing.skill == pytest.approx(1) and growing.mape < 1e-12
    best = 10 * 16**0.2
    truth = 10 * np.array([64, 256, 1024]) ** 0.2
    assert growing.baseline_mape == pytest.approx(np.mean((truth - best) / truth))
    assert quiet(n, [10, 12, 14, 14, 14, 14]).skill_vs_baseline().skill == -np.inf
    assert quiet(n, [7.0] * 6).skill_vs_baseline().mape < 1e-14  # exp(ln 7) is 7 to rounding


def test_scores_near_the_ends_of_the_float_range() -> None:
    """No numpy warning, and the law itself is right; squares on the score scale are infinite."""
    for scale in (1e-300, 1e299):
        fit = quiet(BUDGETS, scale * np.array(BUDGETS) ** 0.1, se=scale / 100)
        assert fit.exponent == pytest.approx(0.1, rel=1e-9) and np.all(np.isfinite(fit.ci["alpha"]))
        assert fit.budget_for(0.9).exact == pytest.approx(768 * 0.9**10, rel=1e-6)
        assert fit(8, mean=True) == pytest.approx(fit(8))
