"""Trains the demo model from its structured start: one picture and 24 questions a sequence, resumable to the bit.

Loss: cross-entropy on answers and `</s>`, plus that of a throw-away linear head which names the digit in each projected
vision token (11 classes, the last is background). AdamW, linear warm-up, cosine to 2 % of the rate; the first 30 %
of the steps ask only `cell`. More steps or a higher rate answer `most` better and `cell` no worse, but make the tokens
of one digit ever more alike, and a budget then costs more: `divprune` at 36 tokens takes one of two like tokens for the
other.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..errors import InputError
from .batches import Batch, distorted, training_batch
from .model import make_model

__all__ = ["BaseRecipe", "train_base"]

CLASSES = 11


@dataclass(frozen=True)
class BaseRecipe:
    """Everything that decides the trained weights, on one machine."""

    seed: int = 0
    split: str = "train"
    steps: int = 3000
    lr: float = 1e-3
    warmup: int = 100
    min_lr: float = 0.02
    cell_only: float = 0.3
    pictures: int = 8
    questions: int = 24
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    grad_clip: float = 1.0
    auxiliary: float = 1.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (counted from 0)."""
        warm = min(1.0, (step + 1) / self.warmup)
        done = min(1.0, max(0, step - self.warmup) / max(1, self.steps - self.warmup))
        return self.lr * warm * (self.min_lr + (1 - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def train_base(
    recipe: BaseRecipe,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    every: int = 250,
    stop: int | None = None,
    watch: Callable[[int, Any], None] | None = None,
    progress: bool = True,
) -> tuple[Any, list[dict[str, float]]]:
    """Return the trained model (eval mode) and its history, one record for each 50 steps.

    Args:
        recipe: what to do.
        checkpoint: folder for the state, written each `every` steps and at the end; None writes nothing.
        resume: continue from the state in `checkpoint`, if there is one.
        every: steps between two states.
        stop: leave off before this step of the schedule, as if interrupted there.
        watch: called as `watch(step, model)` after each 50 steps.
        progress: show a progress bar.

    Raises:
        InputError: the state in `checkpoint` belongs to another recipe.

    Cost: about .18 s a step on one CPU core.
    """
    from tqdm import tqdm

    model = make_model(recipe.seed).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        head = torch.nn.Linear(model.config.text_config.hidden_size, CLASSES)
    optimizer = torch.optim.AdamW(_groups(model, head, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas)
    glyphs = distorted(recipe.split, recipe.seed)
    history: list[dict[str, float]] = []
    start = 0
    if resume and checkpoint is not None and (checkpoint / "state.json").exists():
        start, history = _restore(checkpoint, recipe, model, head, optimizer)
    end = recipe.steps if stop is None else min(stop, recipe.steps)
    spent = history[-1]["seconds"] if history else 0.0
    began, seen = time.perf_counter(), _Running()
    bar = tqdm(range(start, end), initial=start, total=end, desc="base model", mininterval=1, disable=not progress)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        cell_only = step < recipe.cell_only * recipe.steps
        batch = training_batch(
            glyphs,
            seed=recipe.seed,
            step=step,
            cell_only=cell_only,
            pictures=recipe.pictures,
            questions=recipe.questions,
        )
        optimizer.zero_grad(set_to_none=True)
        answer_loss, patch_loss, accuracy = _losses(model, head, batch)
        (answer_loss + recipe.auxiliary * patch_loss).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], recipe.grad_clip)
        optimizer.step()
        seen.add(answer_loss.item(), patch_loss.item(), accuracy)
        if (step + 1) % 50 == 0 or step + 1 == end:
            seconds = spent + time.perf_counter() - began
            history.append({"step": step + 1, **seen.take(), "seconds": round(seconds, 1)})
            bar.set_postfix(loss=f"{history[-1]['loss']:.3f}", accuracy=f"{history[-1]['accuracy']:.3f}")
            if watch is not None:
                watch(step + 1, model.eval())
                model.train()
        if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == end):
            _save(checkpoint, recipe, step + 1, history, model, head, optimizer)
    return model.eval(), history


class _Running:
    """Means since the last record: of the losses, and of the training accuracy on answers (before each update)."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []

    def add(self, loss: float, patch_loss: float, accuracy: float) -> None:
        self.rows.append((loss, patch_loss, accuracy))

    def take(self) -> dict[str, float]:
        means = [round(sum(column) / len(self.rows), 4) for column in zip(*self.rows)]
        self.rows = []
        return dict(zip(("loss", "patch_loss", "accuracy"), means))


def _losses(model: Any, head: torch.nn.Linear, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, float]:
    inner = model.model
    features = inner.vision_tower(batch.pixel_values).last_hidden_state[:, 1:]
    features = inner.multi_modal_projector(features)  # b 144 d
    embedded = inner.language_model.embed_tokens(batch.input_ids)
    first = 1  # <s> stands before the picture
    embedded = torch.cat([embedded[:, :first], features, embedded[:, first + features.shape[1] :]], dim=1)
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state  # padding is on the right
    targets = batch.labels[:, 1:]
    at = targets != -100
    logits, targets = model.lm_head(hidden[:, :-1][at]), targets[at]
    answers = targets != model.config.text_config.eos_token_id
    accuracy = (logits.argmax(-1) == targets)[answers].float().mean().item()
    patch_logits = head(features).flatten(0, 1)
    return F.cross_entropy(logits, targets), F.cross_entropy(patch_logits, batch.patches.flatten()), accuracy


def _groups(model: Any, head: torch.nn.Linear, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices; leave embeddings, biases and norms alone."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    decay: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for parameter in [*model.parameters(), *head.parameters()]:
        (decay if parameter.ndim > 1 and id(parameter) not in embeddings else free).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _named(model: Any, head: torch.nn.Linear) -> dict[str, torch.nn.Parameter]:
    return {
        **{f"model.{k}": v for k, v in model.named_parameters()},
        **{f"head.{k}": v for k, v in head.named_parameters()},
    }


def _save(
    folder: Path, recipe: BaseRecipe, step: int, history: list[dict[str, float]], model: Any, head: Any, optimizer: Any
) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, parameter in _named(model, head).items():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        state = optimizer.state[parameter]
        if state:  # a parameter without gradient (such as CLIP's last norm) has no moments
            tensors[f"mean.{name}"], tensors[f"square.{name}"] = state["exp_avg"], state["exp_avg_sq"]
    folder.mkdir(parents=True, exist_ok=True)
    weights = f"state-{step}.safetensors"
    save_file(tensors, folder / weights)
    record = {"step": step, "weights": weights, "recipe": asdict(recipe), "history": history}
    aside = folder / "state.json.part"
    aside.write_text(json.dumps(record, indent=1))
    os.replace(aside, folder / "state.json")  # from here on the new state counts
    for old in folder.glob("state-*.safetensors"):
        if old.name != weights:
            old.unlink()


def _restore(
    folder: Path, recipe: BaseRecipe, model: Any, head: Any, optimizer: Any
) -> tuple[int, list[dict[str, float]]]:
    from safetensors.torch import load_file

    record = json.loads((folder / "state.json").read_text())
    wanted = json.loads(json.dumps(asdict(recipe)))
    if record["recipe"] != wanted:
        differ = ", ".join(
            f"{k}={record['recipe'].get(k)} (asked {v})" for k, v in wanted.items() if record["recipe"].get(k) != v
        )
        raise InputError(
            f"the checkpoint in {folder} belongs to another recipe: {differ}. Use the same, or another folder"
        )
    tensors = load_file(folder / record["weights"])
    with torch.no_grad():
        for name, parameter in _named(model, head).items():
            parameter.copy_(tensors[f"weight.{name}"])
            if f"mean.{name}" in tensors:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(record["step"])),
                    "exp_avg": tensors[f"mean.{name}"],
                    "exp_avg_sq": tensors[f"square.{name}"],
                }
    return record["step"], record["history"]
