"""How long the laws take, each beside `scipy.optimize.curve_fit` on the same data in the same run.

    OMP_NUM_THREADS=1 python -m benchmarks.law_speed

OCRBench of the paper, ten budgets; medians of repeated calls, one thread. curve_fit gives a point estimate and a
covariance; what stands beside it here has intervals, diagnostics and warnings too, unless said. Where curve_fit needs
start values it gets good ones. Writes `benchmarks/results/law_speed.csv`.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from tokscale import _provenance
from tokscale.errors import ScalingFitWarning
from tokscale.scaling import compare_laws, fit_joint_law, fit_power_law

N = np.array([1, 8, 16, 32, 64, 128, 256, 384, 512, 768], float)
SCORE = np.array([24, 221, 268, 320, 386, 438, 448, 445, 472, 493], float)
OUT = pathlib.Path(__file__).parent / "results" / "law_speed.csv"


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    call()
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return 1e3 * float(np.median(took))


def line(x: Any, a: float, b: float) -> Any:
    return a + b * x


def box_cox(n: Any, s1: float, b: float, g: float) -> Any:
    return s1 + b * -np.expm1(-g * np.log(n)) / g


def softplus(log_n: Any, a: float, p1: float, p2: float, d: float) -> Any:
    return a + p1 * log_n + (p2 - p1) * 0.3 * np.logaddexp(0, (log_n - d) / 0.3)


def scipy_power() -> Any:
    return curve_fit(line, np.log(N), np.log(SCORE))


def scipy_saturating(score: Any = SCORE) -> Any:
    return curve_fit(box_cox, N, score, p0=(20, 100, 0.2), maxfev=10_000)


def scipy_resampled(fit: Callable[[Any], Any], fitted: np.ndarray, residuals: np.ndarray, times: int) -> None:
    picks = np.random.default_rng(0).integers(0, len(N), size=(times, len(N)))
    for rows in picks:
        fit(fitted + residuals[rows])


def scipy_eight() -> None:
    """Eight forms as a user would write them, each with start values near its optimum."""
    log_n, u = np.log(N), SCORE / 1000
    curve_fit(line, log_n, np.log(SCORE))
    curve_fit(lambda n, c, p: c * n**p, N, SCORE, p0=(150, 0.2))
    curve_fit(line, log_n, SCORE)
    scipy_saturating()
    m = 40.0
    curve_fit(lambda x, a, b: a + b * (x + np.log((np.exp(x) + m) / (1 + m))) / 2, log_n, np.log(SCORE))
    curve_fit(softplus, log_n, np.log(SCORE), p0=(3, 1, 0.1, 2), maxfev=10_000)
    curve_fit(line, log_n, np.log(u / (1 - u)))
    curve_fit(line, log_n, np.log(-np.log(u)))


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """240 points of the additive joint law with noise."""
    rng = np.random.default_rng(0)
    size, tokens = np.repeat(np.geomspace(1e8, 1e10, 15), 16), np.tile(np.geomspace(1, 1e4, 16), 15)
    y = (1.8 + 400 / size**0.34 + 2 / tokens**0.36) * np.exp(0.01 * rng.normal(size=240))
    return size, tokens, y


def scipy_additive(size: np.ndarray, tokens: np.ndarray, y: np.ndarray) -> Any:
    def curve(x: Any, log_e: float, log_a: float, log_b: float, a: float, b: float) -> Any:
        return np.log(np.exp(log_e) + np.exp(log_a - a * x[0]) + np.exp(log_b - b * x[1]))

    start = (0.6, 6.0, 0.7, 0.34, 0.36)
    return curve_fit(curve, (np.log(size), np.log(tokens)), np.log(y), p0=start, method="trf", loss="huber",
                     f_scale=1e-3, max_nfev=10_000)  # fmt: skip


def rows() -> list[tuple[str, float, float, float | None, str]]:
    """Return what, goal in ms, ours, theirs, and what theirs is."""
    power, saturating = np.log(SCORE), SCORE
    fit = fit_power_law(N, SCORE)
    curve = fit_power_law(N, SCORE, form="saturating")
    joint = grid()
    one = "one curve_fit"
    return [
        ("power fit, interval, diagnostics", 1, median_ms(lambda: fit_power_law(N, SCORE), 200),
         median_ms(scipy_power, 200), one),
        ("the same, 1000 studentised resamples", 5,
         median_ms(lambda: fit_power_law(N, SCORE, ci="bootstrap_t", n_boot=1000), 100),
         median_ms(lambda: scipy_resampled(lambda z: curve_fit(line, np.log(N), z), np.log(fit.fitted),
                                           power - np.log(fit.fitted), 1000), 3), "1000 curve_fits"),
        ("saturating fit, all profile intervals", 20,
         median_ms(lambda: fit_power_law(N, SCORE, form="saturating"), 50), median_ms(scipy_saturating, 50), one),
        ("saturating, 1000 resamples", 100,
         median_ms(lambda: fit_power_law(N, SCORE, form="saturating", ci="bootstrap", n_boot=1000), 20),
         median_ms(lambda: scipy_resampled(scipy_saturating, curve.fitted, saturating - curve.fitted, 1000), 3),
         "1000 curve_fits"),
        ("compare_laws, 8 forms, no intervals", 50,
         median_ms(lambda: compare_laws(N, SCORE, floor=0, ceil=1000, ci=None), 30), median_ms(scipy_eight, 30),
         "8 curve_fits, no LOO, no AICc"),
        ("additive joint law, 240 points, Huber", 3000,
         median_ms(lambda: fit_joint_law(*joint, form="additive", loss="huber"), 5),
         median_ms(lambda: scipy_additive(*joint), 5), "one curve_fit from the true values"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    options = parser.parse_args()
    for category in (ScalingFitWarning, OptimizeWarning, RuntimeWarning):
        warnings.simplefilter("ignore", category)
    stamp = {**_provenance.versions(), "numpy": np.__version__, "commit": _provenance.commit()}
    stamp["started"] = _provenance.now()
    found = []
    print(f"{'task':40s} {'goal ms':>8s} {'ours ms':>8s} {'curve_fit ms':>13s} {'ratio':>7s}")
    for what, goal, ours, theirs, note in rows():
        print(f"{what:40s} {goal:8g} {ours:8.2f} {theirs:13.2f} {ours / theirs:7.3f}  {note}")
        found.append(
            {"task": what, "goal_ms": goal, "ours_ms": ours, "curve_fit_ms": theirs, "curve_fit": note} | stamp
        )
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
