"""The loss of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError
from ._common import COLORS, axes_or_new, legend_below, tidy


def plot_training(history: Sequence[Mapping[str, Any]], *, ax: Any = None) -> Any:
    """Return Axes with the loss against the step: each step as a dot in its budget's colour, and a running mean.

    Args:
        history: a dict per step with `step`, `budget` and `loss`, as in `TrainResult.history`.
        ax: Axes to draw into; None makes a Figure.

    Raises:
        ArgumentError: the history is empty.
    """
    if not history:
        raise ArgumentError("history is empty: no step was done")
    ax = axes_or_new(ax, "plot_training")
    budgets = sorted({entry["budget"] for entry in history})
    for i, budget in enumerate(budgets):
        steps = [entry["step"] for entry in history if entry["budget"] == budget]
        losses = [entry["loss"] for entry in history if entry["budget"] == budget]
        color = COLORS[i % len(COLORS)]
        ax.plot(steps, losses, ".", color=color, markersize=3, alpha=0.6, label=f"{budget} tokens")
    window = max(1, len(history) // 40)
    means = [
        sum(entry["loss"] for entry in history[max(0, i - window + 1) : i + 1]) / min(window, i + 1)
        for i in range(len(history))
    ]
    ax.plot([entry["step"] for entry in history], means, color="black", linewidth=1.2, label=f"mean of {window} steps")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    tidy(ax)
    legend_below(ax)
    return ax
