"""`tokscale sweep`: compressors x budgets on a model, row by row into a CSV file that can be resumed."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .._files import writable
from ..errors import ArgumentError
from . import _options, _print

TASKS = ("cell", "row", "count", "most")


def sweep(
    compressor: _options.Compressors,
    budgets: _options.Budgets,
    model: _options.Model = "demo",
    task: Annotated[str | None, typer.Option(help=f"A task of the demo model: {', '.join(TASKS)}.")] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="MODULE:FUNCTION; called as FUNCTION(model, processor), or FUNCTION(model).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file; one that is there is resumed.")] = None,
    argument: _options.Arguments = None,
    samples: Annotated[int, typer.Option(help="Questions of the demo's task.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Prompts in a forward pass of the demo's task.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of each cell.")] = 0,
    baselines: Annotated[
        str | None, typer.Option(help="none,native, one of them, or an empty string; by default those that can run.")
    ] = None,
    device: _options.Device = "cpu",
    dtype: _options.Dtype = "auto",
    attention: _options.Attention = None,
    force: _options.Force = False,
    as_json: _options.AsJson = False,
    quiet: _options.Quiet = False,
) -> None:
    """Score a model under compressors at several token budgets.

    Without --out, the CSV goes to stdout. Exit code 1 says that some cells failed; they are rows of the table.
    """
    from .._checks import one_of, positive_int

    _options.check_model(model)
    from ..sweep import sweep as run
    from ..sweep.table import HEADER, read_rows, to_line

    known = _options.read_budgets(budgets)
    chosen = _options.read_compressors(compressor, _options.read_arguments(argument))
    wanted = None if baselines is None else tuple(name for name in baselines.split(",") if name)
    if (task is None) == (evaluate is None):
        raise ArgumentError("give one of --task and --evaluate")
    if task is not None:
        one_of("task", task, TASKS)
        if model != "demo":
            raise ArgumentError(f"--task {task} is a task of the demo model; with --model {model} pass --evaluate")
    positive_int(samples, "--samples"), positive_int(batch_size, "--batch-size")
    if out is not None and writable(out, f"--out {out}").exists():
        read_rows(out)  # raises for a file of something else, which --force does not replace either
    function = None if evaluate is None else _options.read_function(evaluate)  # last: importing it may take long
    asked = None if task is None else _questions(task, samples)
    needed = function is not None and _takes_processor(function)
    loaded, processor = _options.load_model(
        model, device=device, dtype=dtype, attention=attention, processor=needed or function is None
    )
    if out is not None and force:
        out.unlink(missing_ok=True)
    meta: dict[str, Any] = {"model": model} if model == "demo" else {}
    if asked is not None:
        meta |= {"task": task, "metric": "accuracy", "batch_size": batch_size, "n_items": len(asked)}
        score: Any = functools.partial(_ask, processor, asked, batch_size)
    else:
        score = _scorer(function, processor) if needed else function
    first = os.environ.get("RANK", "0") == "0"
    log = None
    if out is None and not as_json and first:
        sys.stdout.write(HEADER)
        log = lambda row: (sys.stdout.write(to_line(row)), sys.stdout.flush())  # noqa: E731
    if wanted is None and function is not None and not needed:
        wanted = ("none",)  # it makes its inputs itself: turning the processor here would change nothing there
    result = run(
        loaded, chosen, score, budgets=known, processor=processor, baselines=wanted, seeds=(seed,), out=out,
        progress=not quiet, log=log, meta=meta,
    )  # fmt: skip
    if not first:
        return
    cells = {row["run"]: row["status"] for row in result.rows}
    failed = sum(status == "failed" for status in cells.values())
    if as_json:
        _print.document(
            {"schema": 1, "rows": list(result.rows), "failed": failed, "cells": len(cells), "out": out and str(out)}
        )
    elif out is not None:
        shown = ("compressor", "num_tokens", "num_tokens_kept", "task", "score", "n_items", "seconds", "status")
        _print.table(shown, [[row[name] for name in shown] for row in result.rows])
        _print.note(f"wrote {out}")
    if failed:
        _print.note(f"{failed} of {len(cells)} cells failed: see status=failed")
        raise typer.Exit(1)


def _questions(task: str, samples: int) -> Any:
    from ..demo import samples as draw

    return draw(samples, kind=task)


def _ask(processor: Any, questions: Any, batch_size: int, model: Any) -> dict[str, Any]:
    from ..demo import evaluate

    found = evaluate(model, processor, questions, batch_size=batch_size)
    return {"score": found.accuracy, "n_items": found.n}


def _takes_processor(function: Any) -> bool:
    """Whether `function` can be called with a model and a processor."""
    import inspect

    try:
        inspect.signature(function).bind("model", "processor")
    except TypeError:
        return False
    return True


def _scorer(function: Any, processor: Any) -> Any:
    """Return a function of a model and a processor as a function of the model."""

    @functools.wraps(function)
    def score(model: Any) -> Any:
        return function(model, processor)

    return score
