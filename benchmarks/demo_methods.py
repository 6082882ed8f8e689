"""Every registered method inside the demo model: accuracy of `cell` questions at seven budgets, beside plain pooling.

    python -m benchmarks.demo_methods                     # 1024 questions; trains what must be trained: about an hour
    python -m benchmarks.demo_methods --questions 128 --steps 100      # a quick look

writes `benchmarks/results/demo_methods.csv` (a sweep's table; an interrupted run goes on from it), `docs/results.md`
and `docs/images/methods.png`. Trained methods learn 1500 steps inside the frozen model, as the packaged blind fuser
did; `--weights` keeps them between runs, and what has all its rows in the table is not trained again.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import platform
from typing import Any

import torch
import transformers
from matplotlib.figure import Figure

import tokscale
from benchmarks.demo_accuracy import correct
from tokscale import demo
from tokscale.compressors.registry import compressor_class, keywords_of, trait_of
from tokscale.demo.batches import distorted
from tokscale.demo.fusers import CellPrompts
from tokscale.scaling import wilson_interval
from tokscale.training import train_compressor

BUDGETS = (1, 2, 4, 9, 16, 36, 72)
HERE = pathlib.Path(__file__).parent
REFERENCES = ("adaptive_pool", "uniform", "random", "resize")
MODES: dict[str, tuple[dict[str, Any], bool]] = {  # rows beside a method's defaults: keywords, is it trained
    "topk, learned": ({"score": "learned"}, True),
    "topk, text": ({"score": "text"}, False),
    "adaptive_pool, gated": ({"mode": "gated"}, True),
    "adaptive_pool, projected": ({"mode": "projected"}, True),
}

RATE = 2e-3
RATES = {"vision_selector": 2e-4}  # its scores are products of two projections: at 2e-3 they grow until none can change


def group_of(name: str) -> str:
    """Return the table and the panel in which a training-free method stands."""
    kind = compressor_class(name)
    if name in REFERENCES:
        return "references"
    if kind.question_aware:
        return "hears the question"
    if {"importance", "shallow_importance"} & kind.needs:
        return "reads the tower's attention"
    return "mixes tokens" if kind.mixture else "selects by the tokens alone"


def trained(model: Any, label: str, name: str, options: dict[str, Any], steps: int, weights: pathlib.Path) -> Any:
    """Return a method with its weights: from its folder in `weights`, or trained inside the frozen model and kept."""
    folder = weights / label.replace(", ", "-")
    if (folder / "config.json").exists():
        return tokscale.TokenCompressor.from_pretrained(folder)
    size = {"dim": model.config.text_config.hidden_size}
    if "num_heads" in keywords_of(compressor_class(name)):
        size["num_heads"] = 4
    torch.manual_seed(0)
    module = tokscale.create_compressor(name, num_tokens=max(BUDGETS), **size, **options)
    batches = CellPrompts(model, distorted("train"), seed=0)
    record = train_compressor(model, module, batches, steps=steps, budgets=BUDGETS, lr=RATES.get(name, RATE), seed=0)
    print(f"{label}: {record!r}", flush=True)
    module.save_pretrained(folder)
    return module


def methods(model: Any, steps: int, weights: pathlib.Path, done: set[str]) -> dict[str, tuple[str, Any]]:
    """Return {label: (group, name or module)} for all that is registered, the references first; None where `done`."""
    found: dict[str, tuple[str, Any]] = {}
    for name in sorted(tokscale.list_compressors(), key=lambda name: name not in REFERENCES):
        if name == "cross_attention":
            for which in ("blind", "question"):
                found[f"fuser, {which}"] = ("trained", demo.load_fuser(which))
        elif trait_of(compressor_class(name), "trainable"):
            found[name] = ("trained", None if name in done else trained(model, name, name, {}, steps, weights))
        else:
            found[name] = (group_of(name), name)
    for label, (options, learns) in MODES.items():
        name = label.split(",")[0]
        if learns:
            found[label] = ("trained", None if label in done else trained(model, label, name, options, steps, weights))
        else:
            found[label] = ("hears the question", (name, options))
    return found


def page(rows: list[dict[str, Any]], groups: dict[str, str], n: int) -> list[str]:
    """Return the lines of `docs/results.md`: a table per group, and which methods beat plain pooling."""
    at = {(row["compressor"], row["num_tokens"]): row for row in rows}
    full = next(row for row in rows if row["compressor"] == "none")

    def interval(label: str, k: int) -> tuple[float, float] | None:
        row = at.get((label, k))
        return wilson_interval(row["score"], n) if row and row["status"] == "ok" else None

    def cell(label: str, k: int) -> str:
        found = interval(label, k)
        if found is None:
            return "failed"
        return f"{at[label, k]['score']:.3f} ({found[0]:.3f}, {found[1]:.3f})"

    lines = [
        "# Every method on the demo model",
        "",
        f"Accuracy of `cell` questions (one digit of 36, named by row and column) on {n} held-out questions, with the",
        f"95 % Wilson interval; unpatched, at 144 tokens: {full['score']:.3f}; chance: .1. One small trained",
        "model of 12 x 12 vision tokens, pictures of 36 unrelated digits: how the methods compare where every part of",
        "the picture may be asked about, not how they rank on photographs.",
        "",
        "What hears the question hears `cell r3 c5 ?` as the demo model embeds it: words that are not like digits,",
        "so training-free ones cannot find the cell by them. Video methods see one frame.",
        "",
        f"Trained methods learn 1500 steps at a rate of {RATE:g}; `vision_selector` at {RATES['vision_selector']:g},",
        "since its scores, products of two projections, grow at the higher rate until no gradient is left (chance at",
        "any budget).",
        "",
        f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()} CPU, one thread.",
        "Made by `python -m benchmarks.demo_methods`; all rows in `benchmarks/results/demo_methods.csv`.",
        "",
        "![Accuracy against tokens, a panel per kind of method](images/methods.png)",
    ]
    for group in dict.fromkeys(groups.values()):
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", "| method | " + " | ".join(map(str, BUDGETS)) + " |"]
        lines += ["| --- |" + " --- |" * len(BUDGETS)]
        for label in (each for each, its in groups.items() if its == group):
            lines.append(f"| `{label}` | " + " | ".join(cell(label, k) for k in BUDGETS) + " |")
    lines += ["", "## Against plain pooling", ""]
    lines += ["Above or below: the two intervals do not overlap (stricter than a test of the difference).", ""]
    lines += ["| tokens | `adaptive_pool` | above | below |", "| --- | --- | --- | --- |"]
    for k in BUDGETS:
        low, high = interval("adaptive_pool", k) or (0.0, 1.0)
        above, below = [], []
        for label in groups:
            found = interval(label, k)
            if found and found[0] > high:
                above.append(label)
            elif found and found[1] < low:
                below.append(label)
        named = [", ".join(f"`{label}`" for label in some) or "none" for some in (above, below)]
        lines.append(f"| {k} | {cell('adaptive_pool', k)} | {named[0]} | {named[1]} |")
    return lines


def draw(result: tokscale.SweepResult, groups: dict[str, str], path: pathlib.Path) -> None:
    """Write the figure: a panel per group, the references in grey in each."""
    names = [group for group in dict.fromkeys(groups.values()) if group != "references"]
    figure = Figure(figsize=(7.2 * 2, 4.2 * -(-len(names) // 2)), layout="constrained")
    for place, group in enumerate(names, 1):
        ax = figure.add_subplot(-(-len(names) // 2), 2, place)
        shown = {"none", *REFERENCES, *(label for label, its in groups.items() if its == group)}
        part = type(result)([row for row in result.rows if row["compressor"] in shown])
        tokscale.plotting.plot_sweep(part, ax, chance=0.1, grey=REFERENCES, title=group, legend=False)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1500, help="of training, for each trained method")
    parser.add_argument(
        "--weights", type=pathlib.Path, default=pathlib.Path("demo-out/methods"), help="folder to keep them in"
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "demo_methods.csv")
    parser.add_argument("--page", type=pathlib.Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = demo.load()
    chosen = demo.samples(options.questions, seed=7, split="test", kind="cell")
    parts = [chosen[i : i + 64] for i in range(0, len(chosen), 64)]
    ready = [(demo.collate(part, processor), [sample.answer for sample in part]) for part in parts]
    n = len(chosen)

    def evaluate(patched: Any) -> dict[str, Any]:
        return {"score": correct(patched, processor, ready) / n, "n_items": n, "metric": "accuracy"}

    rows = tokscale.SweepResult.from_csv(options.out).rows if options.out.exists() else []
    there = collections.Counter(row["compressor"] for row in rows if row["status"] == "ok")
    found = methods(model, options.steps, options.weights, {label for label, r in there.items() if r == len(BUDGETS)})
    tokscale.sweep(
        model,
        {label: method for label, (_, method) in found.items() if method is not None},
        evaluate,
        budgets=BUDGETS,
        baselines=("none",),
        out=options.out,
        meta={"model": "demo", "task": "cell", "batch_size": 64, "n_items": n},
    )
    result = tokscale.SweepResult.from_csv(options.out)
    groups = {label: group for label, (group, _) in found.items()}
    lines = page(result.rows, groups, n)
    draw(result, groups, options.page.parent / "images" / "methods.png")
    options.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
