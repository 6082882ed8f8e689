"""The published numbers, and noise-free data that give their parameters back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tokscale.scaling.joint import fit_joint_law

from .data import ADDITIVE, BIG_N, BIG_T, LOSSES, NO_D, PRODUCT, E, N, T, issued, quick, quiet

# The numbers of the specification


def test_product_with_a_constant() -> None:
    fit = fit_joint_law(N, T, PRODUCT)
    shown = {name: round(value, 6) for name, value in fit.params.items()}
    assert shown == {"A": 0.499768, "a": 0.300010, "b": 0.099887, "D": 0.200024}
    assert f"{fit.rss:.6e}" == "3.154843e-05" and fit.objective == fit.rss / 2
    assert fit.identified == dict.fromkeys("AabD", True) and fit.warnings == () and fit.n_obs == 28 and fit.dof == 24
    assert fit.rss == pytest.approx(float(np.sum((PRODUCT - fit(N, T)) ** 2)), rel=1e-12)
    D, rss = np.array(fit.profile_D).T
    assert D[0] == 0 and 0 < np.argmin(rss) < len(D) - 1 and D[-1] < PRODUCT.min() and np.all(np.diff(D) > 0)
    assert (fit.params["D"], fit.rss) == fit.profile_D[int(np.argmin(rss))]


def test_product_without_a_constant() -> None:
    text = "unidentified: D is not identified: the residuals grow with D from D = 0 on; D = 0 is used"
    assert issued(lambda: fit_joint_law(N, T, NO_D)) == [text]
    fit = quiet(N, T, NO_D)
    assert f"{fit.params['A']:.7f} {fit.params['a']:.8f} {fit.params['b']:.8f}" == "0.5998340 0.06998440 0.01492868"
    assert fit.params["D"] == 0 and fit.identified == {"A": True, "a": True, "b": True, "D": False}
    assert f"{fit.rss:.6e}" == "3.156783e-05" and fit.warnings == (text,) and fit.dof == 25
    assert fit.profile_D[0] == (0.0, pytest.approx(fit.rss, rel=1e-12))


def test_additive() -> None:
    huber = fit_joint_law(BIG_N, BIG_T, ADDITIVE, form="additive", loss="huber")
    assert f"{huber.objective:.9e}" == "1.462844773e-05"
    squares = fit_joint_law(BIG_N, BIG_T, ADDITIVE, form="additive", loss="log_mse")
    assert f"{squares.objective:.9e}" == "1.574179216e-05" and squares.rss == pytest.approx(2 * squares.objective)
    assert {k: round(squares.params[k], 7) for k in "Eab"} == {"E": 1.7980265, "a": 0.3375516, "b": 0.3598058}
    lad = fit_joint_law(BIG_N, BIG_T, ADDITIVE, form="additive", loss="lad")
    r = np.log(ADDITIVE / lad(BIG_N, BIG_T))
    assert lad.objective == pytest.approx(np.sum(np.abs(r)), rel=1e-9)
    assert np.sum(np.abs(r) < 1e-9) >= 5  # five parameters: the curve passes through five points
    for fit in (huber, squares, lad):
        assert all(fit.identified.values()) and fit.warnings == () and fit.profile_D == ()
    assert abs(huber.params["E"] / lad.params["E"] - 1) > 1e-3  # name the loss with every number


def test_the_summed_loss_is_the_minimum_of_its_neighbourhood() -> None:
    """An averaged loss stops early: the gradient tells."""
    fit = fit_joint_law(BIG_N, BIG_T, ADDITIVE, form="additive", loss="log_mse")

    def loss(**change: float) -> float:
        p = {k: v * math.exp(change.get(k, 0.0)) for k, v in fit.params.items()}
        y = p["E"] + p["A"] * BIG_N ** -p["a"] + p["B"] * BIG_T ** -p["b"]
        return float(np.sum(np.log(ADDITIVE / y) ** 2) / 2)

    for name in fit.params:
        up, down = loss(**{name: 1e-5}), loss(**{name: -1e-5})
        curvature = (up + down - 2 * loss()) / 1e-10
        assert abs(up - down) / 2e-5 < 1e-7 * curvature  # a Newton step of less than 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_least_absolute_deviations_are_optimal_by_a_linear_program(seed: int) -> None:
    noise = 0.01 * np.random.default_rng(seed).standard_t(3, size=28)
    y = (1 + 0.5 * N**-0.3 + 0.3 * T**-0.5) * np.exp(noise)
    fit = quiet(N, T, y, form="additive", loss="lad")
    p, yhat = fit.params, fit(N, T)
    u, v = p["A"] * N ** -p["a"] / yhat, p["B"] * T ** -p["b"] / yhat
    slopes = np.stack([p["E"] / yhat, u, v, -u * np.log(N), -v * np.log(T)], axis=1)
    r, eye = np.log(y / yhat), np.eye(28)
    best = linprog(
        np.r_[np.zeros(5), np.ones(28)],
        A_ub=np.block([[-slopes, -eye], [slopes, -eye]]),
        b_ub=np.r_[-r, r],
        bounds=[(-1e-4, 1e-4)] * 5 + [(0, None)] * 28,
    )
    assert best.fun >= fit.objective * (1 - 1e-7)


def test_a_narrow_huber_loss_is_the_least_absolute_one() -> None:
    data = (BIG_N, BIG_T, ADDITIVE)
    lad = fit_joint_law(*data, form="additive", loss="lad")
    narrow = fit_joint_law(*data, form="additive", loss="huber", delta=1e-8)
    assert narrow.objective / 1e-8 == pytest.approx(lad.objective, rel=1e-5)
    wide = fit_joint_law(*data, form="additive", loss="huber", delta=1.0)  # wider than every residual
    squares = fit_joint_law(*data, form="additive", loss="log_mse")
    assert wide.objective == pytest.approx(squares.objective, rel=1e-10)
    assert wide.params == pytest.approx(squares.params, rel=1e-6)


def test_a_free_constant_runs_away() -> None:
    """On curves that fall ever faster, D above every y, with negative exponents, leaves less: it is not taken."""
    y = 0.95 - 0.12 * N**0.45 * T**0.05 + E
    fit = quiet(N, T, y)
    assert fit.params["D"] == 0 and not fit.identified["D"] and fit.params["a"] > 0
    away = fit_joint_law(N, T, y, fix={"D": 1.02})
    assert away.rss < fit.rss / 5
    assert away.params["A"] < 0 and away.params["a"] < 0 and away.params["b"] < 0
    # within [0, min y) the residuals may also shrink to the very end
    steep = 0.3 + np.where(T == 1, 0.4, 0.0) * N**-0.2 + 1e-3 * E
    (text,) = issued(lambda: fit_joint_law(N, T, steep))
    least = f"{steep.min():.6g}"
    assert (
        text == f"unidentified: D is not identified: the residuals shrink until D reaches the least y, {least}; D = 0 "
        "is used"
    )


def test_the_f_test_decides() -> None:
    rough = 0.5 * N**-0.3 * T**-0.1 + 0.2 + 40 * E
    (text,) = issued(lambda: fit_joint_law(N, T, rough))
    assert text.startswith("unidentified: D is not identified: the law with D = 0.")
    assert text.endswith("; D = 0 is used") and " is no better than with D = 0 (F = " in text
    p = float(text.partition("p = ")[2].partition(")")[0])
    assert 0.05 < p < 1
    assert quiet(N, T, rough, level=1 - p * 1.02).identified["D"] is True
    assert quiet(N, T, rough, level=1 - p * 0.98).identified["D"] is False


# Noise-free data give their parameters back


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unit", [1.0, 1e9])
def test_noise_free_additive(loss: str, unit: float) -> None:
    truth = {"E": 0.7, "A": 0.4 * unit**0.34, "B": 0.9 * unit**0.21, "a": 0.34, "b": 0.21}
    y = truth["E"] + truth["A"] * (unit * N) ** -0.34 + truth["B"] * (unit * T) ** -0.21
    fit = fit_joint_law(unit * N, unit * T, y, form="additive", loss=loss)
    assert fit.params == pytest.approx(truth, rel=1e-6) and fit.warnings == ()
    assert fit.sigma < 1e-9


@quick
@given(st.floats(0.05, 1), st.floats(0.02, 1), st.floats(0.05, 2))
def test_noise_free_product_and_loglinear(a: float, b: float, D: float) -> None:
    fit = fit_joint_law(N, T, 0.5 * N**-a * T**-b + D)
    assert fit.params == pytest.approx({"A": 0.5, "a": a, "b": b, "D": D}, rel=1e-6) and fit.identified["D"]
    flat = fit_joint_law(N, T, 0.5 * N**-a * T**-b, fix={"D": 0})
    assert flat.params == pytest.approx({"A": 0.5, "a": a, "b": b, "D": 0}, rel=1e-9)
    line = fit_joint_law(N, T, D - a * np.log(N) + b * np.log(T), form="loglinear")
    assert line.params == pytest.approx({"a": D, "b": -a, "c": b}, rel=1e-9) and line.rss < 1e-25
    assert line.objective == line.rss / 2 and all(line.identified.values())


@quick
@given(st.floats(0.1, 0.8), st.floats(0.1, 0.8), st.sampled_from(LOSSES))
def test_noise_free_additive_exponents(a: float, b: float, loss: str) -> None:
    fit = quiet(N, T, 0.5 + 0.4 * N**-a + 0.6 * T**-b, form="additive", loss=loss)
    assert fit.params == pytest.approx({"E": 0.5, "A": 0.4, "B": 0.6, "a": a, "b": b}, rel=1e-6)


def test_loglinear_is_ordinary_least_squares() -> None:
    y = PRODUCT + 0.3 * E
    coef = np.linalg.lstsq(np.stack([np.ones(28), np.log(N), np.log(T)], axis=1), y, rcond=None)[0]
    fit = fit_joint_law(N, T, y, form="loglinear")
    assert list(fit.params.values()) == pytest.approx(coef.tolist(), rel=1e-10)
    assert list(fit_joint_law(N, T, -y, form="loglinear").params.values()) == pytest.approx((-coef).tolist(), rel=1e-10)
