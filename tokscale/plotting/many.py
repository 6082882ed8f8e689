"""`plot_many`: small multiples, a panel per curve with its law and the band of its mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from ._common import COLORS, budget_axis, new_figure, number
from ._law import draw_band, draw_limits, draw_points, excluded_points, far_from, view

if TYPE_CHECKING:
    from ..scaling import ManyFit, ScalingFit


def plot_many(
    fits: Mapping[str, ScalingFit] | ManyFit,
    *,
    columns: int = 6,
    size: float = 1.9,
    log: bool = True,
    title: str = "",
) -> Any:
    """Return a Figure with a panel per fit: points, law, band of its mean, name and exponent.

    Panels share the style and no axis. A form without a constant exponent shows the local one at the largest budget,
    `d ln S / d ln n`.

    Args:
        fits: `{name: fit}`, of any forms, or what `fit_many` returned.
        columns: panels side by side.
        size: of a panel, in inches.
        log: logarithmic axes of budgets.
        title: of the whole.

    Raises:
        ArgumentError: no fits, or less than one column.
    """
    named: Mapping[str, ScalingFit] = fits if isinstance(fits, Mapping) else fits.fits
    if not named:
        raise ArgumentError("plot_many needs at least one fit, got none")
    if columns < 1:
        raise ArgumentError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(named))
    rows = math.ceil(len(named) / columns)
    figure = new_figure("plot_many", width=size * columns + 0.3, height=(size + 0.1) * rows + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax in panels.flat[len(named) :]:
        ax.remove()
    for ax, (name, fit) in zip(panels.flat, named.items()):
        _panel(ax, name, fit, log)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.supxlabel("vision tokens per image", fontsize=9)
    figure.supylabel("score", fontsize=9)
    return figure


def _panel(ax: Any, name: str, fit: ScalingFit, log: bool) -> None:
    n = np.asarray(fit.n, float)
    x = (np.geomspace if log else np.linspace)(n.min(), n.max(), 120)
    y = fit(x)
    low, high = view(fit, [y], log_n=log)
    far = far_from(low, high, log=False)
    ax.set_ylim(low, high)
    draw_band(ax, fit, x, "mean", far, color=COLORS[0], alpha=0.2)
    ax.plot(x, np.clip(y, *far), color=COLORS[0], linewidth=1.2)
    budget_axis(ax, [*n, *excluded_points(fit, log=log)[:, 0]], log=log, apart=0.2)
    ax.set_xlabel("")
    draw_points(ax, fit, "black", 2.4)
    draw_limits(ax, fit)
    ax.set_title(f"{name}\n{exponent_text(fit)}", fontsize=7)
    ax.locator_params(axis="y", nbins=5)
    ax.tick_params(labelsize=6, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def exponent_text(fit: ScalingFit) -> str:
    """Return the exponent with its interval, or the form with the local exponent at the largest budget."""
    if "alpha" not in fit.params:
        return f"{fit.form}: exponent {_short(float(fit.slope_at(fit.n.max())))} at {fit.n.max():g}"
    low, high = fit.exponent_ci
    interval = "" if math.isnan(low) or math.isnan(high) else f" [{_short(low)}, {_short(high)}]"
    return f"exponent {_short(fit.exponent)}{interval}"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else number(value)
