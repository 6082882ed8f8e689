"""The steps of `tokscale demo`, in the order in which it takes them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import demo, hf, plotting
from .. import profile as profiles
from .. import report as pages
from ..demo.model import FOLDER
from ..report.answer import Answer, answers, held_out, which_laws
from ..sweep import sweep as run_sweep
from ..sweep.table import SweepResult
from . import _print
from ._demo_pictures import QUARTER, kept_figure, side_by_side, thumbnail
from ._demo_table import LiveTable

BUDGETS = (1, 2, 4, 9, 16, 36, 72)
CHANCE = 0.1
SHOWN = 3  # questions that are shown with their answers
BATCH = 64
PROFILED = 16  # prompts in a timed call
FUSERS = {"fuser_question": "question", "fuser_blind": "blind"}
NAMES = {"fuser_question": "fuser, hears the question", "fuser_blind": "fuser, hears nothing"}


def draw(n: int, seed: int) -> list[Any]:
    """Return the questions: digits at a place, on scans that training never saw."""
    return demo.samples(n, seed=seed, split="test", kind="cell")


def load() -> tuple[Any, Any]:
    """Return the packaged model and its processor; one thread, since matrices of 64 columns gain nothing from more."""
    torch.set_num_threads(1)
    return demo.load()


@functools.cache
def compressors() -> dict[str, Any]:
    """Return what the demo compares; the fusers where the package holds them."""
    found: dict[str, Any] = {name: name for name in ("adaptive_pool", "divprune", "random")}
    for label, name in FUSERS.items():
        if (FOLDER / label / "model.safetensors").exists():
            found[label] = demo.load_fuser(name)
    return found


def to_show(asked: Sequence[Any]) -> list[Any]:
    """Return a few questions, no two alike."""
    first: dict[str, Any] = {}
    for sample in asked:
        first.setdefault(sample.question, sample)
    return list(first.values())[:SHOWN]


def introduce(model: Any, caution: str) -> None:
    """Say what runs here."""
    from .._provenance import versions

    shown = ", ".join(f"{name} {version}" for name, version in versions().items() if version is not None)
    tokens = model.config.image_seq_length
    _print.out(f"{type(model).__name__}, {model.num_parameters():,} parameters, {tokens} vision tokens per image")
    _print.out(f"{shown}; {model.device}, {torch.get_num_threads()} thread")
    _print.out(caution + "\n")


def show_samples(model: Any, processor: Any, asked: Sequence[Any]) -> None:
    """Show pictures, questions, and the answers at falling budgets."""
    _print.out(side_by_side([thumbnail(sample.image) for sample in asked]))
    ways: list[tuple[str, Any, int | None]] = [("144 (unpatched)", None, None), ("36 divprune", "divprune", 36)]
    ways += [("36 adaptive_pool", "adaptive_pool", 36), ("4 divprune", "divprune", 4)]
    if "fuser_question" in compressors():
        ways.append(("1 fuser, hears the question", compressors()["fuser_question"], 1))
    said = {name: predict(model, processor, asked, compressor, budget) for name, compressor, budget in ways}
    rows = [
        [sample.question, sample.answer, *(_marked(said[name][i], sample.answer) for name, _, _ in ways)]
        for i, sample in enumerate(asked)
    ]
    _print.table(["question", "right", *(name for name, _, _ in ways)], rows)


def predict(model: Any, processor: Any, asked: Sequence[Any], compressor: Any, budget: int | None) -> list[str]:
    """Return the answers of the model, patched unless `compressor` is None."""
    if compressor is None:
        return demo.evaluate(model, processor, asked).predictions
    with hf.patch(model, compressor, num_tokens=budget):
        return demo.evaluate(model, processor, asked).predictions


def sweep(model: Any, processor: Any, asked: Sequence[Any], path: Path) -> SweepResult:
    """Return the accuracy at every budget, shown as it grows, written row by row."""
    path.unlink(missing_ok=True)
    batches = [demo.collate(asked[i : i + BATCH], processor) for i in range(0, len(asked), BATCH)]
    right = [sample.answer for sample in asked]

    def accuracy(patched: Any) -> dict[str, Any]:
        said: list[str] = []
        with torch.no_grad():
            for batch in batches:
                best = patched(**batch, logits_to_keep=1).logits[:, -1].argmax(-1)
                said += processor.tokenizer.convert_ids_to_tokens(best.tolist())
        return {"score": sum(a == b for a, b in zip(said, right)) / len(right), "n_items": len(right)}

    meta = {"model": "demo", "task": "cell", "metric": "accuracy", "batch_size": BATCH}
    with LiveTable(list(compressors()), BUDGETS, NAMES, len(asked), CHANCE) as table:
        return run_sweep(
            model, compressors(), accuracy, budgets=BUDGETS, baselines=("none",), out=path, progress=False, meta=meta,
            log=table.add,
        )  # fmt: skip


def answer(result: SweepResult) -> list[Answer]:
    """Return law, budget and savings per compressor."""
    return answers(result, share=0.95)


def profile(model: Any, processor: Any, asked: Sequence[Any], found: Sequence[Answer]) -> Any:
    """Return measured times: each compressor at the budget that was enough for it, and divprune at a quarter."""
    budgets = {a.compressor: [int(a.observed["num_tokens"])] for a in found if a.observed is not None}
    budgets.setdefault("divprune", [])
    if QUARTER not in budgets["divprune"]:
        budgets["divprune"].append(QUARTER)
    chosen = {label: compressors()[label] for label in budgets}
    size = "x".join(map(str, asked[0].image.size))
    inputs = demo.collate(asked[:PROFILED], processor)
    return profiles.profile(model, chosen, inputs, budgets=budgets, new_tokens=0, image_size=size)


def tell(found: Sequence[Answer], profile: Any) -> None:
    """Print the law of each curve, the budget that keeps 95 %, and what it saves."""
    base = profile.rows[0]
    timed = {(row["compressor"], row["num_tokens"]): row for row in profile.rows[1:]}
    rows = []
    for one in found:
        row = None if one.observed is None else timed.get((one.compressor, int(one.observed["num_tokens"])))
        saved = [f"{share:.0%}" for share in one.saved.values()] or ["", ""]
        spent = ["", ""] if row is None else [_spent(base, row, "prefill_ms"), _spent(base, row, "ttft_ms")]
        rows.append(
            [NAMES.get(one.compressor, one.compressor), one.exponent, one.law, one.by_law, one.measured, *saved, *spent]
        )
    goal = found[0].goal if found else 0.0
    head = ("compressor", "exponent [95 %]", "best law", "tokens by it", "measured", "FLOPs saved", "KV saved",
            "prefill ms", "first token ms")  # fmt: skip
    _print.out(f"\nThe budget that keeps 95 % of the unpatched accuracy, which is {goal:.3f}:")
    _print.table(head, rows)
    _print.out(which_laws(found, NAMES))
    _print.out(held_out(found, NAMES))
    _print.out(
        f"The exponent is that of S(n) = c n^exponent, which chance ({CHANCE:g}) lifts at the low end and 1 bounds at "
        "the other:\nit sums up the middle. Where a law and the measurement differ, trust the measurement. Intervals "
        "are for new\nquestions on 360 test scans, and too narrow for new scans. Savings and times are those of "
        f"`measured`, times\nfor {PROFILED} prompts ({profile.title}): prefill is the language model alone, first "
        "token adds the\nvision tower and the compressor."
    )
    quarter = timed.get(("divprune", QUARTER))
    if quarter is not None:
        prefill, first = (quarter[name] / base[name] for name in ("prefill_ms", "ttft_ms"))
        _print.out(
            f"divprune at {QUARTER} of 144 tokens takes {prefill:.2f} of the unpatched prefill time, "
            f"{first:.2f} of the time to the first token."
        )
    for note in profile.notes:
        _print.out(note)
    enough = [f"{one.measured} for {NAMES.get(one.compressor, one.compressor)}" for one in found if one.observed]
    if enough:
        _print.out(f"Answer: of 144 vision tokens, this task needs {'; '.join(enough)}; all of them for the others.")


def _spent(base: Any, row: Any, name: str) -> str:
    return f"{base[name]:.1f} -> {row[name]:.1f}"


def draw_pictures(
    model: Any,
    processor: Any,
    asked: Sequence[Any],
    result: SweepResult,
    found: Sequence[Answer],
    out: Path,
    *,
    train: bool,
) -> Iterator[tuple[str, str, Any]]:
    """Yield (file name, caption, Figure) of each picture."""
    yield (
        "kept.png",
        "Which tokens were kept, and whether the answer was right",
        kept_figure(model, processor, to_show(asked)),
    )
    laws = {one.compressor: one.fit for one in found if one.fit is not None}
    title = f"Demo model, {len(asked)} questions about held-out scans per point"
    curve = plotting.plot_sweep(result, chance=CHANCE, fits=laws, names=NAMES, title=title)
    yield "curve.png", "Accuracy against the token budget", curve.figure
    ladder, caption = _ladder(model, out, train)
    if ladder is not None:
        full = next((row["score"] for row in result.rows if row["compressor"] == "none"), None)
        yield "ladder.png", caption, plotting.plot_ladder(ladder, full=full, chance=CHANCE, caption=caption).figure


def _ladder(model: Any, out: Path, train: bool) -> tuple[Any, str]:
    from ..demo.recipe import read_recipe

    if train:
        from ..demo.ladder import ladder

        _print.note("training the ladder: a fuser that is told nothing, the row, the cell")
        found: Any = ladder(model, out=out, seeds=(0,))
        where = "trained just now"
    else:
        found, where = read_recipe(FOLDER).get("ladder"), "recorded in recipe.json when the package was made"
    if not found or not found.get("rungs"):
        return None, ""
    settings = found.get("settings", {})
    seeds = max(len(runs) for runs in found["rungs"].values())
    how = [f"{seeds} fuser{'s' * (seeds != 1)} a rung", f"{settings.get('n', '?')} questions a point"]
    return found, f"{where}: {', '.join(how)}, {settings.get('steps', '?')} steps each"


def write_report(result: SweepResult, path: Path, profile: Any, pictures: dict[str, Any], caution: str) -> Path:
    """Write the page."""
    lead = [
        "A small trained vision-language model answers questions about held-out handwritten digits at several "
        "vision-token budgets.",
        caution,
    ]
    footnotes = [
        "Chance is .10 and lifts the low end of every curve, and no score exceeds 1: a power law is a summary of the "
        "middle, not a claim about either end. One toy model, one task.",
        "The pictures are made of 360 test scans, so the intervals understate the uncertainty about new scans.",
        "The [CLS] token of this model was never trained, so nothing here speaks for or against methods that read it.",
    ]
    return pages.write(
        result, path, lead=lead, chance=CHANCE, profile=profile, pictures=pictures, footnotes=footnotes, names=NAMES,
        title="tokscale demo: how few vision tokens are enough?",
    )  # fmt: skip


def _marked(said: str, right: str) -> str:
    return said if said == right else f"{said} (wrong)"
