"""The eighteen published curves, and the warnings that a test expects or leaves aside."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import LAWS, ScalingFit, fit_power_law

BUDGETS = [1, 8, 16, 32, 64, 128, 256, 384, 512, 768]
OCRBENCH = [24, 221, 268, 320, 386, 438, 448, 445, 472, 493]


def load() -> dict[str, tuple[list[float], list[float]]]:
    """Return `{metric: (n, score)}` in the order of the file."""
    path = Path(__file__).parents[1] / "data" / "paper_scores_vqq.csv"
    curves: dict[str, tuple[list[float], list[float]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            n, score = curves.setdefault(row["metric"], ([], []))
            n.append(float(row["num_tokens"]))
            score.append(float(row["score"]))
    return curves


CURVES = load()


def _share(z: Any) -> Any:
    return 100 / (1 + np.exp(-z))


# The formulas of the forms as a reader would write them, scores of logit, neglog and binomial between 0 and 100
FORMULAS: dict[str, Callable[..., Any]] = {
    "power": lambda n, c, alpha: c * n**-alpha,
    "power_additive": lambda n, c, alpha: c * n**-alpha,
    "loglinear": lambda n, a, b: a + b * np.log(n),
    "saturating": lambda n, s1, b, g: s1 + b * ((1 - n**-g) / g if g else np.log(n)),
    "regime": lambda n, c, beta, n_balance: c * (n * (n + n_balance) / (1 + n_balance)) ** (beta / 2),
    "broken": lambda n, c, p1, p2, d: c * n**p1 * (1 + (n / d) ** (1 / 0.3)) ** (0.3 * (p2 - p1)),
    "logit": lambda n, a, b: _share(a + b * np.log(n)),
    "neglog": lambda n, a, b: 100 * np.exp(-np.exp(a + b * np.log(n))),
    "binomial": lambda n, a, b: _share(a + b * np.log(n)),
}

# Parameters to simulate from
TRUTHS: dict[str, dict[str, float]] = {
    "power": {"c": 12.0, "alpha": -0.237},
    "power_additive": {"c": 12.0, "alpha": -0.237},
    "loglinear": {"a": 10.0, "b": 6.0},
    "saturating": {"s1": 15.0, "b": 15.75, "g": 0.35},
    "regime": {"c": 5.0, "beta": 0.2, "n_balance": 40.0},
    "broken": {"c": 5.0, "p1": 0.3, "p2": 0.05, "d": 50.0},
    "logit": {"a": -2.0, "b": 0.3},
    "neglog": {"a": 0.6, "b": -0.25},
    "binomial": {"a": -2.0, "b": 0.3},
}


def same(value: float, printed: str) -> bool:
    """True where `value` rounds to the number as printed."""
    digits = len(printed.partition(".")[2])
    return repr(round(float(value), digits)) == repr(float(printed))


def truth(form: str, n: Any = BUDGETS) -> Any:
    """Return the scores of the form's example law at `n`."""
    return FORMULAS[form](np.asarray(n, float), **TRUTHS[form])


def options(form: str, **more: Any) -> dict[str, Any]:
    """Return what `fit_power_law` needs to be told for this form: bounds, and the number of items."""
    bounds = {"floor": 0.0, "ceil": 100.0} if LAWS[form].bounded else {}
    return {"form": form, **bounds, **({"n_items": 1000} if LAWS[form].counted else {}), **more}


def quiet(n: Any, score: Any, **options: Any) -> ScalingFit:
    """Return a fit whose `ScalingFitWarning`s are not the matter of the test; any other warning stays an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit_power_law(n, score, **options)
