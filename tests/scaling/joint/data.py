"""Two grids of sizes and budgets with errors whose laws are known to the digit."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import numpy as np
from hypothesis import settings

from tokscale.errors import ScalingFitWarning
from tokscale.scaling.joint import JointFit, fit_joint_law

N = np.repeat([0.5, 1.8, 4.0, 7.0], 7)
T = np.tile([1.0, 4, 16, 36, 64, 144, 576], 4)
I = np.arange(28)
E = np.where(I % 2 == 1, 1, -1) * (1 + I % 3) / 2000
PRODUCT = 0.5 * N**-0.3 * T**-0.1 + 0.2 + E
NO_D = 0.6 * N**-0.07 * T**-0.015 + E
BIG_N, BIG_T = 1e9 * N, 1e9 * T
ADDITIVE = (1.8 + 400 / BIG_N**0.34 + 2000 / BIG_T**0.36) * np.exp(E)
LOSSES = ("mse", "log_mse", "huber", "lad")
quick = settings(max_examples=10, deadline=None, derandomize=True, database=None)


def quiet(*data: Any, **options: Any) -> JointFit:
    """Return a fit whose `ScalingFitWarning`s are not the matter of the test; any other warning stays an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit_joint_law(*data, **options)


def issued(ask: Any) -> list[str]:
    """Return the texts of the warnings that `ask()` issues; each points at the line of the test."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask()
    assert all(w.category is ScalingFitWarning and pathlib.Path(w.filename).name.startswith("test_") for w in caught)
    return [str(w.message) for w in caught]
