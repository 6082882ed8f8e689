"""One family under test: its model, its prompts, compressors whose choice is known, and how results are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tokscale
from tests.families import tiny
from tests.hf.helpers import GREEDY, forget
from tests.tiny_models import Family, Prompt, alone, prompt
from tokscale import Compressed, TokenCompressor

K = 3


class Spread(TokenCompressor):
    """Keeps places that do not depend on values, and not the first ones: for references that see only embeddings."""

    def __init__(self, num_tokens: int = K) -> None:
        super().__init__(num_tokens)
        self.calls = 0

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.calls += len(vision_tokens)
        n = vision_tokens.shape[1]
        k = self.output_length(n)
        index = torch.arange(k) * n // k + (n // k - 1)  # the last of k equal parts
        return Compressed(vision_tokens[:, index], index.expand(len(vision_tokens), -1))


class Mixer(TokenCompressor):
    """Trainable: each output is a softmax average of all tokens."""

    trainable = True
    mixture = True

    def __init__(self, dim: int, dtype: torch.dtype, num_tokens: int = K) -> None:
        super().__init__(num_tokens)
        generator = torch.Generator().manual_seed(5)
        self.queries = nn.Parameter(torch.randn(32, dim, generator=generator, dtype=torch.float64).to(dtype))
        self.calls = 0

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.calls += len(vision_tokens)
        n = vision_tokens.shape[1]
        k = self.output_length(n)
        keys = F.normalize(vision_tokens, dim=-1)  # whatever the scale of a family's features
        assignment = (self.queries[:k] @ keys.transpose(1, 2)).softmax(-1)
        positions = (torch.arange(k) * n // k).expand(len(vision_tokens), -1)
        return Compressed(assignment @ vision_tokens, positions, assignment)


class Failing(Spread):
    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        raise ZeroDivisionError("compress")


class NotApplicable(Exception):
    """The check says nothing about this family; the message says why."""


class Upstream(Exception):
    """The unpatched model does not do it either."""


@dataclass
class Case:
    """One family and its model."""

    family: Family
    model: Any
    batch: bool = True
    notes: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        return next(p for p in self.model.parameters() if p.is_floating_point()).dtype

    @property
    def tolerance(self) -> float:
        return 2e-6 if self.dtype == torch.float64 else 1e-3

    @property
    def encoder_decoder(self) -> bool:
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def canvas(self) -> bool:
        """A block of tokens is denoised behind the prompt, in place of one after the other."""
        return isinstance(getattr(self.model.config, "canvas_length", None), int)

    @property
    def apart(self) -> bool:
        """Logits are of other tokens than the prompt's."""
        return self.encoder_decoder or self.canvas

    def patch(self, compressor: Any = None, **options: Any) -> Any:
        return tokscale.patch(self.model, compressor or Spread(), **self.family.options(), **options)

    def mixer(self) -> Mixer:
        text = self.model.config.get_text_config()
        width = getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or 64
        return Mixer(width, self.dtype)

    def prompt(self, rows: Any, **more: Any) -> Prompt:
        return prompt(self.family, rows, **more)

    def alone(self, rows: Any, row: int) -> Prompt:
        return alone(self.family, rows, row)

    def inputs(self, batch: Prompt) -> dict[str, Any]:
        """A call's arguments; a decoder of its own, or a canvas, gets two ids."""
        if not self.apart:
            return batch.inputs
        more = {"decoder_input_ids": torch.full((len(batch.ids), 2), 50)}
        if self.canvas and "attention_mask" in batch.inputs:
            more["decoder_attention_mask"] = F.pad(batch.inputs["attention_mask"], (0, 2), value=1)
        return {**batch.inputs, **more}

    def forward(self, batch: Prompt, **more: Any) -> Any:
        forget(self.model)
        with torch.no_grad():
            return self.model(**self.inputs(batch), **more)

    def generate(self, batch: Prompt, **more: Any) -> Any:
        forget(self.model)
        if self.canvas:
            torch.manual_seed(0)  # its draws are random
            more = {k: v for k, v in {"max_new_tokens": 8, **more}.items() if v is not None and k != "output_scores"}
            out = self.model.generate(**batch.inputs, max_denoising_steps=3, **more)
            return out if "return_dict_in_generate" in more else out.sequences
        return self.model.generate(**batch.inputs, **{**GREEDY, **more})


def case(model_type: str) -> Case:
    row = tiny.exceptional(model_type)
    family = tiny.family(model_type)
    return Case(family, family.build(), row.batch)


def near(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    if ours.shape != theirs.shape:
        raise AssertionError(f"{what}: shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}")
    far = (ours.double() - theirs.double()).abs().max().item()
    if not far <= tolerance:
        raise AssertionError(f"{what}: off by {far:.2g}")


def same(ours: Tensor, theirs: Tensor, what: str) -> None:
    if ours.shape != theirs.shape or not torch.equal(ours, theirs):
        raise AssertionError(f"{what}: differ ({tuple(ours.shape)}, {tuple(theirs.shape)})")


def new_ids(ids: Tensor, count: int = 6) -> Tensor:
    return ids[:, -count:]
