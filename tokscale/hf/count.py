"""How many vision tokens a processor makes of a picture of a given size; neither weights nor pictures are needed."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from typing import Any

from .._checks import require
from ..errors import ArgumentError, UnsupportedInputError
from .turned import image_processor_of, turned

Size = tuple[int, int]
_SMALL: tuple[Size, ...] = ((64, 64), (640, 320))  # on which the processor's arithmetic is tried before it is believed


def vision_token_count(processor: Any, sizes: Sequence[Size], **keywords: Any) -> list[int]:
    """Return the vision tokens that a processor writes for pictures of the given sizes, one count per picture.

    A vision token is a placeholder that an image feature replaces. Begin and end marks, tile names and line breaks are
    text and do not count. The processor's own arithmetic (`_get_num_multimodal_tokens`) is asked where it agrees with
    the processor on two small pictures; many processors count their marks there. Else the processor runs on a blank
    picture of each size and the placeholders of the prompt are counted.

    Args:
        processor: a Hugging Face processor: image processor and tokenizer.
        sizes: pairs (width, height) in pixels, as `PIL.Image.size` has them.
        keywords: settings of the image processor, such as `size`, which hold for this count alone.

    Raises:
        ArgumentError: a size is no pair of integers >= 1.
        KeywordError: the image processor has no such setting.
        UnsupportedInputError: the processor names no placeholder, or cannot process such a picture.

    Cost: two small pictures where its arithmetic is right, else a blank picture of each different size.

    Example:
        >>> from tokscale.demo.model import make_processor
        >>> vision_token_count(make_processor(), [(96, 96)])
        [144]
    """
    wanted = [_checked(size) for size in sizes]
    if not wanted:
        return []
    with turned(processor, keywords):
        area = sum(width * height for width, height in set(wanted))
        worth = area > sum(width * height for width, height in _SMALL)
        if worth and by_arithmetic(processor, _SMALL) == [by_running(processor, size) for size in _SMALL]:
            known = by_arithmetic(processor, wanted)
            if known is not None:
                return known
        counts = {size: by_running(processor, size) for size in dict.fromkeys(wanted)}
        return [counts[size] for size in wanted]


def by_arithmetic(processor: Any, sizes: Sequence[Size]) -> list[int] | None:
    """Return what the processor's own formula says, marks included where it counts them; None where it has none."""
    formula = getattr(processor, "_get_num_multimodal_tokens", None)
    if formula is None:
        return None
    try:
        found = formula(image_sizes=[(height, width) for width, height in sizes])
        return [int(count) for count in found.num_image_tokens]
    except Exception:  # private upstream: whatever it does not know is found by running
        return None


def by_running(processor: Any, size: Size) -> int:
    """Return the placeholders in the prompt that the processor writes for a blank picture of this size."""
    name = type(processor).__name__
    tokenizer = getattr(processor, "tokenizer", None)
    text = getattr(processor, "image_token", None)
    ids = {getattr(owner, "image_token_id", None) for owner in (processor, tokenizer)} - {None}
    if tokenizer is None or not isinstance(text, str) or not ids:
        raise UnsupportedInputError(
            f"the vision tokens of {name} cannot be counted: it has no tokenizer or names no image placeholder "
            "(image_token, image_token_id). Pass the whole processor, as AutoProcessor gives it"
        )
    picture = require("PIL.Image", extra="demo", what="counting vision tokens").new("RGB", size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a blank picture that nobody passed
            prompt = processor(images=[picture], text=[text], return_tensors="pt")["input_ids"]
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UnsupportedInputError(
            f"{name} ({type(image_processor_of(processor)).__name__}) cannot process a picture of {size[0]}x{size[1]}: "
            f"{type(error).__name__}: {first}"
        ) from error
    # A family may name the mark that opens an image as well as the placeholder: there are more placeholders.
    return max(int((prompt == token).sum()) for token in ids)


def _checked(size: Any) -> Size:
    good = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
    if not good or not all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and int(n) >= 1 for n in size):
        raise ArgumentError(f"a size is a pair (width, height) of integers >= 1, got {size!r}")
    return int(size[0]), int(size[1])
