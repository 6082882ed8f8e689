"""Train a compressor inside a frozen vision-language model, one module for every budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from ..errors import ArgumentError, NonFiniteError
from ..hf import patch
from . import checkpoint as storage
from .distributed import average_gradients, rank_and_world
from .losses import answer_loss, distill_loss, text_after_image
from .result import TrainResult
from .schedule import check_budgets, draw_budget, learning_rate, useful_budgets
from .state import frozen, training_mode

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; a resumed one must have the same."""

    steps: int
    budgets: tuple[int, ...]
    budget_exponent: float
    lr: float
    warmup: int
    min_lr: float
    weight_decay: float
    betas: tuple[float, float]
    grad_clip: float
    answer_weight: float
    distill_weight: float
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        _checks.positive_int(self.steps, "steps")
        for name in ("answer_weight", "distill_weight"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.answer_weight == 0 and self.distill_weight == 0:
            raise ArgumentError("answer_weight and distill_weight are both 0: there is nothing to learn; set one of them")
        for name in ("lr", "grad_clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} must be positive, got {getattr(self, name)}")

    def arguments(self) -> dict[str, Any]:
        """Return the numbers in JSON types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def train_compressor(
    model: nn.Module,
    compressor: Any,
    batches: Iterable[Batch] | Callable[[int], Batch],
    *,
    steps: int = 1000,
    budgets: Sequence[int] | None = None,
    budget_exponent: float = 0.25,
    lr: float = 2e-3,
    warmup: int = 50,
    min_lr: float = 0.02,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
    grad_clip: float = 1.0,
    answer_weight: float = 1.0,
    distill_weight: float = 0.0,
    temperature: float = 1.0,
    question: Callable[[Tensor, Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 200,
    resume: bool = False,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> TrainResult:
    """Return the compressor, trained at random budgets inside the frozen model, and the record of its steps.

    `L = answer_weight L_answer + distill_weight L_distill`, with `z_k` the logits at budget k and `z` those of the
    uncompressed model: `L_answer` is the cross-entropy of the labelled answers under `z_k`, `L_distill` the
    Kullback-Leibler distance from `z` to `z_k` (at the answers, or at all text after the image where there are no
    labels). The model is patched and frozen for the duration and given back as it was, after an exception too.

    Args:
        model: any model that `tokscale.patch` takes.
        compressor: a trainable compressor; its parameters change, its budget and mode are given back.
        batches: model inputs as dicts, with `labels` (-100 outside the answers) unless `answer_weight=0`; an iterable
            (started again when exhausted), or a callable `step -> dict`, which makes a resumed run exact. With several
            ranks, rank r of w gets the batches r, r + w, r + 2 w, ... A batch may hold `mm_encoder_outputs` in place of
            pixels, to encode a picture once for many questions.
        steps: optimiser steps.
        budgets: token budgets to draw from; default the powers of two up to the compressor's `num_tokens`.
        budget_exponent: e in `p(k) ~ k^-e`; 0 draws evenly.
        lr, warmup, min_lr: peak rate, steps of linear rise, and the share of `lr` that the cosine ends at.
        weight_decay: on parameters of two and more dimensions only.
        question: what the compressor hears, as in `patch`.
        dtype: autocast dtype for the forward passes; None for none.
        checkpoint: folder for a resumable state, written every `every` steps and at the end.
        callback: gets the record of each step.

    Raises:
        ArgumentError: nothing to learn, no trainable parameter, no batch, other arguments than the resumed run's.
        BudgetError: a budget above the compressor's.
        InputError: the checkpoint folder holds an earlier run and `resume` is False.
        NonFiniteError: the loss or its gradient is not finite; names step, budget and last checkpoint.

    Source:
        Tenghui Li, Guoxu Zhou, Xuyang Zhao, Qibin Zhao. Scaling Capability in Token Space: An Analysis of Large Vision
        Language Model. 2025. arXiv 2412.18387. Differs from it in training one module for all budgets, alone.
    """
    chosen = check_budgets(budgets, compressor.num_tokens)
    parameters = {name: p for name, p in compressor.named_parameters() if p.requires_grad}
    if not parameters:
        raise ArgumentError(f"{type(compressor).__name__} has no parameter that requires a gradient; nothing can be trained")
    if resume and checkpoint is None:
        raise ArgumentError("resume=True needs checkpoint=, the folder to go on from")
    folder = None if checkpoint is None else Path(checkpoint)
    rank, world = rank_and_world()
    if folder is not None and not resume:
        storage.refuse_overwrite(folder)

    draw = _source(batches, rank, world)
    chosen = useful_budgets(chosen, _image_sizes(model, compressor, draw(0), question))
    settings = Settings(
        steps, tuple(chosen), budget_exponent, lr, warmup, min_lr, weight_decay, tuple(betas), grad_clip, answer_weight,
        distill_weight, temperature, seed,
    )  # fmt: skip
    flat = [p for p in parameters.values() if p.ndim < 2]
    deep = [p for p in parameters.values() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=settings.betas)
    start, before, history = 0, 0.0, []
    if folder is not None and resume and (found := storage.find(folder)) is not None:
        state = storage.restore(found, compressor, optimizer, settings.arguments())
        start, before, history = state["step"], state["seconds"], state["history"]

    began = time.perf_counter()
    with frozen(model, spare=compressor), patch(model, compressor, question=question) as handle, training_mode(compressor):
        for step in range(start, steps):
            budget = draw_budget(chosen, step, seed=seed, exponent=budget_exponent)
            rate = learning_rate(step, steps=steps, lr=lr, warmup=warmup, min_lr=min_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            handle.num_tokens = budget
            with _autocast(model, dtype):
                loss, parts = _losses(model, handle, draw(step), settings)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(parameters.values(), world)
            norm = float(torch.nn.utils.clip_grad_norm_(list(parameters.values()), grad_clip))
            if not math.isfinite(norm) or not math.isfinite(loss.item()):
                kept = "no checkpoint was written" if folder is None else f"the last checkpoint is in {folder}"
                raise NonFiniteError(
                    f"step {step} at num_tokens={budget}: loss {loss.item()}, gradient norm {norm}; {kept}. "
                    f"Lower lr={lr} or grad_clip={grad_clip}"
                )
            optimizer.step()
            record = {"step": step, "budget": budget, "loss": loss.item(), **parts, "lr": rate, "grad_norm": norm}
            history.append(record)
            if callback is not None:
                callback(record)
            done = step + 1
            if folder is not None and rank == 0 and (done % every == 0 or done == steps):
                state = {"schema": 1, "step": done, "seconds": before + time.perf_counter() - began}
                storage.save(folder, compressor, optimizer, {**state, "arguments": settings.arguments(), "history": history})
    return TrainResult(compressor, steps, before + time.perf_counter() - began, history)


def _source(batches: Iterable[Batch] | Callable[[int], Batch], rank: int, world: int) -> Callable[[int], Batch]:
    """Return `step -> batch` for this rank. An iterable is read in order and started again when it ends."""
    if callable(batches):
        call = batches
        return lambda step: call(step * world + rank)

    def stream() -> Iterator[Batch]:
        while True:
            count = 0
            for batch in batches:
                count += 1
                yield batch
            if count == 0:
                raise ArgumentError(
                    "batches is empty (or an iterator that ended); pass a list, a data loader, or a callable step -> dict"
                )

    source, position, latest = stream(), -1, {}

    def draw(step: int) -> Batch:
        nonlocal position, latest
        while position < step * world + rank:  # a resumed run skips what was used; asking for one step twice is free
            latest, position = dict(next(source)), position + 1
        return latest

    return draw


def _image_sizes(model: nn.Module, compressor: Any, batch: Batch, question: Any) -> list[int]:
    """Return the number of vision tokens of each image of a batch."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with frozen(model, spare=compressor), patch(model, compressor, num_tokens=1, question=question) as handle, torch.no_grad():
        model(**inputs)
        if handle.last is None or not handle.last.images:
            raise ArgumentError("the first batch holds no image: a compressor learns from images only")
        return [image.n for image in handle.last.images]


def _losses(model: nn.Module, handle: Any, batch: Batch, settings: Settings) -> tuple[Tensor, dict[str, float | None]]:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    labels = batch.get("labels")
    if labels is None and settings.answer_weight > 0:
        raise ArgumentError("a batch holds no labels; add them (-100 outside the answers), or pass answer_weight=0")
    logits = model(**inputs).logits
    last = handle.last
    total: Tensor | float = 0.0
    parts: dict[str, float | None] = {"answer_loss": None, "distill_loss": None}
    if settings.answer_weight > 0 and labels is not None:
        loss = answer_loss(logits, last.shorten(labels, fill=-100))
        total, parts["answer_loss"] = total + settings.answer_weight * loss, loss.item()
    if settings.distill_weight > 0:
        with torch.no_grad(), handle.paused():
            teacher = model(**inputs).logits
        if labels is None:
            where = text_after_image(last.is_image, inputs.get("attention_mask"))
        else:  # the position before an answer token predicts it
            where = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))
        short = last.shorten(where, fill=False)
        loss = distill_loss(logits[short], teacher[where], temperature=settings.temperature)
        total, parts["distill_loss"] = total + settings.distill_weight * loss, loss.item()
    return total, parts  # type: ignore[return-value]


def _autocast(model: nn.Module, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)
