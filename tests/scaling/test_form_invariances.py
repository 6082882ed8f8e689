"""What must not change a fit of any form: order, units, precision of the input, replicates written as weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.scaling import LAWS, ScalingFit

from .curves import BUDGETS, options, quiet, truth

forms = st.sampled_from(list(LAWS))
N = np.array(BUDGETS, float)


def few(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@st.composite
def curves(draw: Any, form: str) -> np.ndarray:
    """Scores of the form's example law with some noise, and never quite without: rounding is not what is compared."""
    e = np.array(draw(st.lists(st.floats(-2, 2, width=32), min_size=len(N), max_size=len(N))))
    return truth(form) * np.exp(0.02 * e + 0.005 * np.cos(2.3 * np.arange(len(N)) ** 2))


def close(one: dict[str, float], other: dict[str, float], **tolerance: float) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, **tolerance), name


@few(60)
@given(st.data(), forms, st.integers(0, 2**32 - 1), st.sampled_from(["plain", "weights", "se", "bootstrap"]))
def test_a_permutation_changes_no_bit(data: Any, form: str, seed: int, kind: str) -> None:
    score, order = data.draw(curves(form)), np.random.default_rng(seed).permutation(len(N))
    n = N.copy()
    n[3] = n[4]  # a replicate
    per_point = {"weights": np.arange(1.0, 11), "se": np.linspace(0.1, 0.3, 10)}.get(kind)
    law, more, moved = LAWS[form], {}, {}
    if law.counted:
        more, moved = {"n_items": 100 * np.arange(1, 11)}, {"n_items": 100 * np.arange(1, 11)[order]}
    elif per_point is not None:
        more, moved = {kind: per_point}, {kind: per_point[order]}
    elif kind == "bootstrap":
        more = moved = {"ci": "bootstrap", "n_boot": 60}
    one, other = quiet(n, score, **options(form) | more), quiet(n[order], score[order], **options(form) | moved)
    a, b = one.to_dict(), other.to_dict()
    for name, value in list(a.items()):
        if isinstance(value, list) and len(value) == len(N) and name != "excluded":
            assert [value[i] for i in order] == b.pop(name), name
            del a[name]
    assert sorted(order[b.pop("outliers")]) == a.pop("outliers")
    assert a == b
    assert repr(one.budget_for(0.9)) == repr(other.budget_for(0.9))
    assert repr(one.interval([3.0, 900.0])) == repr(other.interval([3.0, 900.0]))


@few(40)
@given(st.data(), forms.filter(lambda form: not LAWS[form].counted), st.sampled_from([0.01, 0.37, 8.0, 1000.0]))
def test_the_unit_of_the_score(data: Any, form: str, s: float) -> None:
    """It scales what is a score, and nothing else: a, b and s1 in the score's space, c, the curve, its intervals."""
    score, law = data.draw(curves(form)), LAWS[form]
    bounds = {"floor": 0.0, "ceil": 100 * s} if law.bounded else {}
    one, other = quiet(N, score, **options(form)), quiet(N, s * score, **options(form) | bounds)
    scales = ("c",) if law.logarithmic else () if law.bounded else ("a", "b", "s1", "c", "asymptote")
    close({k: v * s if k in scales else v for k, v in one.optimum.items()}, other.optimum, rel=1e-6, abs=1e-9 * s)
    for name, ends in one.ci.items():
        unit = s if name in scales else 1.0
        assert other.ci[name] == pytest.approx(tuple(unit * e for e in ends), rel=1e-5, abs=1e-7 * unit, nan_ok=True)
    assert other.identified == one.identified and other.at_bound == one.at_bound
    assert other(50) == pytest.approx(s * one(50), rel=1e-9)
    for kind in ("mean", "new"):
        assert other.interval(50, kind=kind) == pytest.approx(tuple(s * e for e in one.interval(50, kind=kind)))
    a, b = one.budget_for(0.9), other.budget_for(0.9)
    assert (b.exact, b.lo, b.hi) == pytest.approx((a.exact, a.lo, a.hi), rel=1e-5, nan_ok=True)
    assert other.aicc == pytest.approx(one.aicc + 2 * len(N) * math.log(s), rel=1e-8, abs=1e-6)


@few(30)
@given(st.data(), st.sampled_from(["power_additive", "loglinear", "saturating"]), st.integers(-30, 30))
def test_powers_of_two_scale_without_rounding(data: Any, form: str, power: int) -> None:
    score = data.draw(curves(form))
    one, other = quiet(N, score, form=form), quiet(N, 2.0**power * score, form=form)
    assert other.theta == one.theta and other.coef == tuple(2.0**power * b for b in one.coef)
    assert other.interval(40) == tuple(2.0**power * end for end in one.interval(40))


@few(40)
@given(st.data(), forms, st.sampled_from([0.25, 0.7, 3.0]))
def test_the_unit_of_the_budget(data: Any, form: str, k: float) -> None:
    """The curve is the same over the other unit, and so are its intervals; budgets scale."""
    score = data.draw(curves(form))
    one, other = quiet(N, score, **options(form)), quiet(k * N, score, **options(form))
    assert other.rss == pytest.approx(one.rss, rel=1e-7, abs=1e-25)
    np.testing.assert_allclose(other(k * N), one(N), rtol=1e-6)
    assert other.interval(k * 50) == pytest.approx(one.interval(50), rel=1e-5)
    a, b = one.budget_for(0.9), other.budget_for(0.9)
    assert (b.exact, b.lo, b.hi) == pytest.approx((k * a.exact, k * a.lo, k * a.hi), rel=1e-4, nan_ok=True)
    for name in {"alpha", "p1", "p2", "beta", "g"} & set(one.optimum):
        assert other.optimum[name] == pytest.approx(one.optimum[name], rel=1e-4, abs=1e-6)
    for name in {"d", "n_balance"} & set(one.optimum):
        assert other.optimum[name] == pytest.approx(k * one.optimum[name], rel=1e-3, abs=1e-6)
    assert other.asymptote == pytest.approx(one.asymptote, rel=1e-5)


@few(40)
@given(st.data(), forms, st.lists(st.integers(1, 3), min_size=10, max_size=10))
def test_replicates_are_weights(data: Any, form: str, counts: list[int]) -> None:
    score, law = data.draw(curves(form)), LAWS[form]
    times = np.array(counts)
    by_weight = {"n_items": 100 * times} if law.counted else {"weights": times}
    by_points = {"n_items": 100} if law.counted else {}
    one = quiet(N, score, **options(form) | by_weight)
    other = quiet(np.repeat(N, times), np.repeat(score, times), **options(form) | by_points)
    close(one.optimum, other.optimum, rel=1e-6, abs=1e-9)
    assert other.rss == pytest.approx(one.rss, rel=1e-8, abs=1e-22) and other.n_obs == times.sum()
    np.testing.assert_allclose(other(N), one(N), rtol=1e-8)


@few(20)
@given(st.data(), forms)
def test_weights_matter_only_in_proportion(data: Any, form: str) -> None:
    score, weights = data.draw(curves(form)), np.linspace(1, 3, 10)
    if LAWS[form].counted:
        return
    one, other = (quiet(N, score, **options(form), weights=w) for w in (weights, 1000 * weights))
    close(one.optimum, other.optimum, rel=1e-7, abs=1e-9)
    for ask in (lambda fit: fit.aicc, lambda fit: fit.interval(900, kind="new"), lambda fit: fit.loo_rmse):
        assert ask(other) == pytest.approx(ask(one), rel=1e-6)
    assert other.identified == one.identified and other.outliers == one.outliers


@pytest.mark.parametrize("form", list(LAWS))
@pytest.mark.parametrize("kind", ["float32", "int", "list", "tensor"])
def test_any_kind_of_numbers(form: str, kind: str) -> None:
    score = np.round(truth(form)) + np.array([0, 1] * 5)
    plain = quiet(N, score, **options(form))
    if kind == "tensor":
        import torch

        given_: tuple[Any, Any] = torch.tensor(BUDGETS), torch.tensor(score, dtype=torch.float32)
    elif kind == "list":
        given_ = BUDGETS, score.tolist()
    else:
        given_ = N.astype(kind), score.astype(kind)
    assert quiet(*given_, **options(form)).to_dict() == plain.to_dict()


@pytest.mark.parametrize("form", list(LAWS))
def test_what_is_given_is_not_changed(form: str) -> None:
    n, score, items = N[::-1].copy(), truth(form)[::-1].copy(), np.full(10, 1000.0)
    copies = [v.copy() for v in (n, score, items)]
    fit = quiet(n, score, **options(form) | {"n_items": items, "floor": 0.0, "ceil": 100.0})
    for now, before in zip((n, score, items), copies):
        np.testing.assert_array_equal(now, before)
    np.testing.assert_array_equal(fit.n, n)
    assert isinstance(fit, ScalingFit) and not fit.fitted.flags.writeable
