"""What must not change a fit: units, order, precision of the input, replicates written as weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.scaling import ScalingFit

from .curves import BUDGETS, CURVES, OCRBENCH, quiet

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@st.composite
def curves(draw: Any, least: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Budgets up to a thousand, three of them distinct, and scores that a law and some noise give."""
    n = draw(st.lists(st.integers(1, 1000), min_size=least, max_size=12).filter(lambda v: len(set(v)) >= 3))
    noise = draw(st.lists(st.floats(-0.5, 0.5, width=32), min_size=len(n), max_size=len(n)))
    p = draw(st.floats(-0.5, 0.8))
    n_array = np.array(n, float)
    return n_array, 10 * n_array**p * np.exp(noise)


def bits(fit: ScalingFit) -> dict[str, Any]:
    return fit.to_dict()


@quick
@given(curves(), st.integers(0, 2**32 - 1), st.sampled_from(["t", "hc3", "bootstrap_t", "bootstrap"]))
def test_a_permutation_changes_no_bit(data: Any, seed: int, ci: str) -> None:
    n, score = data
    order = np.random.default_rng(seed).permutation(len(n))
    weights = np.arange(1, len(n) + 1)
    options = {"ci": ci, "n_boot": 60}
    one = bits(quiet(n, score, weights=weights, **options))
    other = bits(quiet(n[order], score[order], weights=weights[order], **options))
    for name in ("n", "score", "weights", "fitted", "residuals", "leverage", "studentized"):
        assert [one[name][i] for i in order] == other.pop(name)
        del one[name]
    assert sorted(order[other.pop("outliers")]) == one.pop("outliers")
    assert one == other


@quick
@given(curves(), st.sampled_from(["theil_sen", "huber", "bisquare", "lad"]))
def test_a_permutation_changes_no_bit_of_a_robust_line(data: Any, robust: str) -> None:
    n, score = data
    one, other = quiet(n, score, robust=robust), quiet(n[::-1], score[::-1], robust=robust)
    assert one.coef == other.coef and repr(one.ci) == repr(other.ci)


@quick
@given(curves(), st.floats(1e-3, 1e3))
def test_the_unit_of_the_score_scales_c_only(data: Any, s: float) -> None:
    n, score = data
    one, other = quiet(n, score), quiet(n, score * s)
    # rounding of ln S, amplified by the design: c is extrapolated from the mean of ln n to ln n = 0
    tight = {"rel": 1e-9, "abs": 1e-9}
    assert other.alpha == pytest.approx(one.alpha, **tight)
    assert other.c == pytest.approx(one.c * s, rel=1e-8)
    assert other.ci["alpha"] == pytest.approx(one.ci["alpha"], **tight)
    assert other.ci["c"] == pytest.approx(tuple(s * end for end in one.ci["c"]), rel=1e-7)


@quick
@given(curves(), st.floats(0.1, 10))
def test_the_unit_of_the_budget_changes_c_by_its_power(data: Any, k: float) -> None:
    n, score = data
    one, other = quiet(n, score), quiet(n * k, score)
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9, abs=1e-9)
    assert other.c == pytest.approx(one.c * k**one.alpha, rel=1e-7)
    assert other.interval(5 * k) == pytest.approx(one.interval(5), rel=1e-7)


@quick
@given(curves(), st.lists(st.integers(1, 3), min_size=12, max_size=12))
def test_replicates_are_weights(data: Any, counts: list[int]) -> None:
    n, score = data
    times = np.array(counts[: len(n)])
    weighted = quiet(n, score, weights=times)
    repeated = quiet(np.repeat(n, times), np.repeat(score, times))
    assert weighted.alpha == pytest.approx(repeated.alpha, rel=1e-9, abs=1e-9)
    assert weighted.c == pytest.approx(repeated.c, rel=1e-8)
    assert weighted.rss == pytest.approx(repeated.rss, rel=1e-8, abs=1e-14)


@quick
@given(curves(least=5))
def test_leave_one_out_is_what_refits_give(data: Any) -> None:
    n, score = data
    fit = quiet(n, score)
    errors = []
    for i in range(len(n)):
        keep = np.arange(len(n)) != i
        if len(np.unique(n[keep])) < 2:
            return
        part = quiet(n[keep], score[keep])
        errors.append(score[i] - part(n[i]))
    # e / (1 - h) loses digits where a point all but decides the fit
    loss = 1e-10 / (1 - fit.leverage.max())
    assert fit.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=loss, abs=1e-10)


def test_leave_one_out_of_the_paper_curves_to_ten_digits() -> None:
    for n, score in CURVES.values():
        fit = quiet(n, score)
        errors = [s - quiet(n[:i] + n[i + 1 :], score[:i] + score[i + 1 :])(n[i]) for i, s in enumerate(score)]
        assert fit.loo_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-10)


def test_weights_matter_only_in_proportion() -> None:
    weights = np.arange(1.0, 11)
    one, other = (quiet(BUDGETS, OCRBENCH, weights=w) for w in (weights, 1000 * weights))
    for ask in (
        lambda fit: fit.params["alpha"],
        lambda fit: fit.ci["alpha"],
        lambda fit: fit.interval(1000, kind="new"),
        lambda fit: fit.aicc,
        lambda fit: fit(64, mean=True),
        lambda fit: fit.budget_for(0.9, of="max").hi,
    ):
        assert ask(other) == pytest.approx(ask(one), rel=1e-10)


def test_standard_errors_are_weights() -> None:
    se = np.linspace(5, 20, 10)
    by_se = quiet(BUDGETS, OCRBENCH, se=se)
    by_weight = quiet(BUDGETS, OCRBENCH, weights=(np.array(OCRBENCH) / se) ** 2)
    assert by_se.coef == pytest.approx(by_weight.coef, rel=1e-13)
    assert by_se.chi2_dof == pytest.approx(np.sum(((OCRBENCH - by_se.fitted) / se) ** 2) / 8)
    assert by_weight.chi2_dof is None


@pytest.mark.parametrize("kind", ["float32", "int", "list", "tensor"])
def test_any_kind_of_numbers(kind: str) -> None:
    if kind == "tensor":
        import torch

        n, score = torch.tensor(BUDGETS), torch.tensor(OCRBENCH, dtype=torch.float32)
    elif kind == "list":
        n, score = BUDGETS, OCRBENCH
    else:
        n, score = np.array(BUDGETS, kind), np.array(OCRBENCH, kind)
    assert bits(quiet(n, score)) == bits(quiet(np.array(BUDGETS, float), np.array(OCRBENCH, float)))


@quick
@given(curves())
def test_a_fit_that_warns_and_one_that_does_not_compute_alike(data: Any) -> None:
    """Nothing but `ScalingFitWarning` comes out of any data: `quiet` lets no other warning pass."""
    fit = quiet(*data)
    assert np.isfinite(fit.alpha) and fit.ci["alpha"][0] <= fit.alpha <= fit.ci["alpha"][1]
    assert fit.ci["c"][0] <= fit.c <= fit.ci["c"][1]
    lo, hi = fit.interval(8)
    wide = fit.interval(8, kind="new")
    assert wide[0] <= lo <= fit(8) * (1 + 1e-12) and fit(8) * (1 - 1e-12) <= hi <= wide[1]
    narrow = fit.interval(8, level=0.5)
    assert lo <= narrow[0] and narrow[1] <= hi
