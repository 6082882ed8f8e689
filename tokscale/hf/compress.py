"""Budgets, and the calls of the compressor: images of one size are stacked, and every answer is checked."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._checks import one_of, positive_int
from ..compressors.budgets import HOW, allocate, content_weights
from ..errors import ArgumentError, BudgetError, CompressorError
from .features import Piece

if TYPE_CHECKING:
    from .context import Context
    from .cutting import Modality

Budget = int | list[int] | Callable[..., int] | None


def check_budget(num_tokens: Any, retention_ratio: Any) -> tuple[Budget, float | None]:
    """Return the budget as given if it is well formed: an int, a list of ints, a function, or a ratio in (0, 1]."""
    if num_tokens is not None and retention_ratio is not None:
        raise ArgumentError(f"num_tokens={num_tokens!r} and retention_ratio={retention_ratio!r}: give one of them")
    if retention_ratio is not None:
        if (
            isinstance(retention_ratio, bool)
            or not isinstance(retention_ratio, (int, float))
            or not 0 < retention_ratio <= 1
        ):
            raise BudgetError(f"retention_ratio must be in (0, 1], got {retention_ratio!r}")
        return None, float(retention_ratio)
    if num_tokens is None or callable(num_tokens):
        return num_tokens, None
    if isinstance(num_tokens, (list, tuple)):
        return [positive_int(value, f"num_tokens[{i}]") for i, value in enumerate(num_tokens)], None
    return positive_int(num_tokens), None


def check_allocate(allocate: Any, budget: Any) -> str | None:
    """Return how one budget is shared among the images of a row, after checking that there is one to share."""
    if allocate is None:
        return None
    one_of("allocate", allocate, HOW)
    if isinstance(budget, list) or callable(budget):
        what = "a list" if isinstance(budget, list) else "a function"
        raise ArgumentError(
            f'allocate="{allocate}" shares one budget among the images of a row, and num_tokens is {what} that gives '
            "each its own; pass an int or retention_ratio"
        )
    return str(allocate)


def with_budget(compressor: Any, budget: int | None) -> Any:
    """Return the compressor at another budget: a shallow copy that shares weights; the user's own keeps its budget."""
    if budget is None or budget == compressor.num_tokens:
        return compressor
    other = copy.copy(compressor)
    other.num_tokens = budget
    return other


class Budgets:
    """The budgets of one call: which compressor answers for image i, and how many tokens it makes."""

    def __init__(self, compressor: Any, budget: Budget, ratio: float | None, allocate: str | None = None) -> None:
        self.compressor, self.budget, self.ratio, self.allocate = compressor, budget, ratio, allocate
        self._workers: dict[int | None, Any] = {}

    def expect(self, images: int) -> None:
        """Raise `BudgetError` if a list of budgets is not one per image."""
        if isinstance(self.budget, list) and len(self.budget) != images:
            raise BudgetError(f"num_tokens holds {len(self.budget)} budgets, the call holds {images} images")

    def of(self, i: int, n: int, grid: Any) -> int | None:
        """Return the budget of image i, None for the compressor's own."""
        if self.ratio is not None:
            return max(1, round(self.ratio * n))
        if isinstance(self.budget, list):
            if i >= len(self.budget):
                self.expect(i + 1)
            return self.budget[i]
        if callable(self.budget):
            return positive_int(self.budget(n, grid), f"num_tokens({n}, grid)")
        return self.budget

    def of_all(self, part: Modality, first: int) -> list[int | None]:
        """Return the budget of each image of a modality; `first` is the number of its first image in the call."""
        if self.allocate is None:
            return [self.of(first + i, image.n, grid) for i, (image, grid) in enumerate(zip(part.images, part.grids))]
        wanted: list[int | None] = [None] * len(part.images)
        for row in dict.fromkeys(image.row for image in part.images):
            members = [i for i, image in enumerate(part.images) if image.row == row]
            images = [part.images[i] for i in members]
            sizes = [image.n for image in images]
            if self.ratio is not None:
                total = max(len(images), round(self.ratio * sum(sizes)))
            else:
                each: Any = self.compressor.num_tokens if self.budget is None else self.budget
                total = len(images) * each
            weights = None
            if self.allocate == "content" and total < sum(sizes):
                weights = content_weights([part.flat[image.start : image.end] for image in images])
            how = "uniform" if weights is None and self.allocate == "content" else self.allocate
            for i, k in zip(members, allocate(sizes, total, how=how, weights=weights)):
                wanted[i] = k
        return wanted

    def worker(self, budget: int | None) -> Any:
        if budget not in self._workers:
            self._workers[budget] = with_budget(self.compressor, budget)
        return self._workers[budget]

    def length(self, n: int, budget: int | None) -> int:
        """Return k, the number of tokens that n become."""
        if budget is not None and budget >= n:
            return n
        k = self.worker(budget).output_length(n)
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n:
            raise CompressorError(
                f"{type(self.compressor).__name__}.output_length({n}) returned {k!r}, which is no integer from 1 to {n}"
            )
        return k


class Clock:
    """Milliseconds spent between `start` and `stop`, on the device where the work runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[Any] = []
        self._total = 0.0

    def start(self) -> None:
        if self._device.type == "cuda":
            self._begin = torch.cuda.Event(enable_timing=True)
            self._begin.record()
        else:
            self._began = time.perf_counter()

    def stop(self) -> None:
        if self._device.type == "cuda":
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self._spans.append((self._begin, end))
        else:
            self._total += time.perf_counter() - self._began

    @property
    def milliseconds(self) -> float:
        if self._spans:
            self._spans[-1][1].synchronize()
            return sum(begin.elapsed_time(end) for begin, end in self._spans)
        return 1e3 * self._total


def compress_images(
    budgets: Budgets,
    part: Modality,
    pieces: Sequence[Piece],
    wanted: Sequence[int | None],
    lengths: Sequence[int],
    context: Context,
    clock: Clock,
) -> None:
    """Write into `pieces` what is left of each image. Images of one size, budget and grid are compressed in one call.

    Args:
        budgets: the compressor at its budgets.
        part: the images and their features.
        pieces: one per image, still whole.
        wanted, lengths: the budget and k of each image.
        context: gives the keyword arguments of `compress`.
        clock: runs while the compressor does.
    """
    images, flat = part.images, part.flat
    stacks: dict[Any, list[int]] = {}
    for i, image in enumerate(images):
        if lengths[i] < image.n:
            stacks.setdefault((image.n, wanted[i], part.grids[i] if "grid" in context.reads else None), []).append(i)
    for (_, budget, _), members in stacks.items():
        worker = budgets.worker(budget)
        if len(members) == 1:
            tokens = flat[images[members[0]].start : images[members[0]].end][None]
        else:
            tokens = torch.stack([flat[images[i].start : images[i].end] for i in members])
        keywords = context.of(part, members)
        before = None if worker is budgets.compressor else dict(vars(worker))
        clock.start()
        out = worker.compress(tokens, **keywords)
        clock.stop()
        if before is not None:  # what a user's method notes on itself goes to the object the user holds
            vars(budgets.compressor).update({k: v for k, v in vars(worker).items() if before.get(k, before) is not v})
        _check(budgets.compressor, out, tokens, lengths[members[0]])
        for place, i in enumerate(members):
            assignment = None if out.assignment is None else out.assignment[place]
            pieces[i].tokens = out.tokens[place].to(flat.dtype)
            pieces[i].positions, pieces[i].assignment = out.positions[place], assignment


def _check(compressor: Any, out: Any, tokens: Tensor, k: int) -> None:
    name, (b, n, d) = type(compressor).__name__, tokens.shape
    if out.tokens.ndim != 3 or out.tokens.shape[1] != k:
        raise CompressorError(f"{name} returned {out.tokens.shape[1]} tokens for n={n}; output_length({n}) says {k}")
    if out.tokens.shape != (b, k, d):
        raise CompressorError(
            f"{name} returned tokens of shape {tuple(out.tokens.shape)} for {(b, n, d)}; the model reads {(b, k, d)}"
        )
    positions = out.positions
    if positions.shape != (b, k) or positions.dtype != torch.int64:
        raise CompressorError(
            f"{name} returned positions of shape {tuple(positions.shape)}; they must be int64 {(b, k)}"
        )
    bounds = torch.nn.functional.pad(positions, (1, 0), value=-1)
    if bool((positions <= bounds[:, :-1]).any()) or bool((positions[:, -1] >= n).any()):
        raise CompressorError(f"{name} returned positions that do not ascend strictly within 0..{n - 1}")
