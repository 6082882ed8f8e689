"""The losses of one step, through the patched model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from ..hf import PatchHandle, patch
from .batches import Batch
from .losses import before, distill_loss, predicted, text_after_image
from .settings import Settings
from .state import frozen


def losses_of(
    model: nn.Module, handle: PatchHandle, batch: Batch, settings: Settings
) -> tuple[Tensor, dict[str, float | None]]:
    """Return the loss of a batch at the handle's budget, and its parts as numbers (None where not asked for)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    labels = batch.get("labels")
    if labels is None and settings.answer_weight > 0:
        raise ArgumentError("a batch holds no labels; add them (-100 outside the answers), or pass answer_weight=0")
    if labels is not None and not bool((labels[:, 1:] != -100).any()):
        raise ArgumentError(
            "labels hold no answer: every entry after the first column is -100. Label the answer tokens, "
            "or leave labels out and pass answer_weight=0, distill_weight=1"
        )
    handle.last = None
    output = model(**batch)  # with the labels: the front door keeps answers out of what the compressor hears
    last = handle.last
    if last is None:
        raise ArgumentError("a batch holds no image: a compressor learns from images only")
    total = output.logits.new_zeros((), dtype=torch.float32)
    parts: dict[str, float | None] = {"answer_loss": None, "distill_loss": None}
    if settings.answer_weight > 0:
        total = total + settings.answer_weight * output.loss
        parts["answer_loss"] = output.loss.item()
    if settings.distill_weight > 0:
        with torch.no_grad(), handle.paused():
            teacher = model(**inputs).logits
        mask = inputs.get("attention_mask")
        if labels is None:
            where = text_after_image(last.is_image, mask)
            short = last.shorten(where, fill=False)
        else:
            answers = predicted(labels, mask)
            where, short = before(answers), before(last.shorten(answers, fill=False))
        loss = distill_loss(output.logits[short], teacher[where], temperature=settings.temperature)
        total, parts["distill_loss"] = total + settings.distill_weight * loss, loss.item()
    return total, parts


def image_sizes(model: nn.Module, compressor: Any, batch: Batch, question: Any) -> list[int]:
    """Return the number of vision tokens of each image of a batch."""
    with (
        frozen(model, spare=compressor),
        patch(model, compressor, num_tokens=1, question=question) as handle,
        torch.no_grad(),
    ):
        model(**batch)
        if handle.last is None or not handle.last.images:
            raise ArgumentError("the first batch holds no image: a compressor learns from images only")
        return [image.n for image in handle.last.images]


def autocast(model: nn.Module, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)
