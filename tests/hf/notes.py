"""A compressor that writes down the context it was given, and what it wrote for each image of a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tokscale
from tests.hf.helpers import ByNorm, forget, forward
from tests.tiny_models import Family, Prompt

K = 3


class Notes(ByNorm):
    """Keeps by norm, and writes down what it was given for each image: `seen` maps an image's tokens to its context."""

    def __init__(self, needs: set[str] = frozenset(), uses: set[str] = frozenset()) -> None:
        super().__init__(K)
        self.needs, self.uses = frozenset(needs), frozenset(uses)
        self.seen: list[tuple[Tensor, dict[str, Any]]] = []

    def compress(self, vision_tokens: Tensor, **context: Any) -> tokscale.Compressed:
        for i in range(len(vision_tokens)):
            self.seen.append((vision_tokens[i].detach(), {key: self.of(value, i) for key, value in context.items()}))
        return super().compress(vision_tokens, **context)

    @staticmethod
    def of(value: Any, i: int) -> Any:
        return value[i] if isinstance(value, Tensor) else value


def features(family: Family, model: Any, batch: Prompt) -> list[Tensor]:
    """The features of each image, in order, from the unpatched model."""
    keys = ("pixel_values", "image_sizes", "image_grid_thw")
    forget(model)
    with torch.no_grad():
        output = model.get_image_features(
            **{k: v for k, v in batch.inputs.items() if k in keys}, return_dict=True
        ).pooler_output
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
    return list(flat.split([len(columns) for images in batch.images for columns in images]))


def noted(family: Family, model: Any, batch: Prompt, compressor: Notes, **options: Any) -> list[dict[str, Any]]:
    """The context of each image of a forward call, in order; features reach the compressor bit for bit."""
    expected = features(family, model, batch)
    labels = options.pop("labels", None)
    with tokscale.patch(model, compressor, **family.options(), **options):
        forward(model, batch.inputs, **({} if labels is None else {"labels": labels}))
    found = []
    for image in expected:
        (match,) = [context for tokens, context in compressor.seen if torch.equal(tokens, image)]
        found.append(match)
    assert len(compressor.seen) == len(expected)
    return found
