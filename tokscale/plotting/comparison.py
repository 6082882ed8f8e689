"""`plot_comparison`: every form of the law over the scores, the stronger the more the data support it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import COLORS, GREY, axes_or_new, budget_axis, legend_below, tidy

if TYPE_CHECKING:
    from ..scaling import LawComparison

DASHES = ("-", (0, (6, 2)), (0, (3, 1.5)), (0, (1, 1)))  # best, within 2, within 10, beyond


def plot_comparison(comparison: LawComparison, ax: Any = None, *, extend: float = 2.0, title: str | None = None) -> Any:
    """Return the Axes of all forms over the scores; width and dashes go by what the data say for each.

    The best form is solid and widest, forms within 2 AICc of it are dashed, within 10 dotted, the others fine and grey.
    All are drawn to `extend` times the largest budget, where they part. Points that a fit left out are open.

    Args:
        comparison: from `compare_laws`.
        ax: where to draw; None makes a figure, with its legend below.
        extend: draw the curves to this multiple of the largest budget.
        title: of the picture; by default it says which form is best and whether the data can tell.
    """
    own = ax is None
    ax = axes_or_new(ax, "plot_comparison", width=7.0, height=4.6)
    rows = comparison.table()
    best = comparison.fits[comparison.best]
    n, score = np.asarray(best.n, float), np.asarray(best.score, float)
    x = np.geomspace(n.min(), n.max() * max(extend, 1.0), 200)
    least = min(row["aicc"] for row in rows)
    bright = 0
    for rank, row in enumerate(rows):
        above = 0.0 if row["aicc"] == least else row["aicc"] - least
        level = 0 if rank == 0 else 1 if above <= 2 else 2 if above <= 10 else 3
        color = GREY if level == 3 else COLORS[bright % len(COLORS)]
        bright += level < 3
        label = f"{row['form']} (+{above:.3g})" if rank else f"{row['form']} (best)"
        style = {"linestyle": DASHES[level], "linewidth": 2.2 - 0.5 * level, "zorder": 5 - level}
        ax.plot(x, comparison.fits[row["form"]](x), color=color, label=label, **style)
    if best.score_se is not None:
        ax.errorbar(n, score, yerr=1.96 * np.asarray(best.score_se), fmt="none", color="black", linewidth=1, zorder=6)
    ax.plot(n, score, "o", color="black", markersize=4.5, zorder=6)
    if best.excluded_points:
        ax.plot(*zip(*best.excluded_points), "o", markerfacecolor="white", color="black", markersize=4.5, zorder=6)
    ax.axvline(n.max(), color=GREY, linewidth=0.8, linestyle=":")
    room = 0.35 * max(float(score.max() - score.min()), 1e-12)
    ax.set_ylim(score.min() - room, score.max() + room)
    ax.set_ylabel("score")
    ax.set_title(title or _verdict(comparison), fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, n)
    if own:
        legend_below(ax)
    else:
        ax.legend(frameon=False, fontsize=8)
    return ax


def _verdict(comparison: LawComparison) -> str:
    by = {"aicc": "AICc", "loo": "leave-one-out error", "holdout": "error on held-out budgets"}[comparison.criterion]
    if comparison.undecided:
        return f"{comparison.best} is best by {by}, and the data cannot tell it from {', '.join(comparison.undecided)}"
    return f"{comparison.best} is best by {by}" + ("; AICc above the best in brackets" if by == "AICc" else "")
