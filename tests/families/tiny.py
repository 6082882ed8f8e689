"""Every model type of transformers' image-text mapping as a `tests.tiny_models.Family`, built by `tokscale.hf.twin`.

`family(model_type)` goes wherever a hand-written family goes: `tests.tiny_models.prompt`, the helpers of `tests/hf`.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from tests.tiny_models import IMAGE, Family
from tests.tiny_models import Picture as Written
from tokscale.hf.twin.build import build, collate, cross_mask, features, names_of, written
from tokscale.hf.twin.clips import written_clip
from tokscale.hf.twin.exceptional import exceptional
from tokscale.hf.twin.sizes import TYPES

__all__ = ["build", "exceptional", "family", "features", "model_types"]


def model_types() -> list[str]:
    """Every model type of the image-text-to-text mapping."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


@functools.cache
def family(model_type: str) -> Family:
    """The family of a model type, with a builder, a picture writer, and what its prompts hold beside the ids."""
    row = exceptional(model_type)
    probe: Any = functools.cache(lambda: build(model_type))

    @functools.cache
    def picture(number: int) -> Written:
        found = written(probe(), model_type, number)
        return Written(found.ids, found.pixels, found.tokens)

    def columns(inputs: dict[str, Any]) -> dict[str, Tensor]:
        return {"cross_attention_mask": cross_mask(inputs["input_ids"], IMAGE, inputs["aspect_ratio_mask"])}

    @functools.cache
    def video(number: int) -> Written:
        clip = written_clip(probe(), model_type, number)
        return Written(clip.ids, clip.pixels, None, clip.placeholder, clip.groups)

    return Family(
        model_type,
        probe,
        picture,
        lambda rows: collate(rows, model_type),
        "",
        "",
        types=next((name for name in TYPES if name in names_of(probe().forward)), None),
        touching=row.touching,
        columns=columns if "cross_attention_mask" in names_of(probe().forward) else None,
        video=video,
        mrope=any(callable(getattr(type(m), "get_rope_index", None)) for m in probe().modules()),
    )
