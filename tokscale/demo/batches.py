"""Training data of the demo model: distorted scans, and sequences of one picture with many questions and answers.

A batch is a function of `(seed, step)` alone, so an interrupted training continues to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .data import GRID, SPLITS, WORDS, answer_to, draw_pictures, draw_question, scans

__all__ = ["Batch", "Glyphs", "distorted", "to_pixel_values", "training_batch"]

VERSIONS = 24  # the scan itself and 23 distorted ones
MIXTURE = {"cell": 0.55, "row": 0.2, "count": 0.15, "most": 0.1}
_STREAM, _DISTORT = 2, 5  # codes that no split uses: see data.SPLITS
_IDS = {word: index for index, word in enumerate(WORDS)}
IGNORE = -100


@dataclass(frozen=True)
class Glyphs:
    """What training pictures are made of: `images` (m, versions, 8, 8) float32 in [0, 1] and `labels` (m,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Batch:
    """One step's data: `pixel_values` (b, 3, 96, 96), `patches` (b, 144); `input_ids, labels` (b, t)."""

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    labels: torch.Tensor
    patches: torch.Tensor


def distorted(split: str = "train", seed: int = 0) -> Glyphs:
    """Return each scan in 24 versions: itself, then 23 rotated, scaled, sheared and shifted ones (bilinear)."""
    images, labels = scans(split)
    images = images.astype(np.float32) / 16
    m, side = len(images), images.shape[-1]
    rng = np.random.default_rng([seed, _DISTORT, SPLITS[split]])
    shape = (m, VERSIONS - 1)
    angle, scale = rng.uniform(-0.2, 0.2, shape), rng.uniform(0.9, 1.12, shape)
    shear, shift = rng.uniform(-0.12, 0.12, shape), rng.uniform(-0.5, 0.5, (*shape, 2))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    y, x = np.meshgrid(np.arange(side) - (side - 1) / 2, np.arange(side) - (side - 1) / 2, indexing="ij")
    y, x = y.ravel(), x.ravel()  # where the output pixel lies, from the centre
    at = [value[..., None] for value in (cos, sin, shear)]
    slanted = x + at[2] * y
    source_y = at[0] * y + at[1] * slanted + shift[..., :1] + (side - 1) / 2
    source_x = -at[1] * y + at[0] * slanted + shift[..., 1:] + (side - 1) / 2
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))  # outside the scan lies background
    limit = padded.shape[-1] - 1.001
    source_y, source_x = np.clip(source_y + 2, 0, limit), np.clip(source_x + 2, 0, limit)
    top, left = source_y.astype(int), source_x.astype(int)
    down, right = source_y - top, source_x - left
    which = np.arange(m)[:, None, None]
    warped = (
        (1 - down) * (1 - right) * padded[which, top, left]
        + (1 - down) * right * padded[which, top, left + 1]
        + down * (1 - right) * padded[which, top + 1, left]
        + down * right * padded[which, top + 1, left + 1]
    )
    versions = np.concatenate([images[:, None], warped.reshape(*shape, side, side).astype(np.float32)], axis=1)
    return Glyphs(versions, labels)


def to_pixel_values(pixels: np.ndarray) -> torch.Tensor:
    """Return (m, 3, 96, 96) float32 from grey pixels (m, 96, 96) uint8, as the processor does."""
    grey = (torch.from_numpy(pixels).to(torch.float32) * (1 / 255) - 0.5) / 0.5
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def training_batch(
    glyphs: Glyphs,
    *,
    seed: int,
    step: int,
    cell_only: bool,
    pictures: int = 8,
    questions: int = 24,
) -> Batch:
    """Return one step's batch: `<s>`, 144 `<image>`, then questions with answers and `</s>`, right-padded.

    No question is asked twice in a sequence, so no answer can be copied from its own earlier one.

    Args:
        glyphs: what the pictures are made of.
        seed, step: the batch is a function of these two.
        cell_only: ask only `cell` questions, else the mixture `MIXTURE`.
        pictures: sequences in the batch.
        questions: questions in a sequence (at most 36).
    """
    rng = np.random.default_rng([seed, _STREAM, step])
    which = rng.integers(0, len(glyphs.labels), (pictures, GRID * GRID))
    version = rng.integers(0, glyphs.images.shape[1], which.shape)
    drawn = draw_pictures(rng, glyphs.images[which, version], glyphs.labels[which])
    rows, targets = [], []
    for grid in drawn.grid:
        ids = [_IDS["<s>"], *[_IDS["<image>"]] * drawn.patches.shape[1]]
        labels = [IGNORE] * len(ids)
        for question in _questions(rng, grid, questions, cell_only):
            asked = [_IDS[word] for word in question.split()]
            answer = [_IDS[answer_to(question, grid)], _IDS["</s>"]]
            ids += asked + answer
            labels += [IGNORE] * len(asked) + answer
        rows.append(ids)
        targets.append(labels)
    return Batch(
        pixel_values=to_pixel_values(drawn.pixels),
        input_ids=_padded(rows, _IDS["<pad>"]),
        labels=_padded(targets, IGNORE),
        patches=torch.from_numpy(drawn.patches),
    )


def _questions(rng: np.random.Generator, grid: np.ndarray, count: int, cell_only: bool) -> list[str]:
    if cell_only:
        cells = rng.permutation(GRID * GRID)[:count]
        return [f"cell r{cell // GRID} c{cell % GRID} ?" for cell in cells]
    kinds, weights = list(MIXTURE), np.cumsum(list(MIXTURE.values()))
    asked: dict[str, None] = {}  # an ordered set
    while len(asked) < count:
        kind = kinds[min(int(np.searchsorted(weights, rng.random(), side="right")), len(kinds) - 1)]
        asked.setdefault(draw_question(rng, grid, kind))
    return list(asked)


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])
