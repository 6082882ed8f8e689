"""Asks the demo model questions and counts right answers, with an interval; works on a patched model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ArgumentError
from ..scaling import wilson_interval
from .data import Sample

if TYPE_CHECKING:
    from transformers import BatchFeature

__all__ = ["Evaluation", "collate", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Args:
        accuracy: correct / n.
        correct, n: right answers, questions.
        interval: 95 % Wilson interval of the accuracy: binomial, for new questions of this kind on these scans.
        predictions: the word answered to each question, in order.
        per_kind: the same by kind of question; empty inside itself.
    """

    accuracy: float
    correct: int
    n: int
    interval: tuple[float, float]
    predictions: list[str] = field(repr=False)
    per_kind: dict[str, Evaluation] = field(default_factory=dict, repr=False)


def collate(samples: Sequence[Sample], processor: Any, *, answers: bool = False) -> BatchFeature:
    """Return the model inputs of these samples, one question per prompt, left-padded.

    Args:
        samples: at least one.
        processor: the demo's processor.
        answers: append the answer and `</s>` to each prompt and add `labels` (-100 outside these two).

    Shape: input_ids, attention_mask (b, t); pixel_values (b, 3, 96, 96); labels (b, t) with `answers`.
    """
    if len(samples) == 0:
        raise ArgumentError("collate needs at least one sample, got none")
    text = [f"<image> {sample.question}{f' {sample.answer} </s>' if answers else ''}" for sample in samples]
    inputs = processor(images=[sample.image for sample in samples], text=text, padding=True, return_tensors="pt")
    if answers:
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, -2:] = inputs["input_ids"][:, -2:]  # padding is on the left, so every answer ends its row
        inputs["labels"] = labels
    return inputs


def evaluate(model: Any, processor: Any, samples: Sequence[Sample], *, batch_size: int = 64) -> Evaluation:
    """Return the accuracy of the model's first answered word over the samples, one question per prompt.

    One forward pass a batch; the answer is the argmax over the whole vocabulary at the last position, so it equals
    `generate(max_new_tokens=1)`. The model is called as it is: patched, on its own device, in its own mode and dtype.

    Args:
        model: the demo model.
        processor: its processor.
        samples: at least one; kinds may be mixed.
        batch_size: prompts in a forward pass.

    Raises:
        ArgumentError: no samples, or `batch_size` below 1.

    Cost: about 2 ms a question on one CPU core.
    """
    if len(samples) == 0:
        raise ArgumentError("evaluate needs at least one sample, got none")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"batch_size must be an integer >= 1, got {batch_size!r}")
    predictions: list[str] = []
    for start in range(0, len(samples), batch_size):
        inputs = collate(samples[start : start + batch_size], processor).to(model.device, model.dtype)
        with torch.no_grad():
            logits = model(**inputs).logits[:, -1]
        predictions += processor.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
    kinds = list(dict.fromkeys(sample.kind for sample in samples))
    per_kind = {kind: _score([(s, p) for s, p in zip(samples, predictions) if s.kind == kind]) for kind in kinds}
    whole = _score(list(zip(samples, predictions)))
    return Evaluation(whole.accuracy, whole.correct, whole.n, whole.interval, predictions, per_kind)


def _score(answered: list[tuple[Sample, str]]) -> Evaluation:
    correct, n = sum(sample.answer == given for sample, given in answered), len(answered)
    return Evaluation(correct / n, correct, n, wilson_interval(correct / n, n), [given for _, given in answered])
