"""How often the intervals of `fit_power_law` hold the truth, on simulated sweeps whose law is known.

    python -m benchmarks.law_coverage                # 20,000 data sets per linear form, 2,000 per searched one
    python -m benchmarks.law_coverage --share 0.05   # a quick look

Budgets are the paper's ten. `forms`: every form at its own truth, nominal 95 %: the exponent, every named parameter,
the mean and a new observation at twice the largest budget, the budget for 90 % of the full score. `methods`: the
exponent of the power law by every method, under Gaussian noise, t3 noise, and two kinds of noise that depends on the
budget. Writes `benchmarks/results/law_coverage.csv`.
"""

from __future__ import annotations

import argparse
import csv
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokscale import _provenance
from tokscale.errors import FitError, ScalingFitWarning
from tokscale.scaling import LAWS, ScalingFit, fit_power_law

BUDGETS = np.array([1, 8, 16, 32, 64, 128, 256, 384, 512, 768], float)
FAR = 2 * BUDGETS[-1]
LINEAR, SEARCHED = 20_000, 2_000
OUT = pathlib.Path(__file__).parent / "results" / "law_coverage.csv"


@dataclass(frozen=True)
class Truth:
    """A law with its parameters, the noise in its fitted space, and the curve itself."""

    form: str
    label: str
    params: dict[str, float]
    noise: float
    curve: Callable[[Any], Any]
    ceil: float | None = None
    n_items: int | None = None  # of a binomial draw; `noise` is then that of the logit, from sweep point to sweep point

    @property
    def searched(self) -> bool:
        return LAWS[self.form].theta is not None


def expit(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def box_cox(s1: float, b: float, g: float) -> Callable[[Any], Any]:
    return lambda n: s1 + b * (1 - np.asarray(n, float) ** -g) / g


def regime(c: float, beta: float, m: float) -> Callable[[Any], Any]:
    return lambda n: c * (n * (n + m) / (1 + m)) ** (beta / 2)


def broken(c: float, p1: float, p2: float, d: float, f: float = 0.3) -> Callable[[Any], Any]:
    return lambda n: c * n**p1 * np.exp((p2 - p1) * f * np.logaddexp(0, np.log(np.asarray(n, float) / d) / f))


TRUTHS = (
    Truth("power", "12 n^.237", {"c": 12, "alpha": -0.237}, 0.15, lambda n: 12 * n**0.237),
    Truth("loglinear", "10 + 6 ln n", {"a": 10, "b": 6}, 3.0, lambda n: 10 + 6 * np.log(n)),
    Truth("logit", "-2 + .3 ln n", {"a": -2, "b": 0.3}, 0.2, lambda n: 100 * expit(-2 + 0.3 * np.log(n)), 100),
    Truth("neglog", ".6 - .25 ln n", {"a": 0.6, "b": -0.25}, 0.1,
          lambda n: 100 * np.exp(-np.exp(0.6 - 0.25 * np.log(n))), 100),
    Truth("binomial", "-2 + .3 ln n, 500 items", {"a": -2, "b": 0.3}, 0.0,
          lambda n: 100 * expit(-2 + 0.3 * np.log(n)), 100, 500),
    Truth("binomial", "the same, logit +- .3", {"a": -2, "b": 0.3}, 0.3,
          lambda n: 100 * expit(-2 + 0.3 * np.log(n)), 100, 500),
    Truth("power_additive", "12 n^.237", {"c": 12, "alpha": -0.237}, 2.0, lambda n: 12 * n**0.237),
    Truth("saturating", "g .35", {"s1": 15, "b": 15.75, "g": 0.35}, 1.0, box_cox(15, 15.75, 0.35)),
    Truth("saturating", "g .10", {"s1": 20, "b": 8, "g": 0.1}, 1.0, box_cox(20, 8, 0.1)),
    Truth("saturating", "g .60", {"s1": 50, "b": 20, "g": 0.6}, 1.0, box_cox(50, 20, 0.6)),
    Truth("regime", "n_balance 40", {"c": 5, "beta": 0.2, "n_balance": 40}, 0.005, regime(5, 0.2, 40)),
    Truth("broken", "d 50", {"c": 5, "p1": 0.3, "p2": 0.05, "d": 50}, 0.02, broken(5, 0.3, 0.05, 50)),
)  # fmt: skip


def simulate(truth: Truth, sets: int, seed: int) -> Iterator[tuple[np.ndarray, float]]:
    """Yield scores at the budgets, and a new score at `FAR`, of the truth with noise in its fitted space."""
    rng, law = np.random.default_rng(seed), LAWS[truth.form]
    n = np.append(BUDGETS, FAR)
    score = truth.curve(n)
    if truth.n_items is not None:
        for _ in range(sets):
            share = expit(law.link(score, 0.0, 100.0) + truth.noise * rng.normal(size=len(n)))
            drawn = 100 * rng.binomial(truth.n_items, share) / truth.n_items
            yield drawn[:-1], math.nan
        return
    z = law.link(score, 0.0, truth.ceil)
    for _ in range(sets):
        drawn = law.inverse(z + truth.noise * rng.normal(size=len(n)), 0.0, truth.ceil)
        yield drawn[:-1], float(drawn[-1])


def questions(truth: Truth) -> dict[str, Callable[[ScalingFit, float], tuple[tuple[float, float], float]]]:
    """Return what is asked of each fit: its interval, and what it should hold."""
    found: dict[str, Any] = {
        name: lambda fit, new, name=name: (fit.ci[name], truth.params[name]) for name in truth.params
    }
    if truth.form == "saturating":
        top = truth.params["s1"] + truth.params["b"] / truth.params["g"]
        found["asymptote"] = lambda fit, new: (fit.ci["asymptote"], top)
    found["mean"] = lambda fit, new: (fit.interval(FAR), float(truth.curve(FAR)))
    if truth.n_items is None:
        found["new"] = lambda fit, new: (fit.interval(FAR, kind="new"), new)
    target = 0.9 * float(truth.curve(BUDGETS[-1]))
    log_n = np.linspace(0, math.log(BUDGETS[-1]), 200_001)
    exact = float(np.exp(log_n[np.argmax(truth.curve(np.exp(log_n)) >= target)]))
    bounded = truth.form in ("logit", "neglog", "binomial")  # there the target score is taken as fixed

    def budget(fit: ScalingFit, new: float) -> tuple[tuple[float, float], float]:
        answer = fit.budget_for(target, of="score") if bounded else fit.budget_for(0.9)
        return (answer.lo, answer.hi), exact

    return {**found, "budget": budget}


def cover(truth: Truth, sets: int, seed: int) -> list[dict[str, Any]]:
    """Return the coverage of every interval of one form."""
    asked = questions(truth)
    held, counted = dict.fromkeys(asked, 0), dict.fromkeys(asked, 0)
    options = {} if truth.ceil is None else {"floor": 0, "ceil": truth.ceil}
    if truth.n_items is not None:
        options["n_items"] = truth.n_items
    for score, new in simulate(truth, sets, seed):
        try:
            fit = fit_power_law(BUDGETS, score, form=truth.form, **options)
        except FitError:  # a score that the link cannot take
            continue
        for name, ask in asked.items():
            (lo, hi), value = ask(fit, new)
            if not math.isnan(lo):
                counted[name] += 1
                held[name] += lo <= value <= hi
    rows = []
    for name in asked:
        share = held[name] / max(1, counted[name])
        error = math.sqrt(share * (1 - share) / max(1, counted[name]))
        rows.append({"part": "forms", "form": truth.form, "case": truth.label, "what": name, "method": fit.ci_method}
                    | {"coverage": share, "error": error, "sets": counted[name]})  # fmt: skip
    return rows


NOISES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "Gauss": lambda rng: rng.normal(size=10),
    "t3": lambda rng: rng.standard_t(3, size=10),
    "10x at n = 1, falling evenly": lambda rng: rng.normal(size=10) * np.linspace(10, 1, 10),
    "10x at n = 1 alone": lambda rng: rng.normal(size=10) * np.where(BUDGETS == 1, 10.0, 1.0),
}


def exponent_intervals(score: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """Return the interval of the exponent by every method; the last two are what others use, computed here."""
    found = {
        method: fit_power_law(BUDGETS, score, ci=method, n_boot=1000, seed=seed).exponent_ci
        for method in ("t", "bootstrap_t", "hc3", "bootstrap")
    }
    fit = fit_power_law(BUDGETS, score)
    z = 1.959963984540054 * fit.se["alpha"]
    found["normal z"] = (fit.exponent - z, fit.exponent + z)
    picks = np.random.default_rng(seed).integers(0, 10, size=(1000, 10))
    x, y = np.log(BUDGETS)[picks], np.log(score)[picks]
    x = x - x.mean(1, keepdims=True)
    spread = (x * x).sum(1)
    slopes = (x * y).sum(1)[spread > 0] / spread[spread > 0]
    found["pairs percentile"] = tuple(np.quantile(slopes, [0.025, 0.975]))  # type: ignore[assignment]
    return found


def methods(sets: int, seed: int) -> list[dict[str, Any]]:
    """Return the coverage of the exponent of the power law by every method and noise."""
    rows = []
    for case, noise in NOISES.items():
        rng, held = np.random.default_rng(seed), {}
        for i in range(sets):
            score = 12 * BUDGETS**0.237 * np.exp(0.15 * noise(rng))
            for method, (lo, hi) in exponent_intervals(score, i).items():
                held[method] = held.get(method, 0) + (lo <= 0.237 <= hi)
        for method, count in held.items():
            share = count / sets
            rows.append(
                {"part": "methods", "form": "power", "case": case, "what": "exponent", "method": method}
                | {"coverage": share, "error": math.sqrt(share * (1 - share) / sets), "sets": sets}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the data sets")
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ScalingFitWarning)
    stamp = {**_provenance.versions(), "numpy": np.__version__, "commit": _provenance.commit()}
    stamp["started"] = _provenance.now()
    rows: list[dict[str, Any]] = []
    for seed, truth in enumerate(TRUTHS):
        began = time.perf_counter()
        found = cover(truth, max(20, round(options.share * (SEARCHED if truth.searched else LINEAR))), seed)
        rows += found
        said = "  ".join(f"{row['what']} {row['coverage']:.3f}" for row in found)
        print(f"{truth.form:15s} {truth.label:24s} {found[0]['sets']:6d} sets  {said}  "
              f"({time.perf_counter() - began:.0f} s)", flush=True)  # fmt: skip
    rows += methods(max(20, round(options.share * SEARCHED)), 99)
    for row in rows:
        if row["part"] == "methods":
            print(f"{row['case']:30s} {row['method']:18s} {row['coverage']:.3f} +- {row['error']:.3f}")
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *stamp])
        writer.writeheader()
        writer.writerows({**row, **stamp} for row in rows)


if __name__ == "__main__":
    main()
