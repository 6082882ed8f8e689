"""What must not change a fit; saving, loading, telling."""

from __future__ import annotations

import copy
import doctest
import importlib
import json
import math
import pickle
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokscale.scaling.joint import JointFit, fit_joint_law

from .data import ADDITIVE, BIG_N, BIG_T, LOSSES, NO_D, PRODUCT, N, T, quick, quiet

# What must not change a fit

OPTIONS = [{"form": "product"}, {"form": "loglinear"}, *({"form": "additive", "loss": loss} for loss in LOSSES)]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_permutation_changes_no_bit(options: dict[str, str]) -> None:
    y = PRODUCT.copy()
    y[5] *= 1.05
    one = quiet(N, T, y, **options).to_dict()
    order = np.random.default_rng(0).permutation(28)
    other = quiet(N[order], T[order], y[order], **options).to_dict()
    for name in ("N", "T", "y", "fitted", "residuals"):
        values = one.pop(name)
        assert [values[i] for i in order] == other.pop(name)
    assert one == other


@quick
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.sampled_from(OPTIONS), st.integers(0, 99))
def test_units(s: float, k: float, m: float, options: dict[str, str], seed: int) -> None:
    """y times s, N times k, T times m: exponents, tests and predictions stay."""
    y = PRODUCT * np.exp(0.01 * np.random.default_rng(seed).normal(size=28))
    one, other = quiet(N, T, y, **options), quiet(k * N, m * T, s * y, **options)
    tight: dict[str, Any] = {"rel": 2e-5} if options.get("loss") in ("huber", "lad", "log_mse") else {"rel": 1e-6}
    np.testing.assert_allclose(other(k * N, m * T), s * one(N, T), rtol=tight["rel"])
    scale = 1.0 if options.get("loss") in ("huber", "lad", "log_mse") else s * s
    assert other.objective == pytest.approx(scale * one.objective, rel=1e-6)
    assert other.identified == one.identified
    p, q = one.params, other.params
    if options["form"] == "loglinear":
        assert [q["b"], q["c"]] == pytest.approx([s * p["b"], s * p["c"]], **tight)
    elif options["form"] == "product":
        assert [q["a"], q["b"], q["D"]] == pytest.approx([p["a"], p["b"], s * p["D"]], **tight)
        assert q["A"] == pytest.approx(s * p["A"] * k ** p["a"] * m ** p["b"], **tight)


@pytest.mark.parametrize("options", OPTIONS)
def test_replicates_types_and_lists(options: dict[str, str]) -> None:
    one = quiet(N, T, PRODUCT, **options)
    twice = quiet(np.tile(N, 2), np.tile(T, 2), np.tile(PRODUCT, 2), **options)
    assert twice.objective == pytest.approx(2 * one.objective, rel=1e-7) and twice.n_obs == 56
    np.testing.assert_allclose(twice(N, T), one(N, T), rtol=1e-5)
    listed = quiet(N.tolist(), T.astype(int).tolist(), PRODUCT.tolist(), **options)
    assert listed.to_dict() == one.to_dict()
    single = quiet(N.astype(np.float32), T.astype(np.float32), PRODUCT.astype(np.float32), **options)
    np.testing.assert_allclose(single(N, T), one(N, T), rtol=1e-5)


def test_nothing_given_is_changed() -> None:
    data, fix = (N.copy(), T.copy(), PRODUCT.copy()), {"D": 0.1}
    fit = fit_joint_law(*data, fix=fix)
    assert all(np.array_equal(a, b) for a, b in zip(data, (N, T, PRODUCT))) and fix == {"D": 0.1}
    data[2][:] = 0
    np.testing.assert_array_equal(fit.y, PRODUCT)
    with pytest.raises(ValueError, match="read-only"):
        fit.y[0] = 1
    np.testing.assert_array_equal(fit.residuals, PRODUCT - fit.fitted)
    np.testing.assert_array_equal(fit.fitted, fit(N, T))


# Saved, loaded, told


@pytest.mark.parametrize("options", [*OPTIONS, {"fix": {"D": 0.1}}])
@pytest.mark.parametrize("way", ["json", "pickle", "deepcopy"])
def test_round_trip(options: dict[str, Any], way: str) -> None:
    fit = quiet(N, T, NO_D, **options)
    if way == "json":
        other = JointFit.from_dict(json.loads(json.dumps(fit.to_dict(), allow_nan=False)))
    else:
        other = copy.deepcopy(fit) if way == "deepcopy" else pickle.loads(pickle.dumps(fit))
    assert json.dumps(other.to_dict()) == json.dumps(fit.to_dict()) and other.to_dict()["schema"] == 1
    ask = np.geomspace(0.3, 3000, 50)
    assert other(2, ask).tobytes() == fit(2, ask).tobytes()
    assert other(2.0, float(ask[7])) == fit(2, ask)[7]
    assert other.summary() == fit.summary() and repr(other) == repr(fit)
    assert type(other.profile_D) is tuple and not other.y.flags.writeable and other.slice(N=4) == fit.slice(N=4)


def test_numbers_that_are_not_finite_are_words() -> None:
    data = fit_joint_law(N, T, PRODUCT).to_dict()
    data["rss"] = "nan"
    assert math.isnan(JointFit.from_dict(data).rss) and JointFit.from_dict(data).to_dict()["rss"] == "nan"


def test_shapes_of_a_prediction() -> None:
    fit = fit_joint_law(N, T, PRODUCT)
    assert isinstance(fit(4, 64), float) and fit(4, [1, 64]).shape == (2,)
    assert fit(np.ones((3, 1)), np.ones(5)).shape == (3, 5)


def test_the_summary_says_what_matters() -> None:
    text = quiet(N, T, NO_D).summary()
    for part in (
        "product: y = A N**-a T**-b + D, loss=mse, 28 points, N = 0.5 to 7, T = 1 to 576",
        "A = 0.599834",
        "D = 0  not identified",
        "rss 3.15678e-05 and sigma 0.001124 in y",
        "largest residual ",
        "! unidentified: D is not identified",
    ):
        assert part in text
    huber = fit_joint_law(BIG_N, BIG_T, ADDITIVE, form="additive", loss="huber")
    assert "loss=huber, delta=0.001" in huber.summary() and "in ln y" in huber.summary()
    assert "D = 0.1  fixed" in fit_joint_law(N, T, PRODUCT, fix={"D": 0.1}).summary()
    assert repr(quiet(N, T, NO_D)) == "JointFit(product: A=0.59983, a=0.069984, b=0.014929, D=0; 28 points)"


def test_plot() -> None:
    assert len(fit_joint_law(N, T, PRODUCT).plot(sizes=[4]).lines) == 4


@pytest.mark.parametrize("name", ["joint.fit", "joint.result"])
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"tokscale.scaling.{name}"))
    assert found.failed == 0 and found.attempted > 3


def test_importing_loads_no_heavy_module() -> None:
    code = (
        "import sys, tokscale.scaling.joint; "
        "sys.exit(any(m.partition('.')[0] in ('scipy', 'torch', 'matplotlib') for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_huber_on_240_points_is_quick() -> None:
    """The goal is 3 s; a free machine needs about 0.15 s."""
    rng = np.random.default_rng(0)
    size, tokens = np.exp(rng.uniform(17, 23, 240)), np.exp(rng.uniform(20, 26, 240))
    y = (1.8 + 400 / size**0.34 + 2000 / tokens**0.36) * np.exp(0.01 * rng.standard_t(3, 240))
    start = time.perf_counter()
    fit = fit_joint_law(size, tokens, y, form="additive", loss="huber")
    assert time.perf_counter() - start < 3
    assert fit.params["E"] == pytest.approx(1.8, abs=0.02) and fit.params["a"] == pytest.approx(0.34, abs=0.02)
