"""Fewer vision tokens by a processor's own setting: the baseline of a sweep that every method has to beat."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .._checks import positive_int
from ..errors import UnsupportedInputError, UnsupportedModelError
from .count import vision_token_count
from .knobs import knob_of
from .turned import image_processor_of, turned

_TRIED = ((896, 896), (1280, 640), (640, 1280))  # pictures on which the keywords are tried before they are given


def native_budget(processor: Any, k: int) -> dict[str, Any]:
    """Return keywords of the image processor under which a picture becomes at most k vision tokens.

    The model is as it was: the processor hands it smaller pictures, or fewer tiles. The setting is the largest that
    keeps every picture within k, so most pictures stay below. Where pixels are counted (Qwen-VL, GLM-V) and where one
    cap is (LFM2-VL), that holds for pictures at most k times as long as wide.

    ```
    Qwen2-VL, 2.5, 3, GLM-V ...   size = {shortest_edge: s, longest_edge: k u^2}     u = patch_size merge_size pixels
    Gemma 4                       max_soft_tokens, the largest of 70, 140, 280, 560, 1120 that is <= k
    LLaVA-NeXT, LLaVA-OneVision   image_grid_pinpoints with picture + tiles + newlines <= k
    InternVL, Aya, Command A      max_patches = m with (m + 1) tiles <= k, the thumbnail being one
    Idefics3, SmolVLM             size = {longest_edge: c tile} with c^2 + 1 tiles <= k
    LFM2-VL                       max_tiles, else max_image_tokens without splitting
    Pixtral, Mistral 3            size = {longest_edge: floor(sqrt(k)) u}
    ```

    Tiled and pooled processors are coarse: they reach a few counts only. For LLaVA-NeXT and LLaVA-OneVision the model's
    configuration repeats the setting and the processor counts by its attribute: use `applied`, which sets both.

    Args:
        processor: a Hugging Face processor; an image processor is enough for Gemma 4, and where pixels are counted.
        k: vision tokens per picture, at most.

    Raises:
        BudgetError: k is no integer >= 1, or less than the processor can be told to make; the message names the least.
        UnsupportedModelError: the processor has no such setting; the message says why.
        UnsupportedInputError: the processor fails on a blank picture.

    Cost: three blank pictures are processed, or counted by the processor's own arithmetic.

    Example:
        >>> from transformers import Qwen2VLImageProcessor
        >>> native_budget(Qwen2VLImageProcessor(), 64)
        {'size': {'shortest_edge': 3136, 'longest_edge': 50176}}
    """
    k = positive_int(k)
    knob, images = knob_of(processor), image_processor_of(processor)
    if knob is None:
        raise UnsupportedModelError(_no_knob(processor))
    keywords = knob.turn(processor, images, k)
    if getattr(processor, "tokenizer", None) is not None:
        for (width, height), n in zip(_TRIED, vision_token_count(processor, _TRIED, **keywords)):
            if n > k:
                raise UnsupportedModelError(
                    f"{type(processor).__name__} has a setting that tokscale knows, and another arithmetic: with "
                    f"{keywords} it makes {n} vision tokens of a picture of {width}x{height}, more than {k}"
                )
    return keywords


@contextlib.contextmanager
def applied(processor: Any, k: int, model: Any = None) -> Iterator[dict[str, Any]]:
    """Turn a processor to at most k vision tokens per picture inside a `with` block, and give its keywords.

    Args:
        processor: as in `native_budget`; its own object is changed, and restored bit for bit, after an exception too.
        k: vision tokens per picture, at most.
        model: the model that reads the pixels, needed where its configuration repeats the setting (LLaVA-NeXT).

    Raises:
        BudgetError, UnsupportedModelError: as in `native_budget`.

    Example:
        >>> from transformers import Qwen2VLImageProcessor
        >>> processor = Qwen2VLImageProcessor()
        >>> with applied(processor, 64):
        ...     processor.size["longest_edge"]
        50176
        >>> processor.size["longest_edge"]
        1003520
    """
    keywords = native_budget(processor, k)
    with turned(processor, keywords, model):
        yield keywords


def _no_knob(processor: Any) -> str:
    """Say why a processor cannot be turned: its count is fixed, or it has none of the known settings."""
    name = f"{type(processor).__name__} ({type(image_processor_of(processor)).__name__})"
    with contextlib.suppress(UnsupportedInputError):
        counts = set(vision_token_count(processor, _TRIED))
        if len(counts) == 1:
            return (
                f"{name} makes {counts.pop()} vision tokens of every picture: resizing changes no count. Compress them "
                "with tokscale.patch"
            )
    return (
        f"{name} has none of the settings for fewer vision tokens that tokscale can turn (pixels, tiles, pooled "
        "tokens, longest edge). Compress them with tokscale.patch"
    )
