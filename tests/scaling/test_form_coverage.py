"""How often the intervals of a searched form, and those of counts, hold the truth; three Monte-Carlo errors wide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tokscale.scaling import ScalingFit

from .curves import BUDGETS, TRUTHS, quiet, truth

SETS, NOISE = 200, 0.8
N = np.array(BUDGETS, float)


@pytest.fixture(scope="module")
def simulated() -> list[ScalingFit]:
    """Fits to `60 - 45 n**-.35` with Gaussian noise of .8 at the paper's budgets."""
    rng = np.random.default_rng(20251208)
    return [quiet(N, truth("saturating") + NOISE * rng.normal(size=10), form="saturating") for _ in range(SETS)]


def holds(ends: tuple[float, float], value: float) -> bool:
    return ends[0] <= value <= ends[1]


def budget(fit: ScalingFit) -> tuple[float, float]:
    answer = fit.budget_for(0.95)
    return answer.lo, answer.hi


S768 = float(truth("saturating", 768))
N_TRUE = ((60 - 0.95 * S768) / 45) ** (-1 / 0.35)


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
@pytest.mark.parametrize(
    ("what", "covers"),
    [
        ("g", lambda fit: holds(fit.ci["g"], 0.35)),
        ("b", lambda fit: holds(fit.ci["b"], 15.75)),
        ("s1", lambda fit: holds(fit.ci["s1"], 15.0)),
        ("asymptote", lambda fit: holds(fit.ci["asymptote"], 60.0)),
        ("mean", lambda fit: holds(fit.interval(4096), float(truth("saturating", 4096)))),
        ("budget", lambda fit: holds(budget(fit), N_TRUE)),
    ],
)
def test_saturating(simulated: list[ScalingFit], what: str, covers: Callable[[ScalingFit], bool]) -> None:
    share = np.mean([covers(fit) for fit in simulated])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / SETS), what


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
def test_a_new_score(simulated: list[ScalingFit]) -> None:
    new = float(truth("saturating", 1536)) + NOISE * np.random.default_rng(5).normal(size=SETS)
    share = np.mean([holds(fit.interval(1536, kind="new"), s) for fit, s in zip(simulated, new)])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / SETS)


def test_counts_with_more_scatter_than_binomial() -> None:
    """Beta-binomial counts of dispersion 3: the interval of b, widened by phi, keeps its level."""
    rng, sets, items = np.random.default_rng(9), 300, 500
    u = truth("binomial") / 100
    concentration = (items - 1) / 2 - 1  # 1 + (items - 1) / (concentration + 1) = 3
    found = 0
    for _ in range(sets):
        p = rng.beta(u * concentration, (1 - u) * concentration)
        fit = quiet(N, 100 * rng.binomial(items, p) / items, form="binomial", n_items=items)
        found += holds(fit.ci["b"], TRUTHS["binomial"]["b"])
    assert abs(found / sets - 0.95) < 3 * math.sqrt(0.95 * 0.05 / sets)
