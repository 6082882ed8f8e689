"""`tokscale report`: a sweep's table as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from . import _options, _print


def report(
    table: Annotated[Path, typer.Argument(metavar="CSV", help="A sweep's table.")],
    out: Annotated[Path, typer.Option(help="The page, .html.")],
    images: Annotated[
        Path | None, typer.Option(help="A folder of PNG pictures to show, captioned by their names.")
    ] = None,
    retain: Annotated[float, typer.Option(help="Share of the unpatched score that the answer is about.")] = 0.95,
    chance: Annotated[float | None, typer.Option(help="Score of a guess.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "How few vision tokens are enough?",
    model: Annotated[str | None, typer.Option(help="Which model of the table.")] = None,
    task: Annotated[str | None, typer.Option(help="Which task of the table.")] = None,
    force: _options.Force = False,
) -> None:
    """Write the answer of a sweep, its curve, tables and provenance as one HTML page."""
    from .. import report as pages
    from ..sweep import SweepResult

    _options.share(retain)
    _print.fresh(out, force=force, endings=(".html", ".htm"))
    if images is not None and not images.is_dir():
        raise InputError(f"--images {images}: no such folder")
    pictures: dict[str, Any] = {} if images is None else {path.stem: path for path in sorted(images.glob("*.png"))}
    chosen = {name: value for name, value in (("model", model), ("task", task)) if value is not None}
    result = SweepResult.from_csv(table).filter(**chosen)
    pages.write(result, out, title=title, share=retain, chance=chance, pictures=pictures)
    _print.out(str(out))
