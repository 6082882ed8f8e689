"""The `tokscale` command: one file per sub-command, and the rules that all of them keep.

Data go to stdout, everything else to stderr. Exit codes: 0 done, 1 the answer is no or incomplete, 2 the user's
mistake, 130 interrupted, 70 a defect of tokscale. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from . import _errors, count, demo, doctor, fit, list, plot, profile, report, sweep

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Run any Hugging Face vision-language model at a chosen vision-token budget, and know which budget to choose.",
)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    _errors.show_traceback = debug


for _command in (
    demo.demo, list.list_, doctor.doctor, count.count, sweep.sweep, fit.fit, plot.plot, profile.profile, report.report,
):  # fmt: skip
    app.command(_command.__name__.rstrip("_"))(_errors.guarded(_command))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    app(args=arguments, prog_name="tokscale")
    raise SystemExit(0)
