"""Reads any CSV table of scores and budgets, a sweep's or somebody else's, into the groups that laws are fitted to."""

from __future__ import annotations

import contextlib
import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..sweep.table import BASELINES, COLUMNS
from . import _print

X_NAMES = ("mean_tokens", "num_tokens_kept", "num_tokens", "n")
GROUPS = ("model", "compressor", "task")

X = Annotated[str | None, typer.Option("--x", help=f"Column of budgets; by default the first of {', '.join(X_NAMES)}.")]
Y = Annotated[str, typer.Option("--y", help="Column of scores.")]
Group = Annotated[
    str | None,
    typer.Option(help=f"Columns whose values tell curves apart; by default {', '.join(GROUPS)} where present."),
]
Form = Annotated[
    str | None, typer.Option(help="Form of the law: power (default), power_additive, loglinear, saturating, ...")
]
Compare = Annotated[bool, typer.Option("--compare", help="Fit every form and take the best by AICc.")]
Joint = Annotated[
    str | None, typer.Option(help="Law of model size and tokens together: product, additive, loglinear. Needs --size.")
]
Size = Annotated[str | None, typer.Option("--size", help="Column of model sizes, for --joint.")]
Level = Annotated[float, typer.Option(help="Confidence level of the intervals.")]
Floor = Annotated[float | None, typer.Option(help="The least possible score.")]
Ceil = Annotated[float | None, typer.Option(help="The largest possible score.")]
Items = Annotated[int | None, typer.Option("--n-items", help="Test items behind each score.")]


@dataclass(frozen=True)
class Curve:
    """The points of one group, and what is known of their errors."""

    group: dict[str, str]
    n: list[float]
    score: list[float]
    extra: dict[str, Any]
    name: str = "all rows"  # the values that tell this curve from the others
    full: float | None = None  # the score of the unpatched model, where a sweep measured it
    size: list[float] | None = None  # model sizes, for joint laws


def read_curves(
    path: Path,
    *,
    x: str | None,
    y: str,
    group: str | None,
    n_items: int | None,
    floor: float | None,
    ceil: float | None,
    size: str | None = None,
) -> list[Curve]:
    """Return the curves in a CSV file; rows that are no measurement are left out and counted on stderr.

    With a column of model sizes, a curve holds all models.
    """
    header, lines = _read(path)
    if x is None:
        x = next((name for name in X_NAMES if name in header and any(row[name].strip() for row in lines)), None)
        if x is None:
            raise InputError(f"{path} has no column of budgets; it has {', '.join(header)}. Pass --x COLUMN")
    for option, name in (("--x", x), ("--y", y), ("--size", size)):
        if name is not None and name not in header:
            near = next((column for column in header if column not in (x, *X_NAMES)), None)
            said = f". Pass {option} {near}." if near and option == "--y" else ""
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(header)}{said}")
    columns = [name for name in _group_columns(path, header, group) if size is None or group or name != "model"]
    rows = _measured(path, header, lines)
    is_sweep = tuple(header) == COLUMNS
    found: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = {}
    for line, row in rows:
        found.setdefault(tuple(row[c] for c in columns), []).append((line, row))
    curves = []
    for key, members in found.items():
        extra = _errors(path, header, members, n_items)
        if floor is not None or ceil is not None:
            extra |= {name: value for name, value in (("floor", floor), ("ceil", ceil)) if value is not None}
        elif is_sweep and "n_items" in extra:
            extra |= {"floor": 0.0, "ceil": 1.0}
        n, score = ([_number(path, line, name, row[name]) for line, row in members] for name in (x, y))
        if "n_items" in extra and "ceil" not in extra and n_items is None and not 0 <= min(score) <= max(score) <= 100:
            del extra["n_items"]  # it gives chi2 alone, and that needs the scale of the scores
            said = ", ".join(key) or "all rows"
            _print.note(f"{path}: {said}: n_items is not used, since scores exceed 0 to 100; pass --floor and --ceil")
        telling = [v for i, v in enumerate(key) if v and (len({other[i] for other in found}) > 1 or len(found) == 1)]
        group_of = {c: v for c, v in zip(columns, key) if v}
        sizes = None if size is None else [_number(path, line, size, row[size]) for line, row in members]
        full = _full(lines, group_of, y) if is_sweep else None
        curves.append(Curve(group_of, n, score, extra, ", ".join(telling) or "all rows", full, sizes))
    return curves


def _full(rows: Sequence[dict[str, str]], group: dict[str, str], y: str) -> float | None:
    """Return the score of the unpatched model in the rows of the same model and task."""
    same = [
        row
        for row in rows
        if row["compressor"] == "none"
        and row["status"] == "ok"
        and all(row[c] == value for c, value in group.items() if c in ("model", "task"))
    ]
    scores = [float(row[y]) for row in same if row[y].strip()]
    return sum(scores) / len(scores) if scores else None


def fit_curve(curve: Curve, *, form: str | None, level: float, say: bool = True) -> Any:
    """Return the fit of a curve; its warnings come to stderr with the curve's name, if asked."""
    from ..scaling import fit_power_law

    with _noted(curve, say):
        return fit_power_law(curve.n, curve.score, form=form or "power", level=level, **curve.extra)


def compare_curve(curve: Curve, *, form: str | None, level: float) -> Any:
    """Return the comparison of all forms on a curve."""
    from ..scaling import compare_laws

    if form is not None:
        raise InputError(f"--compare tries every form; leave out --form {form}, or leave out --compare")
    return compare_laws(curve.n, curve.score, level=level, **curve.extra)


def joint_curve(curve: Curve, *, form: str, level: float, say: bool = True) -> Any:
    """Return the joint law of a curve with sizes; where the largest possible score is known, of the error below it."""
    from ..scaling import fit_joint_law

    ceil = curve.extra.get("ceil")
    y = curve.score if ceil is None else [ceil - value for value in curve.score]
    with _noted(curve, say):
        return fit_joint_law(curve.size, curve.n, y, form=form, level=level)


def budget_of(curve: Curve, fit: Any, retain: float) -> Any:
    """Return the budget that keeps a share of the unpatched score, or of that at the largest budget without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the budget carries them
        if curve.full is not None:
            return fit.budget_for(retain * curve.full, of="score")
        return fit.budget_for(retain)


@contextlib.contextmanager
def _noted(curve: Curve, say: bool) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught if say else ():
        _print.note(f"tokscale: {curve.name}: {warning.message}")


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a CSV file" if path.is_dir() else f"{path}: no such file")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in file if line.strip() and not line.startswith("#")]
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8; a CSV file is needed") from None
    table = list(csv.reader(lines))
    if len(table) < 2:
        raise InputError(f"{path} holds no rows; a header and at least one row are needed")
    header = [name.strip() for name in table[0]]
    for number, cells in enumerate(table[1:], start=2):
        if len(cells) != len(header):
            raise InputError(f"{path}: row {number} has {len(cells)} cells, the header has {len(header)}")
    return header, [dict(zip(header, cells)) for cells in table[1:]]


def _group_columns(path: Path, header: Sequence[str], group: str | None) -> list[str]:
    if group is None:
        return [name for name in GROUPS if name in header]
    columns = [name.strip() for name in group.split(",") if name.strip()]
    for name in columns:
        if name not in header:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(header)}")
    return columns


def _measured(path: Path, header: Sequence[str], rows: Sequence[dict[str, str]]) -> list[tuple[int, dict[str, str]]]:
    """Leave out what no law is fitted to, and say how much that was."""
    kept, failed, baselines = [], 0, 0
    for line, row in enumerate(rows, start=2):
        if "status" in header and row["status"] != "ok":
            failed += 1
        elif "status" in header and row.get("compressor") in BASELINES:
            baselines += 1
        else:
            kept.append((line, row))
    if failed or baselines:
        rows_of = "row of a baseline" if baselines == 1 else "rows of baselines"
        _print.note(f"{path}: left out {baselines} {rows_of} and {failed} whose status is not ok")
    if not kept:
        raise InputError(f"{path} holds no row that a law can be fitted to")
    return kept


def _errors(
    path: Path, header: Sequence[str], members: Sequence[tuple[int, dict[str, str]]], n_items: int | None
) -> dict[str, Any]:
    """Return standard errors, or else counts of items, where every point of the curve has them."""
    if n_items is not None:
        return {"n_items": n_items}
    for column, keyword in (("se", "se"), ("stderr", "se"), ("n_items", "n_items")):
        if column in header and all(row[column].strip() for _, row in members):
            return {keyword: [_number(path, line, column, row[column]) for line, row in members]}
    return {}


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise InputError(f"{path}: row {line}, column {column}: {cell!r} is not a number") from None
