"""`plot_fit`: a fitted law with its points, bands and the budget it answers with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import COLORS, GREY, axes_or_new, budget_axis, new_figure, number, tidy

if TYPE_CHECKING:
    from ..scaling import ScalingFit

FORMULAS = {  # short enough for a title
    "power": "S(n) = c / n^alpha",
    "power_additive": "S(n) = c / n^alpha, errors in S",
    "loglinear": "S(n) = a + b ln n",
    "saturating": "S(n) = s1 + b (1 - n^-g) / g",
    "regime": "S(n) = c (n (n + m) / (1 + m))^(beta/2)",
    "broken": "two powers of n that meet at d",
    "logit": "logit u = a + b ln n",
    "neglog": "ln(-ln u) = a + b ln n",
    "binomial": "logit E u = a + b ln n",
}


def plot_fit(
    fit: ScalingFit,
    ax: Any = None,
    *,
    log: bool = True,
    target: float | None = 0.95,
    target_score: float | None = None,
    extend: float = 2.0,
    residuals: bool = False,
    bands: Sequence[str] = ("new", "mean"),
    color: str = COLORS[0],
    label: str | None = None,
) -> Any:
    """Return the Axes of a law: points, curve, band of the mean, wider band of a new score, the budget for `target`.

    The curve is dotted beyond the data. Points are open where they were excluded, with error bars where the fit knows
    their errors. A bar on the budget axis is the interval of the budget. Least and largest possible score are dashed.

    Args:
        fit: from `fit_power_law`.
        ax: where to draw; None makes a figure.
        log: logarithmic axes: of the budget, and of the score where the law was fitted to its logarithm.
        target: the share of the fitted score at the largest budget that the budget bar is for; None draws none.
        target_score: a score that the bar is for instead.
        extend: draw the curve to this multiple of the largest budget.
        residuals: a second panel with score minus law, where a misfit shows as a U; takes `ax=None`.
        bands: which to draw: of a "new" score, of the "mean".
        color: of everything that belongs to the law.
        label: of the curve, for a legend.

    Returns:
        The Axes of the curve; with `residuals`, the panel below is `axes.figure.axes[1]`.
    """
    from ..errors import ArgumentError

    lower = None
    if residuals:
        if ax is not None:
            raise ArgumentError("residuals=True makes a second panel, so it takes ax=None")
        ax, lower = new_figure("plot_fit", height=5.2).subplots(2, sharex=True, height_ratios=(3, 1))
    ax = axes_or_new(ax, "plot_fit")
    n, score = np.asarray(fit.n, float), np.asarray(fit.score, float)
    budget, goal = None, ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the curve is extrapolated is what the dots say
        _curve(ax, fit, n, extend, color, label, log, bands)
        if target_score is not None:
            budget, goal = fit.budget_for(target_score, of="score"), f"a score of {target_score:.4g}"
        elif target is not None:
            budget, goal = fit.budget_for(target), f"{target:.0%} of the score at {n.max():g} tokens"
    _points(ax, fit, n, score, color)
    _limits(ax, fit, score)
    shown = list(n) + [b for b, _ in _excluded(fit)]
    near = np.array([*score, *(s for _, s in _excluded(fit))])
    if log and fit.law.logarithmic:
        ax.set_yscale("log")
        _plain_ticks(ax, near[near > 0])
    _view(ax, near)
    ax.set_ylabel("score")
    ax.set_title(law_text(fit), fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, shown, log=log)
    if budget is not None:
        _budget_bar(ax, budget, goal, color)
    if lower is not None:
        lower.axhline(0, color=GREY, linewidth=0.8)
        lower.vlines(n, 0, fit.residuals, color=color, linewidth=1)
        lower.plot(n, fit.residuals, "o", color=color, markersize=4)
        lower.set_ylabel("score - law")
        tidy(lower)
        budget_axis(lower, shown, log=log)
        ax.set_xlabel("")
    return ax


def law_text(fit: ScalingFit) -> str:
    """Return the law in words: a line for its form, then its parameters, two in a line, each with its interval."""
    said = []
    for name, value in fit.params.items():
        low, high = fit.ci.get(name, (math.nan, math.nan))
        interval = f" [{number(low)}, {number(high)}]" if math.isfinite(low) or math.isfinite(high) else ""
        said.append(f"{name}{' = ' + number(value) if math.isfinite(value) else ' not identified'}{interval}")
    law = f"{fit.form}: {FORMULAS[fit.form]}" if fit.form in FORMULAS else fit.form
    rows = [",   ".join(said[i : i + 2]) for i in range(0, len(said), 2)]
    return "\n".join([f"{law}" + (f", with {fit.level:.0%} intervals" if fit.ci_method else ""), *rows])


def _curve(
    ax: Any,
    fit: ScalingFit,
    n: np.ndarray,
    extend: float,
    color: str,
    label: str | None,
    log: bool,
    bands: Sequence[str],
) -> None:
    end = n.max() * max(extend, 1.0)
    x = np.geomspace(n.min(), end, 200) if log else np.linspace(n.min(), end, 200)
    inside = x <= n.max() * (1 + 1e-9)
    for kind, alpha in (("new", 0.10), ("mean", 0.22)):
        if kind not in bands:
            continue
        try:
            low, high = fit.interval(x, kind=kind)
        except ValueError:  # a form without such an interval, or too few budgets for one
            continue
        if np.isfinite(low).all() and np.isfinite(high).all():
            ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
    y = fit(x)
    ax.plot(x[inside], y[inside], color=color, linewidth=1.8, label=label)
    outside = ~inside | (np.arange(len(x)) == inside.sum() - 1)  # from where the solid line ends
    ax.plot(x[outside], y[outside], color=color, linewidth=1.8, linestyle=":")


def _points(ax: Any, fit: ScalingFit, n: np.ndarray, score: np.ndarray, color: str) -> None:
    errors = getattr(fit, "score_se", None)
    if errors is not None:
        ax.errorbar(n, score, yerr=1.96 * np.asarray(errors), fmt="none", color=color, linewidth=1, capsize=2)
    ax.plot(n, score, "o", color=color, markersize=5, zorder=3)
    excluded = _excluded(fit)
    if excluded:
        ax.plot(*zip(*excluded), "o", markerfacecolor="white", color=color, markersize=5, zorder=3)


def _excluded(fit: ScalingFit) -> list[tuple[float, float]]:
    return [(float(n), float(score)) for n, score in getattr(fit, "excluded_points", None) or ()]


def _limits(ax: Any, fit: ScalingFit, score: np.ndarray) -> None:
    """Draw the least and the largest possible score where they lie near the data; else they would squeeze it."""
    span = max(float(score.max() - score.min()), 1e-12)
    for value in (fit.floor, fit.ceil):
        if value is None or not score.min() - 0.5 * span <= value <= score.max() + 0.5 * span:
            continue
        if not (value <= 0 and fit.law.logarithmic):
            ax.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))


def _view(ax: Any, near: np.ndarray) -> None:
    """Keep the view at the points: a band that runs off would squeeze them into a line."""
    if ax.get_yscale() == "log":
        low, high = np.log(near.min()), np.log(near.max())
        room = max(0.6 * (high - low), 0.05)
        floor, top = np.exp([low - room, high + room])
    else:
        room = max(0.6 * float(near.max() - near.min()), 0.05 * float(np.abs(near).max()), 1e-12)
        floor, top = near.min() - room, near.max() + room
    bottom, upper = ax.get_ylim()
    ax.set_ylim(max(bottom, floor), min(upper, top))


def _budget_bar(ax: Any, budget: Any, goal: str, color: str) -> None:
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(ax.transData, ax.transAxes)
    words = {"ha": "right", "va": "bottom", "fontsize": 8, "color": color, "transform": ax.transAxes, "zorder": 6}
    words["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    if not budget.reachable:
        if budget.observed is not None:
            said = f"{goal}: no budget from this law; {budget.observed:g} tokens reached it"
        else:
            said = f"{goal}: no budget from this law"
        ax.text(0.985, 0.045, said, **words)
        return
    low, high = max(budget.lo, 1e-12), min(budget.hi, 1e12)
    left, right = ax.get_xlim()
    ax.plot([max(low, left), min(high, right)], [0.02, 0.02], transform=place, color=color, linewidth=4, alpha=0.45,
            solid_capstyle="butt", clip_on=False, zorder=4)  # fmt: skip
    ax.plot([budget.exact], [0.02], marker="v", transform=place, color=color, markersize=7, clip_on=False, zorder=5)
    interval = f" [{number(budget.lo)}, {number(budget.hi)}]" if not math.isnan(budget.lo) else ""
    ax.text(0.985, 0.045, f"{goal}: {budget.n}{interval}", **words)
    ax.set_xlim(left, right)


def _plain_ticks(ax: Any, score: np.ndarray) -> None:
    """Ticks a reader can read on a logarithmic axis that spans less than a decade or two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = math.log10(max(float(score.max()), 1e-300) / max(float(score.min()), 1e-300))
    subs = (1, 2, 5) if decades > 0.5 else tuple(range(1, 10))
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
