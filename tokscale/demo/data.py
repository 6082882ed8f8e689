"""The pictures and questions of the demo: a 6 x 6 grid of real handwritten digits, made from scikit-learn's scans.

Every sample is a function of `(seed, split, kind, index)` alone, so a short list of samples is a prefix of a long one.
The scans of the splits "train" and "test" are disjoint; "inner_train" and "inner_valid" share out the training scans:
there, steps and rates are chosen.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._checks import one_of, require
from ..errors import ArgumentError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "KINDS",
    "SPLITS",
    "WORDS",
    "Pictures",
    "Sample",
    "answer_to",
    "draw_pictures",
    "draw_question",
    "samples",
    "scans",
]

GRID = 6  # cells a side
CELL = 16  # pixels a side of a cell
SCAN = 8  # pixels a side of a scan, and of a patch of the tower
SIDE = GRID * CELL
NOISE = 0.05  # standard deviation, full scale 1

SPLITS = {"train": 0, "test": 1, "inner_train": 3, "inner_valid": 4}  # code 2 is the stream of training batches
KINDS = {"cell": 0, "row": 1, "count": 2, "most": 3}
WORDS = (
    *("<pad>", "<s>", "</s>", "<unk>", "<image>", "cell", "count", "in", "most", "?"),
    *(f"r{i}" for i in range(GRID)),
    *(f"c{i}" for i in range(GRID)),
    *(str(i) for i in range(GRID * GRID + 1)),
)

_TRAIN, _INNER = 1437, 1150


@dataclass(frozen=True)
class Sample:
    """One picture with one question.

    Args:
        image: RGB picture of 96 x 96 pixels.
        question: such as `cell r3 c5 ?`.
        answer: one word, such as `7`.
        kind: "cell", "row", "count" or "most".
        grid: (6, 6) int64, the digit in each cell.
    """

    image: Image
    question: str
    answer: str
    kind: str
    grid: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """`pixels` (m, 96, 96) uint8, `grid` (m, 6, 6) the digits, `patches` (m, 144) the digit or 10 for background."""

    pixels: np.ndarray
    grid: np.ndarray
    patches: np.ndarray


@functools.lru_cache(maxsize=1)
def _load() -> tuple[np.ndarray, np.ndarray]:
    digits = require("sklearn.datasets", extra="demo", what="tokscale.demo.samples").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    return digits.images.astype(np.uint8)[order], digits.target.astype(np.int64)[order]


def scans(split: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Return the scans of a split, images (m, 8, 8) uint8 of values 0 to 16, and labels (m,) int64.

    Args:
        split: "train" (1437 scans) or "test" (360), which share no scan; "inner_train" (1150) and "inner_valid" (287)
            share out the training scans.

    Raises:
        ArgumentError: unknown split.
        MissingDependencyError: scikit-learn, which carries the scans, is not installed.
    """
    one_of("split", split, SPLITS)
    images, labels = _load()
    part = {
        "train": slice(0, _TRAIN),
        "test": slice(_TRAIN, None),
        "inner_train": slice(0, _INNER),
        "inner_valid": slice(_INNER, _TRAIN),
    }[split]
    return images[part].copy(), labels[part].copy()


def draw_pictures(rng: np.random.Generator, glyphs: np.ndarray, digits: np.ndarray) -> Pictures:
    """Return m pictures: each cell holds its glyph at a random intensity and place; then noise, then 8 bits.

    Args:
        rng: source of intensities, places and noise.
        glyphs: (m, 36, 8, 8) float32 in [0, 1], cells in reading order.
        digits: (m, 36) their digits.
    """
    m = len(glyphs)
    intensity = rng.uniform(0.7, 1.0, (m, GRID * GRID)).astype(np.float32)
    corner = rng.integers(0, 2, (m, GRID * GRID, 2))
    jitter = rng.integers(-1, 2, (m, GRID * GRID, 2))
    offset = np.clip(SCAN * corner + jitter, 0, CELL - SCAN)
    row, column = np.divmod(np.arange(GRID * GRID), GRID)
    top, left = CELL * row + offset[..., 0], CELL * column + offset[..., 1]  # m 36
    step = np.arange(SCAN)
    canvas = np.zeros((m, SIDE, SIDE), np.float32)
    canvas[
        np.arange(m)[:, None, None, None], (top[..., None] + step)[..., :, None], (left[..., None] + step)[..., None, :]
    ] = glyphs * intensity[..., None, None]
    canvas += NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    pixels = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    side = SIDE // SCAN
    patches = np.full((m, side * side), 10, np.int64)
    patch = (
        (2 * row + corner[..., 0]) * side + 2 * column + corner[..., 1]
    )  # at least 7 x 7 of the 8 x 8 pixels lie there
    np.put_along_axis(patches, patch, digits, axis=1)
    return Pictures(pixels, digits.reshape(m, GRID, GRID), patches)


def draw_question(rng: np.random.Generator, grid: np.ndarray, kind: str) -> str:
    """Return a random question of this kind about a picture whose cells hold `grid`."""
    if kind == "cell":
        row, column = rng.integers(0, GRID, 2)
        return f"cell r{row} c{column} ?"
    if kind == "row":
        row, column, digit = rng.integers(0, [GRID, GRID, 10])
        return f"count {grid[row, column] if rng.random() < 0.5 else digit} in r{row} ?"
    if kind == "count":
        return f"count {rng.integers(0, 10)} ?"
    return "most ?"


def answer_to(question: str, grid: np.ndarray) -> str:
    """Return the true answer to a question about a picture whose cells hold `grid` (6, 6).

    Example:
        >>> import numpy as np
        >>> answer_to("count 3 in r1 ?", np.full((6, 6), 3))
        '6'
    """
    words = question.split()
    if words[0] == "cell":
        return str(grid[int(words[1][1:]), int(words[2][1:])])
    if words[0] == "most":
        return str(np.bincount(grid.ravel(), minlength=10).argmax())  # argmax: the lowest digit wins ties
    cells = grid if len(words) == 3 else grid[int(words[3][1:])]
    return str((cells == int(words[1])).sum())


def samples(n: int, seed: int = 0, split: str = "test", kind: str = "cell") -> list[Sample]:
    """Return n samples of one kind; sample i is a function of `(seed, split, kind, i)` alone.

    | kind | question | answer |
    | --- | --- | --- |
    | "cell" | `cell r3 c5 ?` | the digit there |
    | "row" | `count 7 in r2 ?` | how many in that row, `0` to `6` |
    | "count" | `count 7 ?` | how many in all, `0` to `36` |
    | "most" | `most ?` | the most frequent digit, the lowest of equals |

    Args:
        n: number of samples, at least 1.
        seed: non-negative integer.
        split: whose scans are shown, see `scans`.
        kind: see the table.

    Raises:
        ArgumentError: unknown kind or split, n below 1, a negative seed.
        MissingDependencyError: scikit-learn or pillow is not installed.

    Cost: about .3 ms a sample.

    Example:
        >>> one = samples(1)[0]
        >>> one.image.size, one.answer == answer_to(one.question, one.grid)
        ((96, 96), True)
    """
    one_of("kind", kind, KINDS)
    one_of("split", split, SPLITS)
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ArgumentError(f"{name} must be an integer >= {least}, got {value!r}")
    pil = require("PIL.Image", extra="demo", what="tokscale.demo.samples")
    images, labels = scans(split)
    glyphs = images.astype(np.float32) / 16
    out = []
    for index in range(n):
        rng = np.random.default_rng([int(seed), SPLITS[split], KINDS[kind], index])
        which = rng.integers(0, len(glyphs), (1, GRID * GRID))
        pictures = draw_pictures(rng, glyphs[which], labels[which])
        grid = pictures.grid[0]
        question = draw_question(rng, grid, kind)
        image = pil.fromarray(pictures.pixels[0]).convert("RGB")
        out.append(Sample(image, question, answer_to(question, grid), kind, grid))
    return out
