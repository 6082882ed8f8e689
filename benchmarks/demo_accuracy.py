"""The demo model on held-out questions: unpatched, blind, and at every budget of each compressor.

Shares come with 95 % Wilson intervals.

    python -m benchmarks.demo_accuracy                    # 2048 questions per kind, about ten minutes on one core
    python -m benchmarks.demo_accuracy --questions 256    # a quick look

writes `benchmarks/results/demo_accuracy.csv` (a sweep's table) and `docs/demo-results.md`.
"""

from __future__ import annotations

import argparse
import pathlib
import platform
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import tokscale
from tokscale import demo
from tokscale.scaling import wilson_interval

KINDS = ("cell", "most", "row", "count")
BUDGETS = (1, 2, 4, 6, 9, 16, 36, 72)
HERE = pathlib.Path(__file__).parent


def prepared(processor: Any, questions: int, batch_size: int) -> dict[str, list[tuple[Any, list[str]]]]:
    """Return the collated batches and right answers of each kind: made once, asked at every budget."""
    ready = {}
    for kind in KINDS:
        chosen = demo.samples(questions, seed=7, split="test", kind=kind)
        parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
        ready[kind] = [(demo.collate(part, processor), [sample.answer for sample in part]) for part in parts]
    return ready


def correct(model: Any, processor: Any, batches: list[tuple[Any, list[str]]]) -> int:
    """Return the number of right first words."""
    right = 0
    for inputs, answers in batches:
        with torch.no_grad():
            best = model(**inputs).logits[:, -1].argmax(-1).tolist()
        right += sum(a == b for a, b in zip(processor.tokenizer.convert_ids_to_tokens(best), answers))
    return right


def blind(model: Any, processor: Any, questions: int) -> dict[str, int]:
    """Return the right answers to `cell` questions with a black picture, and with another sample's."""
    chosen = demo.samples(questions, seed=7, split="test", kind="cell")
    black = Image.fromarray(np.zeros((96, 96, 3), np.uint8))
    others = [*chosen[1:], chosen[0]]
    swapped = {
        "black picture": [replace(sample, image=black) for sample in chosen],
        "another sample's picture": [replace(sample, image=other.image) for sample, other in zip(chosen, others)],
    }
    return {name: demo.evaluate(model, processor, asked).correct for name, asked in swapped.items()}


def shown(right: float, n: int) -> str:
    low, high = wilson_interval(round(right) / n, n)
    return f"{right / n:.3f} ({low:.3f}, {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2048, help="per kind")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "demo_accuracy.csv")
    parser.add_argument("--page", type=pathlib.Path, default=HERE.parent / "docs" / "demo-results.md")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)
    model, processor = demo.load()
    ready, n = prepared(processor, options.questions, options.batch_size), options.questions

    def evaluate(patched: Any) -> dict[str, dict[str, Any]]:
        return {
            kind: {"score": correct(patched, processor, batches) / n, "n_items": n, "metric": "accuracy"}
            for kind, batches in ready.items()
        }

    methods = {name: name for name in ("adaptive_pool", "divprune", "random", "uniform", "topk")}
    fusers = {f"fuser_{name}": demo.load_fuser(name) for name in ("question", "blind")}
    meta = {"model": "demo", "batch_size": options.batch_size}
    result = tokscale.sweep(
        model, {**methods, **fusers}, evaluate, budgets=BUDGETS, baselines=("none",), out=options.out, meta=meta
    )
    seen = blind(model, processor, n)

    lines = [
        "# The demo model, measured",
        "",
        f"Accuracy on {n} held-out questions per kind (test scans, seed 7), with the 95 % Wilson interval. Pictures",
        "are made of only 360 test scans, so the intervals understate the uncertainty about new scans. The model knows",
        "`cell` (one digit of 36, named by row and column), partly `most` (the most frequent digit), and cannot count.",
        "The fusers were trained on `cell` questions alone.",
        "",
        f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()} CPU, one thread.",
        "Made by `python -m benchmarks.demo_accuracy`; all rows in `benchmarks/results/demo_accuracy.csv`.",
        "",
        "| kind | unpatched, 144 tokens |",
        "| --- | --- |",
    ]
    full = {row["task"]: row for row in result.rows if row["compressor"] == "none"}
    lines += [f"| `{kind}` | {shown(full[kind]['score'] * n, n)} |" for kind in KINDS]
    lines += ["", "| `cell`, blind | accuracy |", "| --- | --- |"]
    lines += [f"| {name} | {shown(right, n)} |" for name, right in seen.items()]
    for kind in KINDS:
        lines += ["", f"## `{kind}`", "", "| compressor | " + " | ".join(map(str, BUDGETS)) + " |"]
        lines += ["| --- |" + " --- |" * len(BUDGETS)]
        for name in [*methods, *fusers]:
            rows = {row["num_tokens"]: row for row in result.rows if (row["compressor"], row["task"]) == (name, kind)}
            cells = [shown(rows[k]["score"] * n, n) if rows[k]["status"] == "ok" else "failed" for k in BUDGETS]
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    options.page.parent.mkdir(exist_ok=True)
    options.page.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
