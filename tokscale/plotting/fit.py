"""`plot_fit`: a fitted law with its points, bands and the budget it answers with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import COLORS, GREY, axes_or_new, budget_axis, new_figure, number, tidy
from ._law import draw_band, draw_limits, draw_points, excluded_points, far_from, law_text, score_ticks, view

if TYPE_CHECKING:
    from ..scaling import Budget, ScalingFit

BANDS = {"new": 0.10, "mean": 0.22}  # how dense


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
    The view keeps to the points: a band or a curve that leaves them is cut off. Axes that hold something already keep
    their scales, and show what they showed and this law.

    Args:
        fit: from `fit_power_law`, of any form. "binomial" has no band of a new score.
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

    Raises:
        ArgumentError: an unknown band, or `residuals` with an `ax`.
        FitError: a target that is no share, or a `target_score` that the form cannot reach.
    """
    from ..errors import ArgumentError

    lower = None
    if unknown := [kind for kind in bands if kind not in BANDS]:
        raise ArgumentError(f"bands are of new and of mean, got {', '.join(map(repr, unknown))}")
    if residuals:
        if ax is not None:
            raise ArgumentError("residuals=True makes a second panel, so it takes ax=None")
        ax, lower = new_figure("plot_fit", height=5.4).subplots(2, sharex=True, height_ratios=(3, 1))
    ax = axes_or_new(ax, "plot_fit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the picture says in words what a warning would
        budget, goal = _budget(fit, target, target_score)
    before = _scales(ax, fit, log)
    log_x, log_y = (scale == "log" for scale in (ax.get_xscale(), ax.get_yscale()))
    shown = np.concatenate([fit.n, excluded_points(fit, log=log_x)[:, 0]])
    parts = _ranges(fit, shown[shown > 0], extend, log=log_x)
    low, high = view(fit, [fit(x) for x in parts], log=log_y, log_n=log_x, below=0.06 if budget is None else 0.14)
    left, right = _ends(np.concatenate([*parts, shown]), log=log_x)
    if before is not None:
        (left, right), (low, high) = _union(before[0], (left, right)), _union(before[1], (low, high))
    ax.set_xlim(left, right)  # before anything is drawn, so that nothing else sets them
    ax.set_ylim(low, high)
    far = far_from(low, high, log=log_y)
    for kind in ("new", "mean"):
        if kind in bands:
            draw_band(ax, fit, np.unique(np.concatenate(parts)), kind, far, color=color, alpha=BANDS[kind])
    for x, style in zip(parts, ("-", ":", ":")):  # within the data, beyond, and below where points were excluded
        name = label if style == "-" else None
        ax.plot(x, np.clip(fit(x), *far), color=color, linewidth=1.8, linestyle=style, label=name)
    draw_points(ax, fit, color)
    if log_y:
        score_ticks(ax, low, high)
    draw_limits(ax, fit)
    ax.set_ylabel("score")
    ax.set_title(law_text(fit), fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, shown, log=log_x)
    _say_hidden(ax, fit, shown)
    if budget is not None:
        _budget_bar(ax, budget, goal, color)
    if lower is not None:
        _residuals(lower, fit, color)
        budget_axis(lower, shown, log=log_x)
        _say_hidden(lower, fit, shown)
        ax.set_xlabel("")
    return ax


def _budget(fit: ScalingFit, target: float | None, target_score: float | None) -> tuple[Budget | None, str]:
    if target_score is not None:
        return fit.budget_for(target_score, of="score"), f"a score of {target_score:.4g}"
    if target is None:
        return None, ""
    return fit.budget_for(target), f"{100 * target:g}% of the score at {fit.n.max():g} tokens"


def _scales(ax: Any, fit: ScalingFit, log: bool) -> tuple[Any, Any] | None:
    """Set the scales of empty Axes; return what others show, whose scales stay."""
    if ax.has_data():
        return ax.get_xlim(), ax.get_ylim()
    if log:
        ax.set_xscale("log")
        if fit.law.logarithmic and np.all(excluded_points(fit, log=log)[:, 1] > 0):
            ax.set_yscale("log")
    return None


def _ranges(fit: ScalingFit, shown: np.ndarray, extend: float, *, log: bool) -> list[np.ndarray]:
    """Return where to draw the curve: over the data, beyond them, and below where excluded budgets lie."""
    n, spread = np.asarray(fit.n, float), np.geomspace if log else np.linspace
    parts = [spread(n.min(), n.max(), 200), spread(n.max(), max(n.max() * max(extend, 1.0), shown.max()), 50)]
    return parts if shown.min() >= n.min() else [*parts, spread(shown.min(), n.min(), 50)]


def _say_hidden(ax: Any, fit: ScalingFit, shown: np.ndarray) -> None:
    """Name the excluded budgets that the axis cannot show, such as 0 on a logarithmic one."""
    hidden = [f"{n:g}" for n in fit.excluded if n not in shown]
    if hidden:
        ax.set_xlabel(f"{ax.get_xlabel()} (not shown: {', '.join(hidden)})")


def _ends(x: np.ndarray, *, log: bool) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())
    if log:
        room = (high / low) ** 0.03 if high > low else 1.1
        return low / room, high * room
    room = 0.03 * (high - low)
    return low - room, high + room


def _union(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return the range that holds both; `other` may be NaN."""
    return min(one[0], other[0]), max(one[1], other[1])


def _residuals(ax: Any, fit: ScalingFit, color: str) -> None:
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.vlines(fit.n, 0, fit.residuals, color=color, linewidth=1)
    ax.plot(fit.n, fit.residuals, "o", color=color, markersize=4)
    ax.set_ylabel("score - law")
    tidy(ax)


def _budget_bar(ax: Any, budget: Budget, goal: str, color: str) -> None:
    """Draw a budget's interval as a bar on the axis, the budget as a mark, and say them in words."""
    from matplotlib.transforms import blended_transform_factory

    place = blended_transform_factory(ax.transData, ax.transAxes)
    words = {"ha": "right", "va": "bottom", "fontsize": 8, "color": color, "transform": ax.transAxes, "zorder": 6}
    words["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    if not budget.reachable:
        said = f"{goal}: no budget from this law"
        if budget.observed is not None:
            said += f"; {budget.observed:g} token{'' if budget.observed == 1 else 's'} reached it"
        ax.text(0.985, 0.045, said, **words)
        return
    left, right = ax.get_xlim()
    ends = np.clip([budget.lo, budget.hi], left, right)
    if ends[1] > ends[0]:  # never where the interval is unknown
        ax.plot(ends, [0.02, 0.02], transform=place, color=color, linewidth=4, alpha=0.45, solid_capstyle="butt",
                clip_on=False, zorder=4)  # fmt: skip
    mark = "<" if budget.exact < left else ">" if budget.exact > right else "v"  # an arrow out of the picture
    ax.plot([np.clip(budget.exact, left, right)], [0.02], marker=mark, transform=place, color=color, markersize=7,
            clip_on=False, zorder=5)  # fmt: skip
    interval = f" [{number(budget.lo)}, {number(budget.hi)}]" if not math.isnan(budget.lo) else ""
    ax.text(0.985, 0.045, f"{goal}: {budget.n}{interval}", **words)
