"""`tokscale plot`: the curves of a CSV table as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import _options, _print, _table

KINDS = ("curve", "residuals", "compare", "joint", "sweep")
ENDINGS = (".png", ".svg", ".pdf")


def plot(
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A sweep's table, or any with budgets and scores.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[
        str,
        typer.Option(
            help="curve: laws with bands; residuals: one law with them; compare: every form over one curve; "
            "joint: size and tokens; sweep: the scores alone."
        ),
    ] = "curve",
    x: _table.X = None,
    y: _table.Y = "score",
    group: _table.Group = None,
    form: _table.Form = None,
    compare: _table.Compare = False,
    joint: _table.Joint = None,
    size: _table.Size = None,
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
        if (joint is None or size is None) != (kind != "joint") or (joint is None) != (size is None):
            raise InputError("a joint law takes --kind joint, --joint FORM and --size COLUMN together")
        curves = _table.read_curves(table, x=x, y=y, group=group, n_items=n_items, floor=floor, ceil=ceil, size=size)
        if kind in ("residuals", "compare", "joint") and len(curves) > 1:
            names = "; ".join(curve.name for curve in curves)
            raise InputError(f"--kind {kind} draws one curve, {table} has {len(curves)} ({names}); filter the table")
        if kind == "joint":
            from ..plotting import plot_joint

            ax = plot_joint(_table.joint_curve(curves[0], form=str(joint), level=level))
        elif kind == "compare":
            ax = _table.compare_curve(curves[0], form=form, level=level).plot()
        else:
            fits = [_fit(curve, form, level, compare) for curve in curves]
            goals = [None if curve.full is None else retain * curve.full for curve in curves]
            ax = _draw([curve.name for curve in curves], fits, retain, goals, residuals=kind == "residuals")
    ax.figure.savefig(out)
    _print.out(str(out))


def _fit(curve: Any, form: str | None, level: float, compare: bool) -> Any:
    if not compare:
        return _table.fit_curve(curve, form=form, level=level)
    found = _table.compare_curve(curve, form=form, level=level)
    return found.fits[found.best]


def _draw(names: list[str], fits: list[Any], retain: float, goals: list[float | None], *, residuals: bool) -> Any:
    from ..plotting import plot_fit
    from ..plotting._common import COLORS, budget_axis, legend_below

    if len(fits) == 1:
        return plot_fit(fits[0], target=retain, target_score=goals[0], residuals=residuals)
    ax = None
    for index, (name, fit) in enumerate(zip(names, fits)):
        label = f"{name}: exponent {fit.exponent:.3g}" if fit.form == "power" else f"{name}: {fit.form}"
        ax = plot_fit(fit, ax, target=None, bands=("mean",), color=COLORS[index % len(COLORS)], label=label)
    if ax is not None:
        budget_axis(ax, [n for fit in fits for n in fit.n])
        forms = list(dict.fromkeys(fit.form for fit in fits))
        ax.set_title(f"{', '.join(forms)} laws", fontsize=10, loc="left")
        legend_below(ax)
    return ax
