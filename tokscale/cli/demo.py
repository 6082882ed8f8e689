"""`tokscale demo`: the main job on the packaged model, from a few questions to the budget that is enough."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from . import _options, _print

FILES = ("kept.png", "curve.png", "ladder.png", "sweep.csv", "report.html")
CAUTION = (
    "This shows the mechanism, not the quality of a real model: this one was trained on four kinds of question about "
    "pictures of handwritten digits, and it cannot count."
)


def demo(
    out: Annotated[Path, typer.Option(help=f"Folder for {', '.join(FILES)}.")] = Path("demo-out"),
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Train the ladder's three fusers for real instead of drawing the recorded one (10 minutes)."
        ),
    ] = False,
    questions: Annotated[int, typer.Option(help="Questions behind each score.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the questions.")] = 0,
    force: _options.Force = False,
) -> None:
    """Ask a small trained model at several token budgets: answers, accuracy, law, budget, savings, pictures.

    Under a minute on two cores, offline. A folder that an earlier demo wrote is written again; anything else of these
    names is kept unless --force.
    """
    from .._checks import positive_int, require

    began = time.perf_counter()
    positive_int(questions, "--questions")
    require("matplotlib", extra="demo", what="tokscale demo")
    _check_folder(out, force)
    out.mkdir(parents=True, exist_ok=True)
    from . import _demo_run as run

    asked = run.draw(questions, seed)  # before the model is loaded: it needs scikit-learn
    model, processor = run.load()
    run.introduce(model, CAUTION)
    run.show_samples(model, processor, run.to_show(asked))
    result = run.sweep(model, processor, asked, out / "sweep.csv")
    found = run.answer(result)
    profile = run.profile(model, processor, asked, found)
    run.tell(found, profile)
    written = [out / "sweep.csv"]
    pictures: dict[str, Any] = {}
    for name, caption, drawn in run.draw_pictures(model, processor, asked, result, found, out, train=train):
        drawn.savefig(out / name)
        written.append(out / name)
        if name != "curve.png":  # the report draws its own
            pictures[caption] = out / name
    written.append(run.write_report(result, out / "report.html", profile, pictures, CAUTION))
    _print.out()
    for path in written:
        _print.out(f"wrote {path}")
    _print.out(f"{time.perf_counter() - began:.0f} seconds in all")


def _check_folder(out: Path, force: bool) -> None:
    """Raise if the folder holds files of our names that no demo wrote."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    there = [name for name in FILES if (out / name).exists()]
    if not there or force:
        return
    from ..sweep.table import HEADER

    table, page = out / "sweep.csv", out / "report.html"
    ours = (table.exists() and table.read_text(encoding="utf-8", errors="replace").startswith(HEADER)) or (
        page.exists()
        and '<meta name="generator" content="tokscale' in page.read_text(encoding="utf-8", errors="replace")
    )
    if not ours:
        raise InputError(f"--out {out} holds {there[0]}, which no demo wrote; name another folder, or pass --force")
