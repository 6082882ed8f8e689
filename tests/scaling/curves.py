"""The eighteen published curves, and the warnings that a test expects or leaves aside."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import ScalingFit, fit_power_law

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


def quiet(n: Any, score: Any, **options: Any) -> ScalingFit:
    """Return a fit whose `ScalingFitWarning`s are not the matter of the test; any other warning stays an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit_power_law(n, score, **options)
