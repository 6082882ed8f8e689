"""What the last call of a patched model did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compress import Clock
from .prompt import Short


class ImageRecord(NamedTuple):
    """One image of a call: n tokens became k. `positions` and `assignment` are None where all were kept."""

    row: int
    modality: str
    layer: int | None
    n: int
    k: int
    positions: Tensor | None
    grid: tuple[int, ...] | None
    assignment: Tensor | None


class LastCall:
    """What the last call with images did.

    Attributes:
        images: an `ImageRecord` per image, in the order of the prompt, images before videos.
        is_image: (B, S) bool, the placeholders of the caller's prompt.
        index: (B, S') int64, the caller's column of each column that the model saw, -1 for new padding (rows that keep
            unlike numbers are padded anew); None where the prompt stayed as it was.
    """

    def __init__(
        self, images: Callable[[], Sequence[ImageRecord]], is_image: Tensor, short: Short | None, clock: Clock
    ) -> None:
        self._images = images  # made when asked for: a call that keeps everything need not know its images
        self.is_image = is_image
        self._short = short
        self._clock = clock

    @cached_property
    def images(self) -> list[ImageRecord]:
        return list(self._images())

    @property
    def index(self) -> Tensor | None:
        return None if self._short is None else self._short.index

    @property
    def keep(self) -> Tensor:
        """(B, S) bool, False at the columns that the model did not see; `shorten` cuts a tensor to the others."""
        return torch.ones_like(self.is_image) if self._short is None else self._short.keep

    @property
    def milliseconds(self) -> float:
        """Time in the compressor alone."""
        return self._clock.milliseconds

    def shorten(self, value: Tensor, fill: Any = 0) -> Tensor:
        """Return a (B, S) tensor of the caller's prompt at the columns that the model saw, (B, S').

        Args:
            value: labels, a mask, ids: one value per column of the caller's prompt.
            fill: what stands in new padding.
        """
        return value if self._short is None else self._short.gather(value, fill)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{image.n} -> {image.k}" for image in self.images[:4])
        more = ", ..." if len(self.images) > 4 else ""
        return f"LastCall({sizes}{more}; {self.milliseconds:.2f} ms)"
