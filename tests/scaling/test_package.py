"""The package is a leaf: it needs numpy and scipy, is quick to import, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import textwrap
import time

import pytest

import tokscale
import tokscale.scaling as scaling

from .curves import BUDGETS, OCRBENCH, quiet

MODULES = [f"tokscale.scaling.{m.name}" for m in pkgutil.iter_modules(scaling.__path__)]


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_works_where_torch_is_absent_and_loads_no_heavy_module() -> None:
    out = run(
        """
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "transformers", "triton", "matplotlib", "pandas"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Absent())
        import tokscale.scaling
        before = [m for m in sys.modules if m.startswith("scipy")]
        fit = tokscale.scaling.fit_power_law([1, 8, 64, 512], [10.0, 20.0, 33.0, 52.0], robust="theil_sen", level=0.5)
        fit = tokscale.scaling.fit_power_law([1, 8, 64, 512], [10.0, 20.0, 33.0, 52.0])
        fit.summary(), fit.interval(100), fit.budget_for(0.9), fit.skill_vs_baseline
        import warnings
        warnings.simplefilter("ignore")
        n = [1, 2, 4, 8, 16, 32, 64, 128]
        for form in tokscale.scaling.LAWS:
            known = tokscale.scaling.fit_power_law(n, [20, 31, 38, 44, 47, 49, 50, 50.5], form=form, n_items=100,
                                                   floor=0, ceil=100)
            known.summary(), known.budget_for(0.9)
        heavy = [m for m in ("scipy.stats", "scipy.optimize", "scipy.linalg", "torch") if m in sys.modules]
        print(before, heavy, round(fit.exponent, 3))
        """
    )
    assert out.strip() == "[] [] 0.262"


def test_the_public_names() -> None:
    assert tokscale.fit_power_law is scaling.fit_power_law and tokscale.ScalingFit is scaling.ScalingFit
    answers = {"Budget", "LawComparison", "ManyFit", "OptimalBudget", "RangeAlpha", "ScalingFit", "Skill"}
    asked = {"LAWS", "Law", "compare_laws", "fit_many", "fit_power_law", "wilson_interval"}
    assert set(scaling.__all__) >= answers | asked
    assert all(getattr(scaling, name).__doc__ for name in scaling.__all__ if name != "LAWS")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_a_fit_is_quick() -> None:
    """The goal is 1 ms on a free machine; a busy one gets ten times that before this fails."""
    quiet(BUDGETS, OCRBENCH)
    best = min(_seconds() for _ in range(20))
    assert best < 10e-3


def _seconds() -> float:
    start = time.perf_counter()
    scaling.fit_power_law(BUDGETS, OCRBENCH)
    return time.perf_counter() - start
