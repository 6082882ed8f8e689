"""What the pictures of laws share: the law in words, its points and bands, and a view that keeps to them."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from ._common import GREY, number

if TYPE_CHECKING:
    from ..scaling import ScalingFit

FORMULAS = {  # short enough for a title
    "power": "S(n) = c / n^alpha",
    "power_additive": "S(n) = c / n^alpha, errors in S",
    "loglinear": "S(n) = a + b ln n",
    "saturating": "S(n) = s1 + b (1 - n^-g) / g",
    "regime": "S(n) = c (n (n + m) / (1 + m))^(beta/2), m = n_balance",
    "broken": "two powers of n, p1 and p2, that meet at d",
    "logit": "logit u = a + b ln n",
    "neglog": "ln(-ln u) = a + b ln n",
    "binomial": "logit E u = a + b ln n",
}
DASHED = (0, (4, 3))


def law_text(fit: ScalingFit, width: int = 76) -> str:
    """Return the law in words: a line for its form, then its parameters, each with its interval."""
    said = []
    for name, value in fit.params.items():
        low, high = fit.ci.get(name, (math.nan, math.nan))
        interval = f" [{number(low)}, {number(high)}]" if not (math.isnan(low) or math.isnan(high)) else ""
        said.append(f"{name}{' = ' + number(value) if not math.isnan(value) else ' not identified'}{interval}")
    form = f"{fit.form}, {fit.robust}" if fit.robust else fit.form
    law = f"{form}: {FORMULAS.get(fit.form, fit.law.formula.replace('**', '^'))}"
    if fit.law.bounded and fit.floor is not None and fit.ceil is not None:
        law += f", u = {_share(fit.floor, fit.ceil)}"
    if fit.ci_method:
        claim = f"with {100 * fit.level:g}% intervals"
        law += (", " if len(law) + len(claim) + 2 <= width else ",\n") + claim
    kept = [words.replace(" ", "\0") for words in said]  # a parameter stays in one line
    rows = textwrap.wrap(", ".join(kept), width, break_long_words=False, break_on_hyphens=False)
    return "\n".join([law, *(row.replace(",\0", ", ").replace("\0", " ") for row in rows)])


def _share(floor: float, ceil: float) -> str:
    over = f"S - {floor:g}" if floor > 0 else f"S + {-floor:g}" if floor < 0 else "S"
    if ceil - floor == 1:
        return over
    return f"{over if over == 'S' else f'({over})'} / {ceil - floor:g}"


def excluded_points(fit: ScalingFit, *, log: bool) -> np.ndarray:
    """Return (n, score) of the points that were left out and that an axis of budgets can show, as rows."""
    rows = np.asarray(fit.excluded_points, float).reshape(-1, 2)
    return rows[np.isfinite(rows).all(axis=1) & ((rows[:, 0] > 0) | (not log))]


def error_bars(fit: ScalingFit) -> np.ndarray | None:
    """Return half the interval of each score by its own error, at the level of the fit; None where none is known."""
    from ..scaling.intervals import normal_quantile

    return None if fit.score_se is None else normal_quantile((1 + fit.level) / 2) * np.asarray(fit.score_se, float)


def draw_points(ax: Any, fit: ScalingFit, color: str, size: float = 5.0) -> None:
    """Draw the scores with their error bars, and open circles where they were excluded."""
    bars = error_bars(fit)
    if bars is not None:
        ax.errorbar(fit.n, fit.score, yerr=bars, fmt="none", color=color, linewidth=1, capsize=0.4 * size, zorder=2.9)
    ax.plot(fit.n, fit.score, "o", color=color, markersize=size, zorder=3)
    excluded = excluded_points(fit, log=ax.get_xscale() == "log")
    if len(excluded):
        ax.plot(*excluded.T, "o", markerfacecolor="white", color=color, markersize=size, zorder=3)


def draw_band(ax: Any, fit: ScalingFit, x: np.ndarray, kind: str, far: tuple[float, float], **style: Any) -> None:
    """Fill the interval of the curve ("mean") or of one more score ("new") at x, where there is one, up to `far`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the curve is extrapolated is what the dots say
        try:
            low, high = fit.interval(x, kind=kind)
        except FitError:  # a form or a robust fit without such an interval
            return
    known = ~(np.isnan(low) | np.isnan(high))
    if known.any():
        ax.fill_between(x, np.clip(low, *far), np.clip(high, *far), where=known, linewidth=0, **style)


def draw_limits(ax: Any, fit: ScalingFit) -> None:
    """Draw the least and the largest possible score where the view holds them."""
    low, high = ax.get_ylim()
    for value in (fit.floor, fit.ceil):
        if value is not None and low <= value <= high:
            ax.axhline(value, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=1)


def view(
    fit: ScalingFit, curves: Iterable[np.ndarray] = (), *, log: bool = False, log_n: bool = True, below: float = 0.06
) -> tuple[float, float]:
    """Return the least and the largest score to show.

    The points with their bars are shown in full; curves as far as half of the points' range beyond them; floor and ceil
    where they are as near. Nothing beyond floor and ceil is shown but a margin, unless points lie there. NaN where a
    logarithmic axis can show none of the points.

    Args:
        fit: whose points, floor and ceil.
        curves: scores to show as far as they are near.
        log: whether the axis is logarithmic.
        log_n: whether that of the budgets is.
        below: the margin at the bottom, as a share of the height.
    """
    score, bars = np.asarray(fit.score, float), error_bars(fit)
    half = np.zeros(len(score)) if bars is None else bars
    least = np.maximum(score - half, score / 3) if log else score - half  # a bar may reach below 0
    points = np.concatenate([least, score + half, excluded_points(fit, log=log_n)[:, 1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        to, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
        points, near = to(points), to(np.concatenate([*curves, []]))
        floor, ceil = (np.nan if value is None else float(to(value)) for value in (fit.floor, fit.ceil))
    points = points[np.isfinite(points)]
    if not len(points):  # on the logarithmic axis of another law
        return math.nan, math.nan
    low, high = float(points.min()), float(points.max())
    span = max(high - low, 0.1 if log else 0.1 * max(abs(low), abs(high)), 1e-12)
    near = np.clip(near[~np.isnan(near)], low - 0.5 * span, high + 0.5 * span)
    bottom, top = float(np.min([low, *near])), float(np.max([high, *near]))
    if low - 0.5 * span <= floor:  # never where floor is unknown, or off a logarithmic axis
        bottom = min(low, floor)
    if high + 0.5 * span >= ceil:
        top = max(high, ceil)
    height = max(top - bottom, span)
    return float(back(bottom - below * height)), float(back(top + 0.06 * height))


def far_from(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """Return where to cut what leaves a view: far outside of it, and still numbers that can be drawn."""
    if log:
        return low * (low / high) ** 9, high * (high / low) ** 9
    return low - 99 * (high - low), high + 99 * (high - low)


def score_ticks(ax: Any, low: float, high: float, most: int = 8) -> None:
    """Ticks a reader can read on a logarithmic axis, however little of a decade it spans."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    if high / low > 12:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps: Sequence[float] = (1, 2, 5) if 3 * math.log10(high / low) <= most else (1,)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
    else:
        ticks = [float(tick) for tick in MaxNLocator(most - 2, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    ticks = ticks[:: max(1, math.ceil(len(ticks) / most))]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    ax.yaxis.set_minor_locator(NullLocator())
