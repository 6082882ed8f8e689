"""Where a step's batch comes from: an iterable read in order, or a callable, shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError

Batch = Mapping[str, Any]


def source_of(batches: Iterable[Batch] | Callable[[int], Batch], rank: int, world: int) -> Callable[[int], Batch]:
    """Return `step -> batch` for this rank. An iterable is read in order and started again when it ends."""
    if isinstance(batches, Mapping):
        raise ArgumentError("batches is one dict; pass a list of them, a data loader or a callable step -> dict")
    if callable(batches):
        call = batches
        return lambda step: _checked(call(step * world + rank))

    def stream() -> Iterator[Batch]:
        while True:
            count = 0
            for batch in batches:
                count += 1
                yield batch
            if count == 0:
                raise ArgumentError(
                    "batches is empty, or an iterator that ended; pass a list, a data loader or a callable step -> dict"
                )

    source, position, latest = stream(), -1, {}

    def draw(step: int) -> Batch:
        nonlocal position, latest
        while position < step * world + rank:  # a resumed run skips what was used; asking for one step twice is free
            latest, position = dict(_checked(next(source))), position + 1
        return latest

    return draw


def _checked(batch: Any) -> Batch:
    if not isinstance(batch, Mapping):
        raise ArgumentError(
            f"a batch must be a dict of the model's inputs, got {type(batch).__name__}; let the data loader's "
            "collate_fn return what the processor makes"
        )
    return batch
