"""Train a compressor inside a frozen vision-language model, one module for every budget."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from ..compressors import TokenCompressor
from ..errors import ArgumentError, NonFiniteError
from ..hf import patch
from ..hf.host import unwrap
from . import checkpoint as storage
from .batches import Batch, source_of
from .distributed import average_gradients, largest_of_all, rank_and_world
from .result import TrainResult
from .schedule import check_budgets, draw_budget, learning_rate, useful_budgets
from .settings import Settings
from .state import frozen, training_mode
from .step import autocast, image_sizes, losses_of


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
    uncompressed model: `L_answer` is the model's own loss (the cross-entropy of the labelled answers), `L_distill` the
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
    if not isinstance(compressor, TokenCompressor):
        raise ArgumentError(f"compressor must be a TokenCompressor, got {type(compressor).__name__}")
    _checks.positive_int(every, "every")
    chosen = check_budgets(budgets, compressor.num_tokens)
    parameters = {name: p for name, p in compressor.named_parameters() if p.requires_grad}
    if not parameters:
        raise ArgumentError(
            f"{type(compressor).__name__} has no parameter that requires a gradient; nothing can be trained"
        )
    if resume and checkpoint is None:
        raise ArgumentError("resume=True needs checkpoint=, the folder to go on from")
    folder = None if checkpoint is None else Path(checkpoint)
    rank, world = rank_and_world()
    if folder is not None and not resume:
        storage.refuse_overwrite(folder)

    draw = source_of(batches, rank, world)
    largest = largest_of_all(max(image_sizes(model, compressor, draw(0), question)), model, world)
    chosen = useful_budgets(chosen, [largest])
    settings = Settings(
        steps, tuple(chosen), budget_exponent, lr, warmup, min_lr, weight_decay, (betas[0], betas[1]), grad_clip,
        answer_weight, distill_weight, temperature, seed,
    )  # fmt: skip
    flat = [p for p in parameters.values() if p.ndim < 2]
    deep = [p for p in parameters.values() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": weight_decay}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=settings.betas)
    start, before, history = 0, 0.0, []
    if folder is not None and resume and (found := storage.find(folder)) is not None:
        state = storage.restore(found, compressor, optimizer, settings.arguments())
        start, before, history = state["step"], state["seconds"], state["history"]

    began, done, earlier = time.perf_counter(), start, compressor.trained
    with (
        frozen(model, spare=compressor),
        training_mode(compressor),
        _recorded(compressor, chosen, unwrap(model).config, lambda: done),
        patch(model, compressor, question=question) as handle,
    ):
        for step in range(start, steps):
            budget = draw_budget(chosen, step, seed=seed, exponent=budget_exponent)
            rate = learning_rate(step, steps=steps, lr=lr, warmup=warmup, min_lr=min_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            handle.num_tokens = budget
            with autocast(model, dtype):
                loss, parts = losses_of(model, handle, draw(step), settings)
            optimizer.zero_grad(set_to_none=True)
            if loss.requires_grad:  # not where every image of the batch fits the budget: nothing was compressed
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
                compressor.trained = _training_record(earlier, chosen, handle.model.config, done)
                storage.save(
                    folder, compressor, optimizer, {**state, "arguments": settings.arguments(), "history": history}
                )
                compressor.trained = None
    return TrainResult(compressor, steps, before + time.perf_counter() - began, history)


@contextlib.contextmanager
def _recorded(compressor: Any, budgets: Sequence[int], config: Any, done: Callable[[], int]) -> Iterator[None]:
    """Write down on the compressor what it was trained at, after an exception too."""
    earlier = compressor.trained
    try:
        compressor.trained = None  # what it was trained at before does not bound this run
        yield
    finally:
        compressor.trained = _training_record(earlier, budgets, config, done()) if done() else earlier


def _training_record(earlier: dict[str, Any] | None, budgets: Sequence[int], config: Any, steps: int) -> dict[str, Any]:
    """Return what `config.json` says of the training: budgets, the model it was trained in, steps."""
    record: dict[str, Any] = {
        "budgets": sorted({*budgets, *(earlier or {}).get("budgets", ())}),
        "model_type": config.model_type,
        "hidden_size": config.get_text_config().hidden_size,
        "steps": steps,
    }
    base = getattr(config, "_name_or_path", "")
    if base and not Path(base).exists():  # a hub id; a folder of this machine says nothing to others
        record["base"] = base
    return record
