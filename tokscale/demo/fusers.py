"""Trains compressors inside the frozen demo model: the two packaged fusers, and any rung of the ladder.

A batch is 8 pictures with 12 different `cell` questions each, one question a prompt: 96 answers. Each picture is
encoded once and its features serve its 12 prompts.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import one_of
from ..compressors import CrossAttentionFuser
from ..hf import patch
from ..training import train_compressor
from .batches import Glyphs, distorted, to_pixel_values
from .data import GRID, SPLITS, WORDS, draw_pictures, samples
from .evaluation import evaluate
from .model import make_processor
from .recipe import CHECKPOINT, read_recipe, scored, update_recipe, versions

__all__ = ["BUDGETS", "CellPrompts", "hears", "train_fuser", "train_fusers"]

BUDGETS = (1, 2, 4, 6, 9, 16, 36, 72)
STEPS = {"question": 2000, "blind": 1500}
SEED_OF_MEASURE = 2
_STREAM = 6  # a code that no split and no other stream uses
_IDS = {word: index for index, word in enumerate(WORDS)}


class CellPrompts:
    """Callable `step -> batch` of `cell` prompts with the answer as their last token; a function of `(seed, step)`."""

    def __init__(self, model: Any, glyphs: Glyphs, *, seed: int = 0, pictures: int = 8, questions: int = 12) -> None:
        self.model, self.glyphs, self.seed = model, glyphs, seed
        self.pictures, self.questions = pictures, questions
        # One encoding for many prompts needs a model that takes it (transformers 5.20 and later).
        self.reuse = "mm_encoder_outputs" in inspect.signature(model.forward).parameters

    def __call__(self, step: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, _STREAM, step])
        which = rng.integers(0, len(self.glyphs.labels), (self.pictures, GRID * GRID))
        version = rng.integers(0, self.glyphs.images.shape[1], which.shape)
        drawn = draw_pictures(rng, self.glyphs.images[which, version], self.glyphs.labels[which])
        rows = []
        for grid in drawn.grid.reshape(self.pictures, -1):
            for cell in rng.permutation(GRID * GRID)[: self.questions]:
                row, column = divmod(int(cell), GRID)
                asked = f"cell r{row} c{column} ? {grid[cell]}".split()
                rows.append([_IDS["<s>"], *[_IDS["<image>"]] * drawn.patches.shape[1], *(_IDS[word] for word in asked)])
        device = self.model.device
        ids = torch.tensor(rows, device=device)
        labels = torch.full_like(ids, -100)
        labels[:, -1] = ids[:, -1]
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        pixels = to_pixel_values(drawn.pixels).to(device)
        if not self.reuse:
            return {**batch, "pixel_values": pixels.repeat_interleave(self.questions, dim=0)}
        with torch.no_grad():
            encoded = self.model.model.get_image_features(pixel_values=pixels, return_dict=True)
        features = encoded.pooler_output
        encoded.pooler_output = tuple(f for feature in features for f in [feature] * self.questions)
        return {**batch, "mm_encoder_outputs": {"image": encoded}}


def hears(*initials: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a `question=` rule: which words after the picture the compressor hears, by their first letter.

    `hears("r")` is told the row (`r3`), `hears("r", "c")` the cell (`r3 c5`), `hears()` nothing; the answer never.

    Example:
        >>> ids = torch.tensor([WORDS.index(word) for word in "<s> <image> cell r3 c5 ?".split()])
        >>> hears("r", "c")(ids, ids == 4).tolist()
        [False, False, False, True, True, False]
    """
    names = [word for word in WORDS if len(word) == 2 and word[0] in initials and word[1].isdigit()]
    wanted = [_IDS[word] for word in names]

    def rule(input_ids: Tensor, is_image: Tensor) -> Tensor:
        return torch.isin(input_ids, torch.tensor(wanted, device=input_ids.device, dtype=input_ids.dtype)) & ~is_image

    return rule


def train_fuser(
    model: Any,
    glyphs: Glyphs,
    *,
    condition: str = "both",
    question: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 1500,
    lr: float = 2e-3,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: bool = False,
    label: str = "fuser",
    **options: Any,
) -> Any:
    """Return the `TrainResult` of a `CrossAttentionFuser` of up to 72 tokens, trained inside the frozen model.

    Args:
        condition: "none" for a fuser that hears nothing, else as in `CrossAttentionFuser`.
        question: what it hears; None is the whole question.
        options: further keywords of `CrossAttentionFuser`.

    Cost: about .1 s a step on one CPU core.
    """
    from tqdm import tqdm

    settings: dict[str, Any] = {"num_tokens": max(BUDGETS), "dim": model.config.text_config.hidden_size, "num_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fuser = CrossAttentionFuser(**settings, condition=condition, **options)
    bar = tqdm(total=steps, desc=label, mininterval=1)

    def advance(record: dict[str, Any]) -> None:
        bar.update(record["step"] + 1 - bar.n)
        bar.set_postfix(loss=f"{record['loss']:.3f}", budget=record["budget"], refresh=False)

    with bar:
        return train_compressor(
            model,
            fuser,
            CellPrompts(model, glyphs, seed=seed),
            steps=steps,
            budgets=BUDGETS,
            lr=lr,
            question=question,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
            callback=advance,
        )


def accuracy_by_budget(
    model: Any,
    fuser: Any,
    *,
    split: str,
    n: int,
    question: Callable[[Tensor, Tensor], Tensor] | None = None,
    budgets: Sequence[int] = BUDGETS,
    seed: int = SEED_OF_MEASURE,
) -> dict[str, Any]:
    """Return `{num_tokens: score}` of the model behind the compressor on n `cell` questions of the split."""
    processor, asked = make_processor(), samples(n, seed=seed, split=split)
    out = {}
    with patch(model, fuser, question=question) as handle:
        for budget in budgets:
            handle.num_tokens = budget
            out[str(budget)] = scored(evaluate(model, processor, asked))
    return out


def train_fusers(
    model: Any, folder: Path, *, split: str, judge: str, seed: int = 0, resume: bool = False, n: int = 2048
) -> None:
    """Train both packaged fusers inside the model, write them beside it, and their accuracies into the recipe."""
    one_of("judge", judge, SPLITS)  # before minutes of training, not after
    glyphs = distorted(split, seed)
    for name, steps in STEPS.items():
        done = read_recipe(folder).get("fusers", {})
        if resume and name in done and (folder / f"fuser_{name}" / "model.safetensors").exists():
            print(f"fuser_{name} in {folder} is finished and kept")
            continue
        cpu = time.process_time()
        condition = "none" if name == "blind" else "both"
        result = train_fuser(
            model,
            glyphs,
            condition=condition,
            steps=steps,
            seed=seed,
            checkpoint=folder / CHECKPOINT / f"fuser_{name}",
            resume=resume,
            label=f"fuser_{name}",
        )
        cpu = time.process_time() - cpu
        fuser = result.compressor.eval()
        fuser.save_pretrained(folder / f"fuser_{name}")
        (folder / f"fuser_{name}" / "README.md").unlink(missing_ok=True)  # a card for the hub; recipe.json says more
        measured = accuracy_by_budget(model, fuser, split=judge, n=n)
        done[name] = {
            "seed": seed,
            "steps": steps,
            "condition": condition,
            "parameters": sum(p.numel() for p in fuser.parameters()),
            "seconds": round(result.seconds, 1),
            "cpu_seconds_of_last_run": round(cpu, 1),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "measured": {"split": judge, "seed": SEED_OF_MEASURE, "kind": "cell", "by_num_tokens": measured},
        }
        update_recipe(folder, fusers=done)
        print(
            f"fuser_{name}: {steps} steps in {result.seconds:.0f} s; "
            + ", ".join(f"{k}: {v['accuracy']:.3f}" for k, v in measured.items())
        )
