"""What a file already holds against what this run asks: said when a sweep goes on, refused where they do not mix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plan import Cell
from .table import Row

MUST_AGREE = ("n_items", "dtype", "attention")  # they decide a score, and no cell is told apart by them


def refuse_other_settings(path: Path, rows: Iterable[Row], facts: Mapping[str, Any]) -> None:
    """Raise `InputError` if finished rows of the same model and task were measured under other settings.

    Args:
        path: the file that the rows are in.
        rows: its rows.
        facts: the columns that this run knows beforehand; what is unknown on either side is not compared.
    """
    for row in rows:
        if row["status"] != "ok" or any(_differ(row, facts, column) for column in ("model", "revision", "task")):
            continue
        for column in MUST_AGREE:
            if _differ(row, facts, column):
                raise InputError(
                    f"{path} holds rows of {column}={row[column]}, this run asks {column}={facts[column]}: they make "
                    "no one curve. Pass another out, or begin anew (--force; in Python, remove the file)"
                )


def story(path: Path, rows: Sequence[Row], cells: Sequence[Cell], finished: set[str]) -> str:
    """Return the line that a sweep says when it goes on with a file."""
    runs = {cell.run for cell in cells}
    said = f"{len(runs & finished)} of {len(runs)} cells were already in {path}"
    others = [row for row in rows if row["run"] not in runs]
    if others:
        seeds = sorted({row["seed"] for row in others if row["seed"] is not None})
        of = f" (seed {', '.join(map(str, seeds))})" if seeds and not {cell.seed for cell in cells} & {*seeds} else ""
        said += f"; it also holds {len(others)} row{'s' * (len(others) != 1)} of other cells{of}"
    return said


def _differ(row: Mapping[str, Any], facts: Mapping[str, Any], column: str) -> bool:
    held, asked = row.get(column), facts.get(column)
    return held is not None and asked is not None and held != asked
