"""The specificity ladder: the more of the question a compressor hears, the fewer tokens suffice.

Three fusers are trained inside the frozen demo model, told nothing, the row (`r3`) or the cell (`r3 c5`); the model is
always asked the whole `cell` question. Each rung has its own training with the same steps, data and seeds.
`python -m tokscale.demo.ladder --out DIR` runs it and writes `DIR/ladder.json`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..compressors import create_compressor
from ..errors import InputError
from .batches import distorted
from .fusers import BUDGETS, SEED_OF_MEASURE, accuracy_by_budget, hears, train_fuser
from .model import load
from .recipe import update_recipe, versions

__all__ = ["RUNGS", "ladder", "main"]

RUNGS = {"nothing": hears(), "row": hears("r"), "cell": hears("r", "c")}
BASELINES = ("random", "adaptive_pool", "divprune")


def ladder(
    model: Any = None,
    *,
    out: Path | str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 2000,
    n: int = 2048,
    spatial_bias: bool = False,
    split: str = "train",
    judge: str = "test",
) -> dict[str, Any]:
    """Return the accuracy of every rung at every budget, for every fuser seed, and of untrained compressors.

    Args:
        model: the demo model; None loads the packaged one.
        out: folder for `ladder.json`, written after each fuser; an interrupted ladder goes on behind the last fuser.
        seeds: of the fusers (weights and data); the model stays the same.
        steps: training steps of each fuser.
        n: `cell` questions at each point, the same for all.
        spatial_bias: of the fusers, one setting for all rungs.
        split, judge: scans of the training and of the questions.

    Returns:
        `{"settings": ..., "rungs": {told: {seed: {num_tokens: score}}}, "baselines": {name: {num_tokens: score}}}`. A
        score holds `accuracy, correct, n, wilson95`; the interval is binomial: for new questions on these scans.

    Raises:
        InputError: `ladder.json` in `out` was made with other settings.

    Cost: about 4 minutes a fuser on one CPU core, nine fusers by default.
    """
    model = load()[0] if model is None else model
    settings = {
        "steps": steps,
        "n": n,
        "spatial_bias": spatial_bias,
        "split": split,
        "judge": judge,
        "kind": "cell",
        "seed_of_questions": SEED_OF_MEASURE,
        "budgets": list(BUDGETS),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    path = None if out is None else Path(out) / "ladder.json"
    result: dict[str, Any] = {"settings": settings, "rungs": {}, "baselines": {}}
    if path is not None and path.exists():
        result = json.loads(path.read_text())
        if result.get("settings") != settings:
            raise InputError(f"{path} was made with other settings; use another folder, or delete the file")
    glyphs = distorted(split)
    for name in BASELINES:
        if name not in result["baselines"]:
            compressor = create_compressor(name, num_tokens=1)
            result["baselines"][name] = accuracy_by_budget(model, compressor, split=judge, n=n)
            _write(path, result)
    for seed in seeds:
        for told, rule in RUNGS.items():
            rung = result["rungs"].setdefault(told, {})
            if str(seed) in rung:
                continue
            trained = train_fuser(
                model,
                glyphs,
                condition="none" if told == "nothing" else "both",
                question=rule,
                steps=steps,
                seed=seed,
                label=f"told {told}, seed {seed}",
                spatial_bias=spatial_bias,
            )
            fuser = trained.compressor.eval()
            rule_of_use = None if told == "nothing" else rule
            rung[str(seed)] = accuracy_by_budget(model, fuser, split=judge, n=n, question=rule_of_use)
            _write(path, result)
            shown = ", ".join(f"{k}: {v['accuracy']:.3f}" for k, v in rung[str(seed)].items())
            print(f"told {told}, seed {seed}, {trained.seconds:.0f} s; {shown}")
    return result


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".json.part")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(aside, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the ladder; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tokscale.demo.ladder", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for ladder.json")
    parser.add_argument("--seeds", type=int, default=3, help="fusers for each rung")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--spatial-bias", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--inner-split", action="store_true", help="share out the training scans, leave the test scans alone"
    )
    parser.add_argument("--recipe", type=Path, help="folder whose recipe.json gets the result under `ladder`")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    parts: dict[str, Any] = {"split": "inner_train", "judge": "inner_valid"} if args.inner_split else {}
    result = ladder(out=args.out, seeds=range(args.seeds), steps=args.steps, spatial_bias=args.spatial_bias, **parts)
    if args.recipe is not None:
        update_recipe(args.recipe, ladder=result)
    print(f"written: {args.out / 'ladder.json'}")


if __name__ == "__main__":
    main()
