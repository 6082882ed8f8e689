"""Rebuilds the packaged demo from nothing: `python -m tokscale.demo.train --out DIR --seed 0`.

Trains the model, measures it on the test scans once, trains the two fusers inside the frozen model, measures them, and
writes the folder that `tokscale.demo.load` reads. `--resume` continues an interrupted run to the bit on the same
machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .base import BaseRecipe, train_base
from .data import KINDS, Sample, samples
from .evaluation import evaluate
from .model import make_processor
from .recipe import CHECKPOINT, read_recipe, scored, update_recipe, versions

__all__ = ["main", "measure", "save_package"]

MEASURE_SEED = 1


def save_package(model: Any, folder: Path) -> None:
    """Write model, processor and tokenizer as `from_pretrained` reads them, safetensors only."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id = model.config.text_config.pad_token_id
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)


def measure(model: Any, *, split: str, n: int = 2048, seed: int = MEASURE_SEED) -> dict[str, Any]:
    """Return the accuracies of the model: each kind of question, and `cell` with the picture withheld or exchanged."""
    from PIL import Image

    processor = make_processor()
    out: dict[str, Any] = {"split": split, "seed": seed}
    for kind in KINDS:
        asked = samples(n, seed=seed, split=split, kind=kind)
        out[kind] = scored(evaluate(model, processor, asked))
        answers = [sample.answer for sample in asked]
        out[kind]["most_frequent_answer"] = round(max(answers.count(a) for a in set(answers)) / n, 4)
    asked = samples(n, seed=seed, split=split, kind="cell")
    black = Image.new("RGB", asked[0].image.size)
    out["cell_black_picture"] = scored(evaluate(model, processor, with_images(asked, [black] * n)))
    foreign = [sample.image for sample in [*asked[1:], asked[0]]]
    out["cell_foreign_picture"] = scored(evaluate(model, processor, with_images(asked, foreign)))
    return out


def with_images(asked: Sequence[Sample], images: Sequence[Any]) -> list[Sample]:
    """Return the samples with other pictures, questions and answers as they were."""
    return [Sample(image, s.question, s.answer, s.kind, s.grid) for s, image in zip(asked, images)]


def _train_model(args: argparse.Namespace, out: Path) -> Any:
    split = "inner_train" if args.inner_split else "train"
    recipe = BaseRecipe(seed=args.seed, split=split, steps=args.steps)
    asked = json.loads(json.dumps(asdict(recipe)))
    if (
        args.resume
        and (out / "model.safetensors").exists()
        and read_recipe(out).get("model", {}).get("recipe") == asked
    ):
        from transformers import LlavaForConditionalGeneration

        print(f"the model in {out} is finished and kept")
        return LlavaForConditionalGeneration.from_pretrained(out, local_files_only=True).eval()
    watch = None
    if args.inner_split:
        processor, valid = make_processor(), samples(256, split="inner_valid")

        def watch(step: int, model: Any) -> None:
            if step % 100 == 0:
                print(f"step {step}: cell {evaluate(model, processor, valid).accuracy:.3f} of 256 on inner_valid")

    cpu = time.process_time()
    model, history = train_base(recipe, checkpoint=out / CHECKPOINT / "model", resume=args.resume, watch=watch)
    cpu = time.process_time() - cpu
    save_package(model, out)
    found = next((record["step"] for record in history if record["accuracy"] > 0.5), None)
    print(f"trained {recipe.steps} steps in {history[-1]['seconds']:.0f} s; above half right from step {found}")
    measured = measure(model, split="inner_valid" if args.inner_split else "test")
    update_recipe(
        out,
        model={
            "recipe": asked,
            "parameters": model.num_parameters(),
            "seconds": history[-1]["seconds"],
            "cpu_seconds_of_last_run": round(cpu, 1),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "history": history[:: max(1, len(history) // 12)],
            "measured": measured,
        },
    )
    for name, value in measured.items():
        if isinstance(value, dict):
            low, high = value["wilson95"]
            print(f"{name}: {value['accuracy']:.3f} ({value['correct']} of {value['n']}; 95 % {low:.3f} to {high:.3f})")
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the package; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tokscale.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=BaseRecipe.steps, help="steps of the model's schedule")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    parser.add_argument("--fusers", action=argparse.BooleanOptionalAction, default=True, help="train the two fusers")
    parser.add_argument(
        "--inner-split", action="store_true", help="share out the training scans, leave the test scans alone"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the packaged weights were made with 1")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = _train_model(args, args.out)
    if args.fusers:
        from .fusers import train_fusers

        train_fusers(
            model,
            args.out,
            split="inner_train" if args.inner_split else "train",
            judge="inner_valid" if args.inner_split else "test",
            seed=args.seed,
            resume=args.resume,
        )
    shutil.rmtree(args.out / CHECKPOINT, ignore_errors=True)  # all finished: only the package is left
    for path in sorted(args.out.rglob("*")):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes for the owner alone; an installed package is read by all
            print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
