"""`tokscale plot`: the curves of a CSV table as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import _options, _print, _table

KINDS = ("curve", "residuals", "sweep")
ENDINGS = (".png", ".svg", ".pdf")


def plot(
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A sweep's table, or any with budgets and scores.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[
        str, typer.Option(help="curve: laws with bands; residuals: one law; sweep: the scores alone.")
    ] = "curve",
    x: _table.X = None,
    y: _table.Y = "score",
    group: _table.Group = None,
    form: _table.Form = "power",
    retain: Annotated[float, typer.Option(help="Share of the score that the budget bar is for.")] = 0.95,
    level: _table.Level = 0.95,
    floor: _table.Floor = None,
    ceil: _table.Ceil = None,
    n_items: _table.Items = None,
    chance: Annotated[float | None, typer.Option(help="Score of a guess, for --kind sweep.")] = None,
    force: _options.Force = False,
) -> None:
    """Draw the fitted curves of a table, or a sweep's scores with their intervals."""
    from .._checks import one_of
    from ..errors import InputError

    one_of("kind", kind, KINDS)
    _options.share(retain)
    _print.fresh(out, force=force, endings=ENDINGS)
    if kind == "sweep":
        from ..plotting import plot_sweep
        from ..sweep import SweepResult

        ax = plot_sweep(SweepResult.from_csv(table), chance=chance)
    else:
        curves = _table.read_curves(table, x=x, y=y, group=group, n_items=n_items, floor=floor, ceil=ceil)
        if kind == "residuals" and len(curves) > 1:
            names = "; ".join(curve.name for curve in curves)
            raise InputError(f"--kind residuals draws one curve, {table} has {len(curves)} ({names}); filter the table")
        fits = [_table.fit_curve(curve, form=form, level=level) for curve in curves]
        ax = _draw([curve.name for curve in curves], fits, retain, residuals=kind == "residuals")
    ax.figure.savefig(out)
    _print.out(str(out))


def _draw(names: list[str], fits: list[Any], retain: float, *, residuals: bool) -> Any:
    from ..plotting import plot_fit
    from ..plotting._common import COLORS, budget_axis, legend_below

    if len(fits) == 1:
        return plot_fit(fits[0], target=retain, residuals=residuals)
    ax = None
    for index, (name, fit) in enumerate(zip(names, fits)):
        label = f"{name}: exponent {fit.exponent:.3g}" if fit.form == "power" else name
        ax = plot_fit(fit, ax, target=None, bands=("mean",), color=COLORS[index % len(COLORS)], label=label)
    if ax is not None:
        budget_axis(ax, [n for fit in fits for n in fit.n])
        ax.set_title(f"{fits[0].form} laws", fontsize=10, loc="left")
        legend_below(ax)
    return ax
