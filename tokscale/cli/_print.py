"""Where output goes: data to stdout, notes to stderr; tables for readers, one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .._files import writable
from ..errors import InputError

quiet = False


def note(text: str) -> None:
    """Say something that is no data."""
    print(text, file=sys.stderr, flush=True)


def out(text: str = "") -> None:
    """Write data for a reader."""
    print(text, flush=True)


def document(value: Any) -> None:
    """Write one JSON document; non-finite numbers are the strings "nan", "inf" and "-inf"."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Return the value as plain JSON types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Write a table; columns of numbers stand to the right."""
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(make_table(head, rows, title=title))


def make_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Any:
    """Return a rich table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    rows = [[cell(value) for value in row] for row in rows]
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for index, name in enumerate(head):
        numbers = all(_numeric(row[index]) for row in rows) if rows else False
        made.add_column(escape(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(value) for value in row))
    return made


def cell(value: Any) -> str:
    """Return a cell for a reader: empty for None, four significant digits for a fraction."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fresh(path: Path, *, force: bool, endings: Sequence[str] = ()) -> Path:
    """Return an output path that may be written, or raise: a file that is there is kept unless forced."""
    if endings and path.suffix.lower() not in endings:
        raise InputError(f"--out {path}: the name must end in {', '.join(endings)}")
    writable(path, f"--out {path}")
    if path.exists() and not force:
        raise InputError(f"--out {path} exists; pass --force to replace it, or another name")
    return path


def _numeric(text: str) -> bool:
    return text == "" or text[0].isdigit() or (text[0] in "-+." and text[1:2].isdigit())
