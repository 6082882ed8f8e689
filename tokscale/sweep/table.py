"""The table of a sweep: its columns, its CSV file, and `SweepResult`."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import write_whole
from ..errors import ArgumentError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from ..scaling import LawComparison, ScalingFit

SCHEMA = 1
BASELINES = ("none", "native")
_NUMBERS = """num_tokens_kept mean_tokens native_tokens score stderr prompt_tokens seconds vision_ms compress_ms
prefill_ms decode_tokens_per_s prefill_tflop vision_tflop kv_cache_mib peak_memory_mib"""
_COUNTS = "schema num_tokens images n_items seed batch_size rank world_size"
_ORDER = """schema run status error model revision compressor arguments num_tokens num_tokens_kept mean_tokens
native_tokens images task metric score stderr n_items seed prompt_tokens seconds vision_ms compress_ms prefill_ms
decode_tokens_per_s prefill_tflop vision_tflop kv_cache_mib peak_memory_mib device dtype attention batch_size rank
world_size torch transformers triton tokscale commit started"""
COLUMNS, _INT, _FLOAT = (tuple(names.split()) for names in (_ORDER, _COUNTS, _NUMBERS))
Row = dict[str, Any]


def as_row(values: Mapping[str, Any]) -> Row:
    """Return a full row in the order of the columns, with None where `values` says nothing."""
    strange = [key for key in values if key not in COLUMNS]
    if strange:
        raise ArgumentError(f"a sweep's table has no column {strange[0]!r}; it has {', '.join(COLUMNS)}")
    return {column: values.get(column) for column in COLUMNS} | {"schema": SCHEMA}


def to_line(row: Mapping[str, Any]) -> str:
    """Return one line of CSV; None is empty, a number is written so that it reads back to the bit."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["" if row[c] is None else row[c] for c in COLUMNS])
    return buffer.getvalue()


HEADER = ",".join(COLUMNS) + "\n"


def read_rows(path: str | os.PathLike[str]) -> tuple[list[Row], str]:
    """Return the complete rows of a sweep's file, and its torn last line (an empty string if there is none)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a CSV file" if Path(path).is_dir() else f"{path}: no such file")
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    if (
        HEADER.startswith(text) and text != HEADER
    ):  # empty, or torn within the header: nothing is lost by starting again
        return [], text
    header = text.partition("\n")[0].rstrip("\r")
    if header != HEADER.rstrip("\n"):
        raise InputError(f"{path} is not the table of a sweep: its columns are {_shorten(header)}; nothing was written")
    rows, torn = [], ""
    body = text[text.index("\n") + 1 :]
    if body and not body.endswith("\n"):
        cut = body.rfind("\n") + 1
        body, torn = body[:cut], body[cut:]
    for number, cells in enumerate(csv.reader(io.StringIO(body, newline="")), start=2):
        if len(cells) != len(COLUMNS):
            raise InputError(f"{path}: row {number} has {len(cells)} cells, the header has {len(COLUMNS)}")
        rows.append({c: _parse(path, number, c, cell) for c, cell in zip(COLUMNS, cells, strict=True)})
    return rows, torn


def write_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole table aside, then put it in the place of `path` in one step."""
    write_whole(path, HEADER + "".join(to_line(row) for row in rows))


def append_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append the rows of one cell and return when they are on the disk."""
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write("".join(to_line(row) for row in rows))
        file.flush()
        os.fsync(file.fileno())


def _parse(path: Path, number: int, column: str, cell: str) -> Any:
    if cell == "":
        return None
    kind: Callable[[str], Any] = int if column in _INT else float if column in _FLOAT else str
    try:
        return kind(cell)
    except ValueError:
        raise InputError(f"{path}: row {number}, column {column}: {_shorten(cell)!r} is not a number") from None


def _shorten(text: str, width: int = 80) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


@dataclass(frozen=True, repr=False)
class SweepResult:
    """The rows of a sweep: one dict per (model, compressor, budget, task, seed), None where a value is unknown.

    Args:
        rows: dicts with the columns of `tokscale.sweep`; a missing column is unknown.

    Example:
        >>> result = SweepResult([{"status": "ok", "compressor": "divprune", "mean_tokens": k, "score": 0.1 * k ** 0.5}
        ...                       for k in (1, 4, 16)])
        >>> result.filter(compressor="divprune").num_tokens
        array([ 1.,  4., 16.])
        >>> round(result.fit().exponent, 6)
        0.5
    """

    rows: tuple[Row, ...]

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        object.__setattr__(self, "rows", tuple(as_row(row) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"SweepResult({self._summary()})"

    @property
    def fitted(self) -> tuple[Row, ...]:
        """The rows that a law may be fitted to: `ok`, no baseline, with a score and a number of tokens."""
        return tuple(row for row in self.rows if is_fitted(row))

    @property
    def num_tokens(self) -> np.ndarray:
        """Mean vision tokens per image of the fitted rows, float64 (over layers, where tokens leave on the way)."""
        return np.array([tokens_of(row) for row in self.fitted], dtype=float)

    @property
    def scores(self) -> np.ndarray:
        """Scores of the fitted rows, float64, in the order of `num_tokens`."""
        return np.array([row["score"] for row in self.fitted], dtype=float)

    def filter(self, **equal: Any) -> SweepResult:
        """Return the rows whose columns equal the given values, such as `filter(compressor="divprune", seed=0)`."""
        for column in equal:
            _known_column(column)
        return SweepResult(row for row in self.rows if all(row[c] == value for c, value in equal.items()))

    def groups(self, *columns: str) -> dict[Any, SweepResult]:
        """Return the rows by the values of the columns (a tuple for several), in order of appearance."""
        if not columns:
            raise ArgumentError("groups() needs at least one column, such as groups('compressor')")
        found: dict[Any, list[Row]] = {}
        for row in self.rows:
            key = tuple(row[_known_column(c)] for c in columns)
            found.setdefault(key[0] if len(columns) == 1 else key, []).append(row)
        return {key: SweepResult(rows) for key, rows in found.items()}

    def fit(self, **keywords: Any) -> ScalingFit:
        """Return `fit_power_law` of the fitted rows; where they count items, scores are shares in [0, 1] of `n_items`.

        Args:
            keywords: of `tokscale.fit_power_law`; `n_items`, `floor` and `ceil` come from the table unless given.

        Raises:
            InputError: the rows are of several models, compressors, arguments or tasks, which share no curve.
            FitError: as in `fit_power_law`.
        """
        from ..scaling import fit_power_law

        return fit_power_law(self.num_tokens, self.scores, **self._counted() | keywords)

    def compare(self, **keywords: Any) -> LawComparison:
        """Return `compare_laws` of the fitted rows: which form of the law is best, and whether the data can tell.

        Args:
            keywords: of `tokscale.compare_laws`; `n_items`, `floor` and `ceil` come from the table unless given.

        Raises:
            InputError, FitError: as in `fit`.
        """
        from ..scaling import compare_laws

        return compare_laws(self.num_tokens, self.scores, **self._counted() | keywords)

    def _counted(self) -> dict[str, Any]:
        """Return what the rows say of their scores, after checking that they are one curve."""
        rows = self.fitted
        for column in ("model", "compressor", "arguments", "task", "metric"):
            values = sorted({str(row[column]) for row in rows})
            if len(values) > 1:
                raise InputError(
                    f"these rows hold {len(values)} values of {column} ({_shorten(', '.join(values))}), which share no "
                    f"curve; choose one by filter({column}=...) or take each by groups({column!r})"
                )
        items = [row["n_items"] for row in rows]
        return {"n_items": np.array(items), "floor": 0.0, "ceil": 1.0} if items and all(items) else {}

    def plot(self, **keywords: Any) -> Any:
        """Return the Axes of `tokscale.plotting.plot_sweep` of this table."""
        from ..plotting import plot_sweep

        return plot_sweep(self, **keywords)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table; a file that is there is replaced in one step, a missing folder is an `InputError`."""
        write_rows(path, self.rows)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> SweepResult:
        """Return the table in `path`; a torn last line (an interrupted sweep) is left out.

        Raises:
            InputError: no such file, other columns than a sweep's, or a cell that is no number where one is needed.
        """
        return cls(read_rows(path)[0])

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`; needs pandas, which nothing else here does."""
        try:
            import pandas
        except ImportError:
            raise MissingDependencyError(
                "SweepResult.to_pandas needs pandas, which is not installed. Run: pip install pandas"
            ) from None
        return pandas.DataFrame(list(self.rows), columns=list(COLUMNS))

    def _summary(self) -> str:
        counts = {s: sum(row["status"] == s for row in self.rows) for s in ("ok", "failed", "skipped")}
        return f"{len(self.rows)} rows: " + ", ".join(f"{count} {status}" for status, count in counts.items())

    def _repr_html_(self) -> str:
        shown = ("model", "compressor", "num_tokens", "num_tokens_kept", "task", "score", "stderr", "n_items", "status")
        head = "".join(f"<th>{c}</th>" for c in shown)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show(row[c]))}</td>" for c in shown) + "</tr>" for row in self.rows
        )
        return f"<table><caption>{self._summary()}</caption><tr>{head}</tr>{body}</table>"


def is_fitted(row: Mapping[str, Any]) -> bool:
    """Whether a law may be fitted to this row."""
    good = row["status"] == "ok" and row["compressor"] not in BASELINES
    return good and row["score"] is not None and tokens_of(row) is not None


def tokens_of(row: Mapping[str, Any]) -> float | None:
    """Return where a row stands on the axis of tokens: the mean over layers, else tokens kept, else tokens asked."""
    for column in ("mean_tokens", "num_tokens_kept", "num_tokens"):
        if row.get(column) is not None:
            return float(row[column])
    return None


def show(value: Any) -> str:
    """Return a cell for a reader: nothing for None, four significant digits for a fraction."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _known_column(column: str) -> str:
    if column not in COLUMNS:
        from .._checks import suggestion

        raise ArgumentError(f"a sweep's table has no column {column!r}.{suggestion(column, COLUMNS)}".rstrip("."))
    return column
