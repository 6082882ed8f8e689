"""What a fit says about itself in words: each text begins with a code, and some are also issued as warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ScalingFitWarning
from .law import Array, Law
from .points import Points

ISSUED = ("flat", "unidentified", "at-bound", "no-interval", "out-of-range", "extrapolation")


def issue(notes: Iterable[str], stacklevel: int = 3) -> None:
    """Issue those notes whose code is among `ISSUED` as `ScalingFitWarning`."""
    for note in notes:
        if note.partition(":")[0] in ISSUED:
            warnings.warn(note, ScalingFitWarning, stacklevel=stacklevel)


def percent(level: float) -> str:
    return f"{100 * level:g}%"


def count(n: float) -> str:
    """Return a budget as text: whole numbers in full."""
    return f"{int(n)}" if float(n).is_integer() else f"{n:.6g}"


def flat(level: float, interval: tuple[float, float]) -> str | None:
    lo, hi = interval
    if not lo <= 0 <= hi:
        return None
    return (
        f"flat: the {percent(level)} interval of the exponent, ({lo:.4g}, {hi:.4g}), contains 0: these data do not "
        "show that the score depends on the budget"
    )


def unidentified(name: str, form: str, f: float, p: float) -> str:
    return (
        f"unidentified: {name} is not identified: the {form} law is no better than a power law (F = {f:.3g}, "
        f"p = {p:.3g})"
    )


def at_bound(name: str, value: float, ends: Sequence[float]) -> str:
    return f"at-bound: {name} = {value:.6g} is at the bound of its search range [{ends[0]:.6g}, {ends[1]:.6g}]"


def accelerating(name: str, value: float) -> str:
    return f"accelerating: {name} = {value:.2g} < 0: the curve accelerates; it has no asymptote"


def undecided(best: str, others: Sequence[str]) -> list[str]:
    return [f"undecided: {other} is within 2 AICc of {best}: these data do not choose" for other in others]


def no_interval(law: Law, distinct: int) -> str | None:
    if distinct >= law.min_interval:
        return None
    return (
        f"no-interval: {distinct} distinct budgets determine the {len(law.params)} parameters of {law.form} exactly; "
        f"an interval needs {law.min_interval}"
    )


def out_of_range(
    level: float, n: float, interval: tuple[float, float], floor: float | None, ceil: float | None
) -> str | None:
    """Say that the interval for a new score leaves the range that scores have."""
    lo, hi = interval
    text = f"out-of-range: the {percent(level)} interval for a new score at n = {count(n)} reaches "
    remedy = '; form="logit" or "neglog" stays inside'
    if ceil is not None and hi > ceil:
        return f"{text}{hi:.4g}, above ceil = {ceil:g}{remedy}"
    if floor is not None and lo < floor:
        return f"{text}{lo:.4g}, below floor = {floor:g}{remedy}"
    return None


def target_out_of_range(score: float, ceil: float) -> str:
    return (
        f"out-of-range: the target score {score:.4g} is above ceil = {ceil:g}: the law leaves the range of scores, and "
        'its share of the full score with it; form="logit" or "neglog" stays inside'
    )


def extrapolation(n: float, largest: float) -> str | None:
    if not n > 2 * largest:
        return None
    return f"extrapolation: n = {count(n)} is {n / largest:.1f} times the largest fitted budget, {count(largest)}"


def leverage(points: Points, values: Array) -> list[str]:
    return [
        f"leverage: n = {count(n)} has leverage {h:.2f}: it decides half of this fit"
        for n, h in zip(points.n, values)
        if h > 0.5
    ]


def outliers(points: Points, studentized: Array, where: np.ndarray, limit: float) -> list[str]:
    return [
        f"outliers: n = {count(points.n[i])} is an outlier (studentised residual {studentized[i]:.2f}, "
        f"limit {limit:.2f})"
        for i in where
    ]


def non_monotone(points: Points) -> list[str]:
    """Name the steps to the next budget where the mean score falls by more than 3 standard errors of the difference."""
    budgets, mean, error = points.means()
    if error is None:
        return []
    falls = mean[:-1] - mean[1:] > 3 * np.sqrt(error[:-1] ** 2 + error[1:] ** 2)
    return [
        f"non-monotone: the score falls by more than 3 standard errors from n = {count(a)} to n = {count(b)}"
        for a, b in zip(budgets[:-1][falls], budgets[1:][falls])
    ]


def small_sample(law: Law, n_obs: int) -> str | None:
    need = len(law.params) + 3
    if n_obs >= need:
        return None
    parameters = f"{len(law.params)} parameters of {law.form}"
    return f"small-sample: AICc needs {need} points for the {parameters} and sigma, got {n_obs}"


def robust_interval(method: str, points: int, level: float, finite: bool) -> str | None:
    if method == "lad":
        return 'robust-interval: robust="lad" gives no interval; robust="theil_sen" does'
    if method == "theil_sen":
        if finite:
            return None
        return f"robust-interval: {points} points are too few for a {percent(level)} interval from Kendall's tau"
    return (
        f'robust-interval: the interval of robust="{method}" was measured to cover .84 to .93 at 10 points where .95 '
        'is claimed; that of robust="theil_sen" keeps its level'
    )


def no_skill(mape: float, baseline: float) -> str:
    return (
        f"no-skill: on held-out budgets the law (MAPE {100 * mape:.1f}%) is worse than carrying the best score forward "
        f"({100 * baseline:.1f}%)"
    )
