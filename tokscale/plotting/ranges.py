"""`plot_alpha_by_range`: the exponent against the largest budget it was fitted to. Under a law it does not drift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ._common import COLORS, GREY, axes_or_new, budget_axis, number, tidy

if TYPE_CHECKING:
    from ..scaling import ScalingFit


def plot_alpha_by_range(fit: ScalingFit, ax: Any = None, *, log: bool = True, color: str = COLORS[0]) -> Any:
    """Return the Axes of the exponent (positive for growth) fitted to the first 3, 4, ... budgets, with its intervals.

    The line and the band are the exponent and its interval from all budgets. Points that move away from them, all to
    one side, say that one exponent does not serve the range. Intervals of a few budgets may run out of the view.

    Args:
        fit: of a form with a constant exponent, `power` or `power_additive`.
        ax: where to draw; None makes a figure.
        log: logarithmic axis of budgets.
        color: of the points.

    Raises:
        AttributeError: the form has no constant exponent.
        ArgumentError: fewer budgets than the form needs for an interval.
    """
    from ..errors import ArgumentError

    ranges = fit.alpha_by_range()
    if not ranges:
        raise ArgumentError(f'plot_alpha_by_range needs {fit.law.min_interval} budgets for form="{fit.form}"')
    ax = axes_or_new(ax, "plot_alpha_by_range", width=6.0, height=3.6)
    exponents, (low, high) = [0.0 - each.alpha for each in ranges], fit.exponent_ci
    bottom, top = _view(exponents, low, high)
    far = 9 * (top - bottom)
    for each in ranges:
        if not (math.isnan(each.lo) or math.isnan(each.hi)):
            ax.vlines(each.n_max, max(-each.hi, bottom - far), min(-each.lo, top + far), color=color, linewidth=1.2)
    ax.plot([each.n_max for each in ranges], exponents, "o", color=color, markersize=4.5)
    if math.isfinite(low) and math.isfinite(high):
        ax.axhspan(low, high, color=color, alpha=0.12, linewidth=0)
    ax.axhline(fit.exponent, color=color, linewidth=1)
    ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_ylim(bottom, top)
    ax.set_ylabel("exponent")
    interval = "" if math.isnan(low) or math.isnan(high) else f" [{number(low)}, {number(high)}]"
    title = f"{fit.form}: exponent {number(fit.exponent)}{interval} from all {len(set(fit.n.tolist()))} budgets"
    if len(ranges) > 1:
        title += f"\n{number(exponents[0])} from the first {fit.law.min_interval}"
    ax.set_title(title, fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, [each.n_max for each in ranges], log=log, apart=0.075)
    ax.set_xlabel("largest budget fitted")
    return ax


def _view(exponents: list[float], low: float, high: float) -> tuple[float, float]:
    """Return a view of the exponents, of the interval from all budgets as far as it is near, and of 0."""
    span = max(max(*exponents, 0.0) - min(*exponents, 0.0), 1e-3)
    near = [min(max(end, -3 * span), 3 * span) for end in (low, high) if not math.isnan(end)]
    shown = [value for value in (*exponents, *near, 0.0) if not math.isnan(value)]
    room = 0.25 * max(max(shown) - min(shown), 1e-3)
    return min(shown) - room, max(shown) + room
