"""`plot_alpha_by_range`: the exponent against the largest budget it was fitted to. Under a law it does not drift."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ._common import COLORS, GREY, axes_or_new, budget_axis, tidy

if TYPE_CHECKING:
    from ..scaling import ScalingFit


def plot_alpha_by_range(fit: ScalingFit, ax: Any = None, *, color: str = COLORS[0]) -> Any:
    """Return the Axes of the exponent (positive for growth) fitted to the first 3, 4, ... budgets, with its intervals.

    The band is the interval from all budgets. Points outside of it say that one exponent does not serve the range.

    Args:
        fit: of a form with a constant exponent, `power` or `power_additive`.
        ax: where to draw; None makes a figure.
        color: of the points.

    Raises:
        AttributeError: the form has no constant exponent.
    """
    ranges = fit.alpha_by_range()
    ax = axes_or_new(ax, "plot_alpha_by_range", width=5.2, height=3.4)
    for each in ranges:
        if math.isfinite(each.lo) and math.isfinite(each.hi):
            ax.vlines(each.n_max, -each.hi, -each.lo, color=color, linewidth=1.2)
    ax.plot([each.n_max for each in ranges], [-each.alpha for each in ranges], "o", color=color, markersize=4.5)
    low, high = fit.exponent_ci
    if math.isfinite(low) and math.isfinite(high):
        ax.axhspan(low, high, color=color, alpha=0.12, linewidth=0)
    ax.axhline(fit.exponent, color=color, linewidth=1)
    ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    middle = [-each.alpha for each in ranges] + [low, high, 0.0]
    middle = [value for value in middle if math.isfinite(value)]
    room = 0.5 * max(max(middle) - min(middle), 1e-3)
    ax.set_ylim(min(middle) - room, max(middle) + room)
    ax.set_ylabel("exponent")
    tidy(ax)
    budget_axis(ax, [each.n_max for each in ranges])
    ax.set_xlabel("largest budget fitted")
    return ax
