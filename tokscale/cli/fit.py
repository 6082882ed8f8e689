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
    form: _table.Form = None,
    compare: _table.Compare = False,
    joint: _table.Joint = None,
    size: _table.Size = None,
    retain: Annotated[
        float, typer.Option(help="Share of the unpatched score to keep; of that at the largest budget without one.")
    ] = 0.95,
    level: _table.Level = 0.95,
    floor: _table.Floor = None,
    ceil: _table.Ceil = None,
    n_items: _table.Items = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 unless every interval of the exponent excludes 0.")
    ] = False,
    as_json: _options.AsJson = False,
) -> None:
    """Fit a law such as S(n) = c / n^alpha to each curve of a table: parameters, intervals, the budget that is enough.

    Rows whose status is not ok and the baselines none and native are left out. Standard errors (se, stderr) or counts
    (n_items) are used where every row of a curve has them. With --joint, the error below --ceil is fitted where that is
    known, else the column as it is.
    """
    _options.share(retain)
    if joint is not None or size is not None:
        _joint(table, joint, size, x, y, group, form, compare, level, floor, ceil, n_items, as_json)
        return
    curves = _table.read_curves(table, x=x, y=y, group=group, n_items=n_items, floor=floor, ceil=ceil)
    found = [_table.compare_curve(curve, form=form, level=level) for curve in curves] if compare else []
    if compare:
        fits = [one.fits[one.best] for one in found]
    else:
        fits = [_table.fit_curve(curve, form=form, level=level, say=as_json) for curve in curves]
    budgets = [_table.budget_of(curve, fit, retain) for curve, fit in zip(curves, fits)]
    mean = _mean(curves, fits)
    if as_json:
        entries = [
            {"group": curve.group, "n_obs": fit.n_obs, "fit": fit.to_dict(), "budget": budget.to_dict()}
            for curve, fit, budget in zip(curves, fits, budgets)
        ]
        for entry, one in zip(entries, found):
            entry["comparison"] = one.to_dict()
        _print.document({"schema": 1, "fits": entries, **({"mean": mean} if mean else {})})
    else:
        for i, (curve, fit, budget) in enumerate(zip(curves, fits, budgets)):
            _print.out(f"{curve.name} ({fit.n_obs} points)")
            _print.out("  " + _exact(fit))
            _print.out("  " + _answer(curve, budget, retain))
            for text in (found[i].summary() if compare else "", fit.summary()):
                _print.out("\n".join(f"  {line}" for line in text.splitlines()) + "\n" * bool(text))
        if mean:
            low, high = mean["ci"]
            said = f"mean exponent of {len(fits)} curves: {mean['exponent']:.5g} [{low:.5g}, {high:.5g}]"
            _print.out(f"{said}, spread between curves {mean['tau']:.3g}")
    if strict and not all(map(_identified, fits)):
        _print.note("the exponent is not identified: its interval is unknown or contains 0")
        raise typer.Exit(1)


def _joint(
    table: Path, form: str | None, size: str | None, x: Any, y: str, group: Any, other: Any, compare: bool,
    level: float, floor: Any, ceil: Any, n_items: Any, as_json: bool,
) -> None:  # fmt: skip
    from ..errors import InputError

    if form is None or size is None:
        raise InputError("a joint law takes both --joint FORM and --size COLUMN")
    if other is not None or compare:
        raise InputError("--joint fits size and tokens together; leave out --form and --compare")
    curves = _table.read_curves(
        table, x=x, y=y, group=group, n_items=n_items, floor=floor, ceil=ceil, size=size
    )  # fmt: skip
    fits = [_table.joint_curve(curve, form=form, level=level, say=as_json) for curve in curves]
    if as_json:
        entries = [{"group": c.group, "n_obs": fit.n_obs, "fit": fit.to_dict()} for c, fit in zip(curves, fits)]
        _print.document({"schema": 1, "joint": entries})
        return
    for curve, fit in zip(curves, fits):
        what = f"{curve.extra['ceil']:g} - {y}" if "ceil" in curve.extra else y
        _print.out(f"{curve.name} ({fit.n_obs} points), y = {what}")
        _print.out("\n".join(f"  {line}" for line in fit.summary().splitlines()) + "\n")


def _exact(fit: Any) -> str:
    """Return the parameters with five significant digits, which `summary` rounds further."""
    said = []
    for name, value in fit.params.items():
        low, high = fit.ci.get(name, (math.nan, math.nan))
        said.append(f"{name} = {value:#.5g} [{low:#.5g}, {high:#.5g}]")
        if name == "alpha":
            said[-1] += f" (growth exponent {-value:#.5g})"
    return ", ".join(said)


def _answer(curve: Any, budget: Any, retain: float) -> str:
    share = f"{retain:.0%} of the score at the largest budget"
    if curve.full is not None:
        share = f"{retain:.0%} of the unpatched {curve.full:.4g}"
    if budget.reachable:
        interval = f" [{budget.lo:.4g}, {budget.hi:.4g}]" if math.isfinite(budget.lo) else ""
        return f"{share}: {_observed(budget)}; by the law {budget.n} tokens{interval}"
    return f"{share}: {_observed(budget)}; the law gives no answer"


def _observed(budget: Any) -> str:
    if budget.observed is None:
        return "no measured budget reached it"
    return f"the smallest measured budget that reached it is {budget.observed:g}"


def _identified(fit: Any) -> bool:
    low, high = fit.growth_ci
    return math.isfinite(low) and math.isfinite(high) and not low <= 0 <= high


def _mean(curves: Any, fits: Any) -> dict[str, Any] | None:
    """Return the random-effects mean of the exponents of several power laws that have one."""
    if len(fits) < 2 or any(fit.form != "power" for fit in fits):
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
