"""`plot_ladder`: the more of the question a compressor hears, the fewer tokens suffice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..scaling import wilson_interval
from ._common import COLORS, GREY, MARKERS, budget_axis, legend_below, new_figure, tidy


def plot_ladder(
    ladder: Mapping[str, Any],
    *,
    full: float | None = None,
    chance: float | None = 0.1,
    share: float = 0.9,
    caption: str = "",
) -> Any:
    """Return the Axes of the specificity ladder: accuracy by budget per rung, and the tokens each rung needs.

    Args:
        ladder: `{"rungs": {told: {seed: {num_tokens: {"accuracy", "n"}}}}, "baselines": {name: {num_tokens: ...}}}`, as
            `tokscale.demo.ladder.ladder` returns it. A rung is drawn as the mean of its seeds, with their range as a
            band and the Wilson interval of the mean.
        full: accuracy of the unpatched model; its `share` is what the second panel counts tokens for.
        chance: accuracy of a guess.
        share: of the full accuracy.
        caption: one line below the title: where the numbers come from.

    Returns:
        The Axes of the curves; the second panel is `axes.figure.axes[1]`.

    Raises:
        InputError: `ladder` holds no rung.
    """
    rungs = {told: seeds for told, seeds in (ladder.get("rungs") or {}).items() if seeds}
    if not rungs:
        raise InputError("this ladder holds no rung; run `tokscale demo --train`, or tokscale.demo.ladder.ladder()")
    figure = new_figure("plot_ladder", width=9.2, height=4.4)
    ax, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    budgets: set[int] = set()
    needed: list[tuple[str, int | None, str]] = []
    goal = None if full is None else share * full
    for index, (told, seeds) in enumerate(rungs.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        x, low, mean, high, bars = _rung(seeds)
        budgets.update(x)
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(x, mean, color=color, marker=marker, markersize=5, linewidth=1.8, label=_told(told))
        ax.vlines(x, bars[0], bars[1], color=color, linewidth=1.1, alpha=0.8)
        if goal is not None:
            needed.append((told, next((k for k, m in zip(x, mean) if m >= goal), None), color))
    for index, (name, points) in enumerate((ladder.get("baselines") or {}).items()):
        x = sorted(map(int, points))
        budgets.update(x)
        dashes = ("-", "--", ":", "-.")[index % 4]
        y = [points[str(k)]["accuracy"] for k in x]
        ax.plot(x, y, color=GREY, linewidth=0.9, linestyle=dashes, label=f"{name}, not trained")
    if full is not None:
        ax.axhline(full, color="black", linewidth=1, linestyle=(0, (5, 3)), label=f"unpatched: {full:.3g}")
    if chance is not None:
        ax.axhline(chance, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label=f"chance: {chance:g}")
    ax.set_ylim(-0.02, 1.04)
    ax.set_ylabel("accuracy")
    tidy(ax)
    budget_axis(ax, budgets)
    _needed(right, needed, share, max(budgets))
    title = "The more of the question the compressor hears, the fewer tokens suffice"
    figure.suptitle(title + (f"\n{caption}" if caption else ""), fontsize=9.5)
    legend_below(ax)
    return ax


def _rung(seeds: Mapping[str, Any]) -> tuple[list[int], Any, Any, Any, Any]:
    x = sorted({int(k) for points in seeds.values() for k in points})
    table = np.array([[points[str(k)]["accuracy"] for k in x] for points in seeds.values()])
    items = [next(iter(seeds.values()))[str(k)]["n"] for k in x]
    mean = table.mean(axis=0)
    bars = np.array([wilson_interval(float(m), n) for m, n in zip(mean, items)]).T
    return x, table.min(axis=0), mean, table.max(axis=0), bars


def _needed(ax: Any, needed: list[tuple[str, int | None, str]], share: float, largest: int) -> None:
    ax.set_title(f"tokens for {share:.0%} of unpatched", fontsize=9.5)
    for place, (_, tokens, color) in enumerate(needed):
        ax.barh(place, tokens or largest, color=color, alpha=0.9 if tokens else 0.25, height=0.6, left=0)
        said = f" {tokens}" if tokens else f" more than {largest}"
        ax.text(tokens or largest, place, said, va="center", ha="left" if tokens else "right", fontsize=9)
    ax.set_yticks(range(len(needed)), [_told(told) for told, _, _ in needed], fontsize=8.5)
    ax.set_xlim(0, 1.18 * max([tokens or largest for _, tokens, _ in needed], default=1))
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("vision tokens per image")


def _told(told: str) -> str:
    return "told nothing" if told == "nothing" else f"told the {told}"
