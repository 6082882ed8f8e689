"""`Twin`: a model with prompts that fit it, and the calls that its contract is checked by."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from ...errors import ArgumentError, UnsupportedModelError
from ..host import unwrap
from .build import build, collate, cross_mask, names_of, written
from .clips import Clip, types_of, written_clip
from .sizes import IMAGE, PAD, TEXT, TYPES, VOCAB


class Twin:
    """A model, tiny and random or the user's own, and prompts of text and images for it.

    Attributes:
        model: the model.
        model_type: of its configuration.
    """

    def __init__(self, model: nn.Module, model_type: str, image_id: int = IMAGE, vocabulary: int = VOCAB) -> None:
        self.model, self.model_type = model, model_type
        self._image, self._vocabulary = image_id, vocabulary
        names = names_of(model.forward)
        self._types = next((name for name in TYPES if name in names), None)
        self._crossed = "cross_attention_mask" in names
        self._picture = functools.cache(lambda number: written(self.model, model_type, number))
        self._clip = functools.cache(lambda number: written_clip(self.model, model_type, number))

    @property
    def n(self) -> int:
        """Vision tokens of the first picture."""
        return self._picture(0).tokens

    @property
    def shrinks(self) -> bool:
        """Whether the prompt gets shorter with the image: there is a placeholder per token."""
        return self._picture(0).ids.count(IMAGE) == self.n

    @property
    def dtype(self) -> torch.dtype:
        return next(p for p in self.model.parameters() if p.is_floating_point()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def encoder_decoder(self) -> bool:
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    @property
    def canvas(self) -> bool:
        """Whether a block of tokens is denoised behind the prompt, in place of one after the other."""
        return isinstance(getattr(self.model.config, "canvas_length", None), int)

    @property
    def apart(self) -> bool:
        """Whether logits are of other tokens than the prompt's."""
        return self.encoder_decoder or self.canvas

    def prompt(self, images: list[int], *, only: int | None = None) -> dict[str, Tensor]:
        """Return a padded batch: a row of text with that many images for each entry, or one of these rows alone.

        Text and pictures of a row are the same alone and among others. The padding is on the left, where a decoder
        has it, and on the right for an encoder.
        """
        rows, pictures, number = [], [], 0
        for row, count in enumerate(images):
            draw = torch.Generator().manual_seed(7 + row)
            ids = self._words(draw, 3 + 2 * row)
            inside = []
            for _ in range(count):
                picture = self._picture(number)
                number += 1
                ids += [self._image if token == IMAGE else token for token in picture.ids] + self._words(draw, 2)
                inside.append(picture)
            ids += self._words(draw, 2)
            if only in (None, row):
                rows.append(ids)
                pictures.append(inside)
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), PAD)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for r, ids in enumerate(rows):
            place = slice(0, len(ids)) if self.encoder_decoder else slice(width - len(ids), width)
            input_ids[r, place] = torch.tensor(ids)
            mask[r, place] = 1
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        if self._types:
            inputs[self._types] = (input_ids == self._image).long()
        if any(pictures):
            inputs.update(collate(pictures, self.model_type))
        if self._crossed and any(pictures):
            inputs["cross_attention_mask"] = cross_mask(input_ids, self._image, inputs["aspect_ratio_mask"])
        return {name: value.to(self.device) for name, value in inputs.items()}

    def film(self) -> tuple[dict[str, Tensor], Clip]:
        """Return a prompt of text and one video, and the video.

        Raises:
            RuntimeError: no video could be written for this model.
        """
        clip = self._clip(0)
        draw = torch.Generator().manual_seed(7)
        before, after = self._words(draw, 3), self._words(draw, 4)
        ids = torch.tensor([[*before, *clip.ids, *after]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **collate([[clip]], self.model_type)}
        if self._types:
            inputs[self._types] = torch.tensor([[0] * len(before) + types_of(clip) + [0] * len(after)])
        return {name: value.to(self.device) for name, value in inputs.items()}, clip

    def _words(self, draw: torch.Generator, count: int) -> list[int]:
        return torch.randint(TEXT, self._vocabulary, (count,), generator=draw).tolist()

    def _forget(self) -> None:
        for module in self.model.modules():  # rope_deltas stay in the model between calls
            if getattr(module, "rope_deltas", None) is not None:
                module.rope_deltas = None

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the logits of one forward call."""
        self._forget()
        with torch.no_grad():
            return self.model(**inputs, **self._decoded(inputs)).logits

    def _decoded(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what a model with a decoder of its own, or a canvas, is asked to predict."""
        mask = inputs["attention_mask"]
        more = {"decoder_input_ids": mask.new_full((len(mask), 2), TEXT)} if self.apart else {}
        if self.canvas:
            more["decoder_attention_mask"] = pad(mask, (0, 2), value=1)
        return more

    def generate(self, inputs: dict[str, Tensor], steps: int, **more: Any) -> Tensor:
        """Return greedy ids; special ids are suppressed, since a random model may ask for an image."""
        self._forget()
        if self.canvas:  # its draws are random
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return self.model.generate(**inputs, max_new_tokens=steps, max_denoising_steps=2).sequences  # type: ignore[operator]
        quiet = {"do_sample": False, "min_new_tokens": steps, "max_new_tokens": steps}
        return self.model.generate(**inputs, **quiet, suppress_tokens=list(range(TEXT)), **more)  # type: ignore[operator]

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the loss of predicting the text."""
        self._forget()
        ids = inputs["input_ids"]
        labels = torch.where((ids >= TEXT) & inputs["attention_mask"].bool(), ids, torch.full_like(ids, -100))
        if self.encoder_decoder:
            labels = torch.full((len(ids), 2), TEXT + 1, device=ids.device)
        if self.canvas:  # it computes none
            logits = self.model(**inputs, **self._decoded(inputs)).logits
            return cross_entropy(logits.flatten(0, 1), labels.new_full((logits[..., 0].numel(),), TEXT + 1))
        return self.model(**inputs, labels=labels).loss


def config_of(model: Any) -> Any:
    """Return the configuration of a model, or the one that is given."""
    config: Any = getattr(unwrap(model), "config", None) if isinstance(model, nn.Module) else model
    if not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
        raise ArgumentError(f"check_model() needs a model or a Hugging Face configuration, got {type(model).__name__}")
    return config


def twin_of(model: Any, *, tiny: bool = True) -> Twin:
    """Return the twin of a model or a configuration.

    Raises:
        ArgumentError: neither a model nor a configuration, or a configuration without `tiny`.
        UnsupportedModelError: no tiny model can be built of it, or no pixels fit it.
    """
    config = config_of(model)
    kind = str(config.model_type)
    if not tiny:
        if not isinstance(model, nn.Module):
            raise ArgumentError("a configuration has no weights to check: pass tiny=True, or the model")
        image = getattr(config, "image_token_id", getattr(config, "image_token_index", IMAGE))
        words = min(int(getattr(config.get_text_config(), "vocab_size", VOCAB)), 1000)
        return Twin(unwrap(model).eval(), kind, int(image), words)
    try:
        made = build(kind, config, type(unwrap(model)) if isinstance(model, nn.Module) else None)
        return Twin(made, kind)
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}" if str(error) else repr(error)
        raise UnsupportedModelError(f"{kind}: no tiny model can be built of this configuration ({why})") from error
