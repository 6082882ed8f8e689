"""What is one image: cuts of the features into images, in placeholder order. Pure functions.

Features come in entries (elements of the container), placeholders in runs (neighbouring columns). Neither is always an
image, so `families.py` says which of them is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from ..errors import UnsupportedInputError
from .families import Join


@dataclass(frozen=True)
class Image:
    """Features `start:end` of one modality, counted over the batch in placeholder order."""

    row: int
    start: int
    end: int
    tile: bool = True  # one encoder picture; False for several tiles joined

    @property
    def n(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Run:
    """Neighbouring placeholders: features `start:end`, columns `first:last` of a row."""

    row: int
    start: int
    end: int
    first: int
    last: int


def runs_of(is_image: Tensor) -> list[Run]:
    """Return the runs of placeholders of a (B, S) mask, row by row."""
    runs: list[Run] = []
    row = first = last = start = -1
    for count, (r, c) in enumerate(is_image.nonzero().tolist()):
        if r != row or c != last:
            if row >= 0:
                runs.append(Run(row, start, count, first, last))
            row, first, start = r, c, count
        last = c + 1
    if row >= 0:
        runs.append(Run(row, start, start + last - first, first, last))
    return runs


def join_runs(runs: Sequence[Run], ids: Sequence[Sequence[int]], join: Join) -> list[list[Run]]:
    """Return the runs grouped into images by the marker ids that a processor writes between tiles."""
    groups: list[list[Run]] = []
    for run in runs:
        row, joined = ids[run.row], False
        if groups and groups[-1][-1].row == run.row:
            before = groups[-1][-1]
            between = row[before.last : run.first]
            closed = before.first > 0 and row[before.first - 1] in join.last
            closed |= row[run.first - 1] in join.first
            joined = not closed and all(token in join.markers for token in between)  # text belongs to no image
        if joined:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def cut(
    entries: Sequence[int],
    rows: Sequence[int],
    groups: Sequence[Sequence[Run]] | None,
) -> list[Image]:
    """Return the images of a batch: contiguous ranges of features.

    Args:
        entries: features per entry of the container.
        rows: placeholders per row of the batch.
        groups: runs, grouped into images, for families whose entries are no images; None cuts at entries.
    """
    row_ends = list(accumulate(rows))
    if groups is None and list(entries) == list(rows):  # an image in each row: by far the usual call
        return [Image(row, end - n, end) for row, (n, end) in enumerate(zip(rows, row_ends))]
    entry_ends = list(accumulate(entries))
    if groups is None:
        ends = set(entry_ends)
    else:
        ends = {group[-1].end for group in groups}
    bounds = sorted(ends | set(row_ends) - {0})
    joined = set() if groups is None else {group[-1].end for group in groups if len(group) > 1}
    images, start, row = [], 0, 0
    for end in bounds:
        while row_ends[row] < end:
            row += 1
        if groups is None and end not in ends:
            raise UnsupportedInputError(
                f"the placeholders of an image lie in two rows of the batch: rows hold {list(rows)}, images have "
                f"{list(entries)} tokens"
            )
        several = groups is not None and bisect_right(entry_ends, start) < bisect_left(entry_ends, end)
        images.append(Image(row, start, end, tile=end not in joined and not several))
        start = end
    return images


def presized(
    entries: Sequence[int], rows: Sequence[int], runs: Sequence[Run], by_entry: bool, length: object
) -> list[tuple[Image, int]] | None:
    """Return the images of a prompt that already holds exactly k placeholders per image, with each k, or None.

    `length(i, n)` is the number of tokens that the compressor makes of image i.
    """
    total = sum(entries)
    sizes = list(entries)
    if not by_entry:
        if not runs or total % len(runs):
            return None
        sizes = [total // len(runs)] * len(runs)
    kept = [length(i, n) for i, n in enumerate(sizes)]  # type: ignore[operator]
    if sum(kept) != sum(rows):
        return None
    if not by_entry and kept != [run.end - run.start for run in runs]:
        return None
    short_ends, row_ends = list(accumulate(kept)), list(accumulate(rows))
    if not {end for end in row_ends if end} <= set(short_ends):
        return None  # an image would lie in two rows
    images, start, row = [], 0, 0
    for n, k, end in zip(sizes, kept, short_ends):
        while row_ends[row] < end:
            row += 1
        images.append((Image(row, start, start + n), k))
        start += n
    return images
