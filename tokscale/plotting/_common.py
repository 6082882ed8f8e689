"""What every picture shares: figures without pyplot, colours that colour-blind readers tell apart, axes of budgets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .._checks import require

# Okabe and Ito's palette without its yellow, which is too pale for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
Z95 = 1.959963984540054


def new_figure(what: str, width: float = 6.4, height: float = 4.2) -> Any:
    """Return a Figure of its own; `what` is the function that a missing matplotlib is reported for."""
    require("matplotlib", extra="plot", what=what)
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def axes_or_new(ax: Any, what: str, **size: float) -> Any:
    """Return the given Axes, or the one of a new Figure."""
    return new_figure(what, **size).add_subplot() if ax is None else ax


def budget_axis(ax: Any, budgets: Iterable[float], *, log: bool = True, apart: float = 0.065) -> None:
    """Make x the axis of token budgets: logarithmic, its ticks at the budgets that stand `apart` of its length."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ax.set_xlabel("vision tokens per image")
    if not log:
        return
    ax.set_xscale("log")
    ticks: list[float] = []
    known = sorted({float(b) for b in budgets})
    spacing = apart * max(math.log(known[-1] / known[0]), 1e-9) if known else 0.0
    for budget in known:
        if not ticks or math.log(budget / ticks[-1]) > spacing:
            ticks.append(budget)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())


def tidy(ax: Any) -> None:
    """Take away what carries no information."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis="y", color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)


def mark_box(ax: Any, corner: tuple[float, float], side: float) -> None:
    """Outline a square of a picture."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=COLORS[4], linewidth=1.6))


def legend_below(ax: Any) -> None:
    """Put the legend of an Axes below its Figure, in as many columns as its words leave room for."""
    labels = ax.get_legend_handles_labels()[1]
    room = 15 * ax.figure.get_figwidth()  # characters at this size, with 7 for each line sample
    for columns in (4, 3, 2, 1):
        rows = math.ceil(len(labels) / columns)
        widths = [max(map(len, labels[i : i + rows])) + 7 for i in range(0, len(labels), rows or 1)]
        if sum(widths) <= room:
            break
    ax.figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def number(value: float, digits: int = 3) -> str:
    """Return a number for a reader: significant digits, no trailing zeros, no exponent where it is avoidable."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "-∞" if value == -math.inf else "unknown"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}" if places < 8 and abs(value) < 1e7 else f"{value:.{digits}g}"
