"""The columns of the CSV files, written row by row so that an interrupted run loses nothing."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch

from tokscale import _provenance

from . import rates
from .case import Case

FIELDS = (
    "op", "case", "provider", "mode", "b", "n", "t", "m", "h", "g", "d", "k", "dtype", "ms_p20", "ms_p50", "ms_p80",
    "graph_ms", "gb_s", "tflop_s", "roof_percent", "peak_mib", "error", "own_error", "device", "sm", "torch",
    "triton", "transformers", "commit", "date", "tests",
)  # fmt: skip
RESULTS = pathlib.Path(__file__).parent.parent / "results"


class Table:
    """A CSV file under way. Every row has every column; `stamp` says where and with what all of them were measured."""

    def __init__(self, path: pathlib.Path, fields: Sequence[str], stamp: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.stamp, self.rows = stamp, list[dict[str, Any]]()
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, fields, lineterminator="\n", restval="")
        self._writer.writeheader()

    def add(self, row: dict[str, Any]) -> None:
        row = {**row, **self.stamp}
        self.rows.append(row)
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
        self._writer.writerow(shown)
        self._file.flush()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def stamp(device: torch.device, tests: str) -> dict[str, Any]:
    """Return the columns that all rows of a run share."""
    versions = _provenance.versions()
    return {
        "device": rates.device_name(device),
        "sm": rates.capability(device),
        **{name: versions[name] for name in ("torch", "triton", "transformers")},
        "commit": _provenance.commit(),
        "date": _provenance.now(),
        "tests": tests,
    }


def of_case(op: str, case: Case) -> dict[str, Any]:
    """Return the columns that say what was computed; a size that means nothing here is empty."""
    sizes = {name: getattr(case, name) or "" for name in ("b", "n", "t", "m", "h", "g", "d", "k")}
    return {"op": op, "case": case.name, **sizes, "dtype": str(case.dtype).removeprefix("torch.")}


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Return the rows of a file, or none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(row: dict[str, str], field: str) -> float | None:
    """Return a cell as a number; None where it is empty or says why there is none."""
    try:
        return float(row[field])
    except (KeyError, ValueError):
        return None


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows for a reader."""
    lines = [
        f"{'case':<26}{'b':>3}{'m':>6} {'provider':<42}{'mode':<9}{'ms':>10}{'graph':>9}{'roof %':>7}{'MiB':>9}  error"
    ]
    for row in rows:
        cells = [row.get(name) for name in ("ms_p50", "graph_ms", "roof_percent", "peak_mib")]
        shown = ["" if cell in (None, "") else f"{float(cell):.{digits}f}" for cell, digits in zip(cells, (3, 3, 1, 1))]  # type: ignore[arg-type]
        error = row.get("error", "")
        error = f"{error:.1e}" if isinstance(error, float) else str(error)[:60]
        lines.append(
            f"{row['case']:<26}{row['b']:>3}{row['m']:>6} {row['provider']:<42}{row['mode']:<9}"
            f"{shown[0]:>10}{shown[1]:>9}{shown[2]:>7}{shown[3]:>9}  {error}"
        )
    return "\n".join(lines)
