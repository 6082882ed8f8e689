"""The pictures of `tokscale demo`: thumbnails in block characters, and what each method kept of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import demo, hf, plotting
from ..plotting._common import COLORS, mark_box, new_figure

QUARTER = 36  # of the 144 tokens


def kept_figure(model: Any, processor: Any, asked: Sequence[Any]) -> Any:
    """Return a Figure with a row per question: the picture, then what each method kept of it."""
    ways = ("divprune", "random", "adaptive_pool")
    figure = new_figure("tokscale demo", width=9.6, height=3.0 * len(asked))
    figure.suptitle("Orange: the place that is asked about. Blue: borders of the tokens that were kept.", fontsize=9)
    grid = figure.subplots(len(asked), 1 + len(ways), squeeze=False)
    for row, sample in zip(grid, asked):
        row[0].imshow(sample.image)
        row[0].set_title(f"{sample.question}   right: {sample.answer}", fontsize=9)
        row[0].set_axis_off()
        for ax, name in zip(row[1:], ways):
            handle: Any = hf.patch(model, name, num_tokens=QUARTER)
            with handle:
                (said,) = demo.evaluate(model, processor, [sample]).predictions
                plotting.plot_kept(sample.image, handle.last.images[0], processor=processor, compressor=name, ax=ax)
            good = said == sample.answer
            verdict = f"says {said}: {'right' if good else 'wrong'}"
            ax.set_xlabel(verdict, fontsize=9, color=COLORS[2] if good else COLORS[1])
        place = _asked_cell(sample)
        side = sample.image.width / sample.grid.shape[1]
        corner = (place[1] * side - 0.5, place[0] * side - 0.5)
        for ax in row:
            mark_box(ax, corner, side)
    return figure


def _asked_cell(sample: Any) -> tuple[int, int]:
    words = {word[0]: int(word[1:]) for word in sample.question.split() if word[0] in "rc" and word[1:].isdigit()}
    return words["r"], words["c"]


def thumbnail(image: Any, columns: int = 24) -> list[str]:
    """Return a picture as lines of block characters, half as many as columns."""
    import numpy as np

    pixels = np.asarray(image.convert("L"), dtype=float) / 255
    height, width = pixels.shape
    tall, wide = 2 * height // columns, width // columns
    blocks = pixels[: columns // 2 * tall, : columns * wide].reshape(columns // 2, tall, columns, wide).max(axis=(1, 3))
    shades = " ░▒▓█"
    return ["".join(shades[min(4, int(value * 5))] for value in line) for line in blocks]


def side_by_side(pictures: Sequence[Sequence[str]]) -> str:
    """Return pictures in one row."""
    return "\n".join("   ".join(lines).rstrip() for lines in zip(*pictures))
