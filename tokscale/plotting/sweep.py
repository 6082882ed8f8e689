"""`plot_sweep`: score against the token budget, a line per compressor, between chance and the unpatched model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..scaling import wilson_interval
from ..sweep.table import BASELINES, Row, SweepResult, tokens_of
from ._common import COLORS, GREY, MARKERS, Z95, axes_or_new, budget_axis, legend_below, tidy

if TYPE_CHECKING:
    from ..scaling import ScalingFit


def plot_sweep(
    result: SweepResult,
    ax: Any = None,
    *,
    chance: float | None = None,
    fits: Mapping[str, ScalingFit] | None = None,
    names: Mapping[str, str] | None = None,
    grey: Sequence[str] = (),
    title: str | None = None,
    legend: bool = True,
) -> Any:
    """Return the Axes of scores on a logarithmic axis of budgets, a line per compressor, the unpatched model dashed.

    Bars are 95 % intervals: Wilson's where `n_items` is known, else 1.96 `stderr`, else none. Several seeds are points
    on one line through their mean. The native baseline stands where it kept its tokens.

    Args:
        result: a sweep of one model and one task.
        ax: where to draw; None makes a figure, with its legend below.
        chance: the score of a guess, drawn dotted.
        fits: laws to draw over the points, by compressor.
        names: what the legend calls a compressor.
        grey: compressors to draw thin and grey.
        title: of the picture.
        legend: whether to draw one.

    Raises:
        InputError: no finished row, or several models or tasks, which do not share an axis of scores.
    """
    rows = [row for row in result.rows if row["status"] == "ok" and row["score"] is not None]
    for column in ("model", "task"):
        values = sorted({str(row[column]) for row in rows})
        if len(values) > 1:
            raise InputError(f"plot_sweep draws one {column}, got {', '.join(values)}; use .filter({column}=...)")
    if not rows:
        raise InputError("there is no finished row with a score to draw")
    own = ax is None
    ax = axes_or_new(ax, "plot_sweep", width=7.0, height=4.6)
    labels = list(dict.fromkeys(row["compressor"] for row in rows if row["compressor"] not in BASELINES))
    bright = [label for label in labels if label not in grey]
    for label in labels:
        index = bright.index(label) if label in bright else labels.index(label)
        color = COLORS[index % len(COLORS)] if label in bright else GREY
        style = {"color": color, "marker": MARKERS[index % len(MARKERS)], "label": (names or {}).get(label, label)}
        _line(ax, [row for row in rows if row["compressor"] == label], style, thin=label in grey)
        if fits and label in fits:
            x = np.geomspace(min(fits[label].n), max(fits[label].n), 100)
            ax.plot(x, fits[label](x), color=color, linewidth=1, linestyle=(0, (1, 1)), alpha=0.8)
    if fits:  # one entry in the legend for all of them
        ax.plot([], [], color=GREY, linewidth=1, linestyle=(0, (1, 1)), label="fitted laws")
    native = [row for row in rows if row["compressor"] == "native" and tokens_of(row) is not None]
    if native:
        _line(ax, native, {"color": GREY, "marker": "*", "label": "native", "linestyle": "none"}, thin=False)
    full = [row for row in rows if row["compressor"] == "none"]
    if full:
        _full(ax, full)
    if chance is not None:
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=":", label=f"chance: {chance:g}")
    ax.set_ylabel(_score_name(rows))
    if all(row["n_items"] for row in rows):
        ax.set_ylim(-0.02, 1.04)
    if title:
        ax.set_title(title, fontsize=10, loc="left")
    tidy(ax)
    budget_axis(ax, [tokens for row in rows if (tokens := tokens_of(row))])
    if legend:
        if own:
            legend_below(ax)
        else:
            ax.legend(frameon=False, fontsize=8)
    return ax


def interval_of(row: Row) -> tuple[float, float] | None:
    """Return the 95 % interval of a row's score: Wilson's, else by its standard error, else None."""
    if row["n_items"]:
        return wilson_interval(row["score"], row["n_items"])
    if row["stderr"] is not None:
        return row["score"] - Z95 * row["stderr"], row["score"] + Z95 * row["stderr"]
    return None


def _line(ax: Any, rows: Sequence[Row], style: dict[str, Any], *, thin: bool) -> None:
    placed = sorted((tokens_of(row) or 0.0, row["score"], interval_of(row)) for row in rows if tokens_of(row))
    if not placed:
        return
    marker, label = style.pop("marker"), style.pop("label")
    budgets = sorted({tokens for tokens, _, _ in placed})
    means = [float(np.mean([score for tokens, score, _ in placed if tokens == budget])) for budget in budgets]
    size = {"linewidth": 0.9 if thin else 1.6, "markersize": 3 if thin else 4.5}
    ax.plot(budgets, means, marker=marker, label=label, **{"linestyle": "-", **style, **size})
    if len(placed) > len(budgets):
        ax.plot([t for t, _, _ in placed], [s for _, s, _ in placed], ".", color=style["color"], alpha=0.5)
    for tokens, _, interval in placed:
        if interval is not None:
            ax.vlines(tokens, *interval, color=style["color"], linewidth=0.7 if thin else 1.1, alpha=0.75)


def _full(ax: Any, rows: Sequence[Row]) -> None:
    score = float(np.mean([row["score"] for row in rows]))
    tokens = tokens_of(rows[0])
    label = "unpatched" + (f", {tokens:g} tokens" if tokens else "") + f": {score:.3g}"
    ax.axhline(score, color="black", linewidth=1, linestyle=(0, (5, 3)), label=label)
    if tokens:
        ax.plot([tokens], [score], marker="_", color="black", markersize=9, linestyle="none")
    interval = interval_of(rows[0])
    if interval is not None and len(rows) == 1:
        ax.axhspan(*interval, color="black", alpha=0.06, linewidth=0)


def _score_name(rows: Sequence[Row]) -> str:
    metric = next((row["metric"] for row in rows if row["metric"]), None)
    task = next((row["task"] for row in rows if row["task"]), None)
    return " ".join(part for part in (metric or "score", f"({task})" if task else "") if part)
