"""`tokscale fit`: a scaling law per curve of a CSV table, with intervals and the budget it answers with."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from . import _options, _print, _table


def fit(
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A sweep's table, or any with budgets and scores.")],
    x: _table.X = None,
    y: _table.Y = "score",
    group: _table.Group = None,
    form: _table.Form = "power",
    retain: Annotated[float, typer.Option(help="Share of the score at the largest budget to keep.")] = 0.95,
    level: _table.Level = 0.95,
    floor: _table.Floor = None,
    ceil: _table.Ceil = None,
    n_items: _table.Items = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 unless every interval of the exponent excludes 0.")
    ] = False,
    as_json: _options.AsJson = False,
) -> None:
    """Fit S(n) = c / n^alpha to each curve of a table: exponent, interval, and the budget that is enough.

    Rows whose status is not ok and the baselines none and native are left out. Standard errors (se, stderr) or counts
    (n_items) are used where every row of a curve has them.
    """
    _options.share(retain)
    curves = _table.read_curves(table, x=x, y=y, group=group, n_items=n_items, floor=floor, ceil=ceil)
    fits = [_table.fit_curve(curve, form=form, level=level, say=as_json) for curve in curves]
    budgets = [_budget(fit, retain) for fit in fits]
    mean = _mean(curves, fits, form)
    if as_json:
        entries = [
            {"group": curve.group, "n_obs": fit.n_obs, "fit": fit.to_dict(), "budget": budget.to_dict()}
            for curve, fit, budget in zip(curves, fits, budgets)
        ]
        _print.document({"schema": 1, "fits": entries, **({"mean": mean} if mean else {})})
    else:
        for curve, fit, budget in zip(curves, fits, budgets):
            _print.out(f"{curve.name} ({fit.n_obs} points)")
            _print.out("  " + _exact(fit))
            _print.out("  " + _answer(budget))
            _print.out("\n".join(f"  {line}" for line in fit.summary().splitlines()) + "\n")
        if mean:
            low, high = mean["ci"]
            said = f"mean exponent of {len(fits)} curves: {mean['exponent']:.5g} [{low:.5g}, {high:.5g}]"
            _print.out(f"{said}, spread between curves {mean['tau']:.3g}")
    if strict and not all(map(_identified, fits)):
        _print.note("the exponent is not identified: its interval is unknown or contains 0")
        raise typer.Exit(1)


def _budget(fit: Any, retain: float) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the budget carries them
        return fit.budget_for(retain)


def _exact(fit: Any) -> str:
    """Return the parameters with five significant digits, which `summary` rounds further."""
    said = []
    for name, value in fit.params.items():
        low, high = fit.ci.get(name, (math.nan, math.nan))
        said.append(f"{name} = {value:#.5g} [{low:#.5g}, {high:#.5g}]")
    return ", ".join(said)


def _answer(budget: Any) -> str:
    share = f"{budget.target:.0%} of the score at the largest budget"
    if budget.reachable:
        interval = f" [{budget.lo:.4g}, {budget.hi:.4g}]" if math.isfinite(budget.lo) else ""
        return f"{share}: {budget.n} tokens by the law{interval}; {_observed(budget)}"
    return f"{share}: no answer from this law; {_observed(budget)}"


def _observed(budget: Any) -> str:
    if budget.observed is None:
        return "no measured budget reached it"
    return f"the smallest measured budget that reached it is {budget.observed:g}"


def _identified(fit: Any) -> bool:
    low, high = fit.exponent_ci
    return math.isfinite(low) and math.isfinite(high) and not low <= 0 <= high


def _mean(curves: Any, fits: Any, form: str) -> dict[str, Any] | None:
    """Return the random-effects mean of the exponents of several power laws that have one."""
    if form != "power" or len(fits) < 2:
        return None
    from ..errors import FitError
    from ..scaling import fit_many

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # each was said above
            named = {f"{i} {curve.name}": (curve.n, curve.score) for i, curve in enumerate(curves)}
            many = fit_many(named)
    except FitError:  # too few points for an error of some exponent
        return None
    return {"exponent": many.mean, "se": many.mean_se, "ci": many.mean_ci, "tau": many.tau, "q": many.q}
