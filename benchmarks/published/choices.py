"""The greedy choice alone, ours beside the loop, on a matrix that both are given.

At d = 1024 the products that make the matrix, which both need, take longer than either choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokscale import ops
from tokscale.compressors.coverage import cover

from . import selection
from .common import cosine

Choice = Callable[[], list[Tensor]]


def choices(name: str, x: Tensor, k: int, context: dict[str, Any]) -> tuple[Choice, Choice] | None:
    """Return calls of our choice and of the loop's over the images of a batch; None for a method that is not greedy."""
    make = MATRICES.get(name)
    if make is None:
        return None
    table, weight, ours, theirs = make(x, **context)
    weights = [()] * len(x) if weight is None else [(w,) for w in weight]
    return lambda: list(ours(table, k, weight)), lambda: [theirs(t, k, *w) for t, w in zip(table, weights)]


def _cosines(x: Tensor) -> Tensor:
    return torch.stack([cosine(one).fill_diagonal_(1) for one in x])


def _max_min(matrix: Tensor, k: int, _: None) -> Tensor:
    return ops.greedy_select(matrix, k).positions


def _dpp(matrix: Tensor, k: int, _: None) -> Tensor:
    return ops.greedy_select(matrix, k, method="dpp").positions


def _divprune(x: Tensor, **_: Any) -> Any:
    return 1 - _cosines(x), None, _max_min, selection.max_min


def _plain_dpp(x: Tensor, **_: Any) -> Any:
    return _cosines(x), None, _dpp, selection.determinantal


def _cdpruner(x: Tensor, *, text_tokens: Tensor, **_: Any) -> Any:
    kernels = [selection.conditional_kernel(one, text) for one, text in zip(x, text_tokens)]
    return torch.stack(kernels), None, _dpp, selection.determinantal


def _idpruner(x: Tensor, *, importance: Tensor, **_: Any) -> Any:
    worth, c = torch.stack([selection.half_rescaled(one) for one in importance]), _cosines(x)
    unlike = -0.5 * c

    def ours(_: Tensor, k: int, weight: Tensor) -> Tensor:
        return ops.greedy_select(unlike, k, relevance=weight).positions

    return c, worth, ours, selection.marginal


def _scope(x: Tensor, *, importance: Tensor, **_: Any) -> Any:
    def ours(table: Tensor, k: int, weight: Tensor) -> Tensor:
        return cover(table, k, total=table.shape[-1], weight=weight)

    return _cosines(x), importance, ours, selection.covering


def _mmtok(x: Tensor, *, text_tokens: Tensor, **_: Any) -> Any:
    def ours(table: Tensor, k: int, _: None) -> Tensor:
        return cover(table, k, total=1.5)

    rows = [selection.multimodal_rows(one, text) for one, text in zip(x, text_tokens)]
    return torch.stack(rows), None, ours, selection.covering


MATRICES: dict[str, Callable[..., Any]] = {
    "divprune": _divprune,
    "dpp": _plain_dpp,
    "cdpruner": _cdpruner,
    "idpruner": _idpruner,
    "scope": _scope,
    "mmtok": _mmtok,
}
