"""`plot_many`: small multiples, a panel per curve with its law and the band of its mean."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from ._common import COLORS, new_figure

if TYPE_CHECKING:
    from ..scaling import ManyFit, ScalingFit


def plot_many(fits: Mapping[str, ScalingFit] | ManyFit, *, columns: int = 6, size: float = 1.75) -> Any:
    """Return a Figure with a panel per fit: points, law, band of its mean, name and exponent. Panels share no y axis.

    Args:
        fits: `{name: fit}`, or what `fit_many` returned.
        columns: panels side by side.
        size: of a panel, in inches.

    Raises:
        ArgumentError: no fits.
    """
    named: Mapping[str, Any] = fits.fits if hasattr(fits, "fits") else fits  # type: ignore[assignment]
    if not named:
        raise ArgumentError("plot_many needs at least one fit, got none")
    columns = min(columns, len(named))
    rows = math.ceil(len(named) / columns)
    figure = new_figure("plot_many", width=size * columns, height=(size + 0.15) * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax in panels.flat[len(named) :]:
        ax.set_axis_off()
    for ax, (name, fit) in zip(panels.flat, named.items()):
        _panel(ax, name, fit)
    figure.supxlabel("vision tokens per image", fontsize=9)
    figure.supylabel("score", fontsize=9)
    return figure


def _panel(ax: Any, name: str, fit: ScalingFit) -> None:
    n = np.asarray(fit.n, float)
    x = np.geomspace(n.min(), n.max(), 100)
    ax.set_xscale("log")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        low, high = fit.interval(x) if fit.ci_method != "kendall" and fit.robust != "lad" else (x * np.nan, x * np.nan)
    if np.isfinite(low).all() and np.isfinite(high).all():
        ax.fill_between(x, low, high, color=COLORS[0], alpha=0.2, linewidth=0)
    ax.plot(x, fit(x), color=COLORS[0], linewidth=1.2)
    ax.plot(n, fit.score, "o", color="black", markersize=2.2)
    said = f"exponent {fit.exponent:.3g}" if "alpha" in fit.params else fit.form
    ax.set_title(f"{name}\n{said}", fontsize=7)
    room = 0.25 * max(float(np.ptp(fit.score)), 1e-12)
    ax.set_ylim(float(np.min(fit.score)) - room, float(np.max(fit.score)) + room)
    ax.tick_params(labelsize=6, length=2)
    ax.spines[["top", "right"]].set_visible(False)
