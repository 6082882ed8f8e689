"""`plot_comparison`: every form of the law over the scores, the stronger the more the data support it."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scaling.compare import CRITERIA
from ._common import COLORS, GREY, axes_or_new, budget_axis, legend_below, number, tidy
from ._law import draw_limits, draw_points, excluded_points, far_from, view

if TYPE_CHECKING:
    from ..scaling import LawComparison

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (3, 1.5)), (0, (1, 1)))  # best, within 2 AICc, within 10, beyond


def plot_comparison(
    comparison: LawComparison, ax: Any = None, *, log: bool = True, extend: float = 2.0, title: str | None = None
) -> Any:
    """Return the Axes of all forms over the scores; width and dashes go by what the data say for each.

    The best form is solid and widest. The others are the thinner the less their Akaike weight; those within 2 AICc of
    the best have long dashes, those within 10 short ones, the rest are grey dots. All are drawn to `extend` times the
    largest budget, where they part; a dotted line marks where the data end. The legend has for each form how far its
    AICc lies above the least, and for another criterion its value. Excluded points are open.

    Args:
        comparison: from `compare_laws`.
        ax: where to draw; None makes a figure, with its legend below.
        log: logarithmic axis of budgets.
        extend: draw the curves to this multiple of the largest budget.
        title: of the picture; by default it says which form is best, whether the data can tell, and what the best form
            is worth on held-out budgets.
    """
    own = ax is None
    ax = axes_or_new(ax, "plot_comparison", width=7.0, height=4.6)
    best = comparison.fits[comparison.best]
    n = np.asarray(best.n, float)
    x = (np.geomspace if log else np.linspace)(n.min(), n.max() * max(extend, 1.0), 250)
    rows = sorted(comparison.table(), key=lambda row: row["form"] != comparison.best)  # of equals the chosen one first
    curves = {row["form"]: comparison.fits[row["form"]](x) for row in rows}
    low, high = view(best, curves.values(), log_n=log)
    far, most = far_from(low, high, log=False), max(comparison.weights.values())
    if log:
        ax.set_xscale("log")
    ax.set_ylim(low, high)
    bright = 0
    for rank, row in enumerate(rows):
        form, delta = row["form"], row["delta"]
        level = 0 if rank == 0 else 1 if delta <= 2 else 2 if delta <= 10 else 3
        color = GREY if level == 3 else COLORS[bright % len(COLORS)]
        bright += level < 3
        width = 2.6 if rank == 0 else 0.8 + 1.2 * math.sqrt(comparison.weights[form] / most)
        ax.plot(x, np.clip(curves[form], *far), color=color, linestyle=DASHES[level], linewidth=width,
                label=f"{form} ({_value(comparison, form, delta)})", zorder=3 - 0.2 * level)  # fmt: skip
    draw_points(ax, best, "black", 4.5)
    ax.axvline(n.max(), color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    draw_limits(ax, best)
    ax.set_ylabel("score")
    ax.set_title(verdict(comparison) if title is None else title, fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, np.concatenate([n, excluded_points(best, log=log)[:, 0]]), log=log)
    if own:
        legend_below(ax)
    else:
        ax.legend(frameon=False, fontsize=8)
    return ax


def verdict(comparison: LawComparison) -> str:
    """Return in words which form is best, whether the data can tell, and whether it predicts."""
    best, by = comparison.best, CRITERIA[comparison.criterion]
    if len(comparison.fits) == 1:
        said = f"{best} is the only form that takes these data"
    elif comparison.undecided:
        said = f"{best} is best by {by}, but the data cannot tell it from {', '.join(comparison.undecided)}"
    elif comparison.criterion == "aicc":
        second = next(row for row in comparison.table() if row["form"] != best)
        far = f"{number(second['delta'])} above" if math.isfinite(second["delta"]) else "infinitely far"
        said = f"{best} is best by {by}, and the data can tell: {second['form']}, the next, is {far}"
    else:
        said = f"{best} is best by {by}"
    skill = comparison.skill[best]
    said = "\n".join(textwrap.wrap(said, 88))
    if skill is None or not math.isfinite(skill.skill):
        return said
    held = f"held-out budgets: error of {best} {skill.mape:.1%}, of the best score carried on {skill.baseline_mape:.1%}"
    return f"{said}\n{held}"


def _value(comparison: LawComparison, form: str, delta: float) -> str:
    value = comparison.values[form]
    if comparison.criterion == "aicc":
        return f"ΔAICc {number(delta, 2) if delta < 10 else number(delta)}"
    return f"error {value:.1%}" if comparison.criterion == "holdout" else f"error {number(value)}"
