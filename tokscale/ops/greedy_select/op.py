"""`greedy_select`: signature, checks and registration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, BudgetError, ShapeError
from .. import _backend, _checks, _register
from . import torch_path

NAME = "greedy_select"
METHODS = ("dpp", "max_min")


class GreedySelection(NamedTuple):
    """Chosen tokens (b, k), int64, in the order of choice, and what each added (b, k), fp32 (fp64 for fp64)."""

    positions: Tensor
    gains: Tensor


@_register.operator("greedy_select")
def _greedy_select(
    matrix: Tensor,
    num_tokens: int,
    method: str,
    start: Tensor | None,
    relevance: Tensor | None,
    fallback: Tensor | None,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    triton = _backend.resolve(NAME, backend, matrix, method=method) == "triton"
    _checks.enough_allowed(NAME, num_tokens, mask)
    _start_allowed(start, mask, matrix.shape[1])
    if triton:
        from . import triton_path

        start = None if start is None else start.contiguous()
        return triton_path.greedy(matrix, num_tokens, method, start, relevance, fallback, mask)
    return torch_path.greedy(matrix, num_tokens, method, start, relevance, fallback, mask)


@_register.fake("greedy_select")
def _(
    matrix: Tensor,
    num_tokens: int,
    method: str,
    start: Tensor | None,
    relevance: Tensor | None,
    fallback: Tensor | None,
    mask: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    size = (matrix.shape[0], num_tokens)
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    return matrix.new_empty(size, dtype=torch.int64), matrix.new_empty(size, dtype=dtype)


def greedy_select(
    matrix: Tensor,
    num_tokens: int,
    *,
    method: str = "max_min",
    start: Tensor | None = None,
    relevance: Tensor | None = None,
    fallback: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> GreedySelection:
    """Tokens chosen one by one, each the one that adds most to those chosen before; ties to the lowest index.

    `max_min`: first `argmax_j min_{i != j} D_ij`, then `argmax_{j not in S} min_{i in S} D_ij`. With `relevance` w:
    first `argmax w_j`, then `argmax w_j + min_{i in S} D_ij` (with `D = -(1 - balance) c`: maximal marginal relevance).
    `dpp`: the j with the largest factor `det(L_{S+j}) / det(L_S)`. Once the largest factor is at most 1e-6 of the
    largest `L_ii`, the kernel's rank is used up: the rest is chosen by `max_min` on `fallback`, or by the largest
    `L_jj`.

    Args:
        matrix: distances for `max_min`, a symmetric positive semi-definite kernel for `dpp`. Finite; never changed.
        num_tokens: how many tokens are chosen per sample.
        method: "max_min" or "dpp".
        start: the first pick of `max_min`, int64 or int32.
        relevance: for `max_min`, what each token is worth by itself.
        fallback: distances for `dpp`, used when the kernel's rank is used up.
        mask: bool, True = may be chosen; the others count for nothing.
        backend: "auto", "torch" or "triton".

    Shape:
        matrix, fallback (b, n, n), start (b,), relevance and mask (b, n) -> positions, gains (b, k). Not sorted. A gain
        is the value that was maximised (`inf` for `start` and for a token that has no other), 0 where a DPP is used up.

    Raises:
        ShapeError, DtypeError: tensors that do not go together.
        ArgumentError: an unknown method, or an argument that the method does not read.
        BudgetError: a budget outside [1, n], or above the tokens a sample's mask allows.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        `max_min` O(n^2) for the first pick, then O(k n); `dpp` O(k^2 n). No gradient.

    Example:
        >>> import torch
        >>> place = torch.tensor([[0.0, 1.0, 5.0, 9.0]])
        >>> greedy_select((place[:, :, None] - place[:, None]).abs(), 3)
        GreedySelection(positions=tensor([[2, 0, 3]]), gains=tensor([[4., 5., 4.]]))

    Source:
        Alvar et al., DivPrune: Diversity-based Visual Token Pruning, 2025, arXiv 2503.02175 (max-min; differs from it
        in that a chosen token is taken out, so duplicates never repeat). Chen, Zhang, Zhou, Fast Greedy MAP Inference
        for Determinantal Point Process, 2018, arXiv 1709.05135. Carbonell, Goldstein, The Use of MMR, 1998.
    """
    _checks.option(NAME, "method", method, METHODS)
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    _check(matrix, method, start, relevance, fallback, mask)
    num_tokens = _checks.budget(NAME, num_tokens, matrix.shape[1])
    plain = [None if t is None else t.detach() for t in (start, relevance, fallback)]
    return GreedySelection(*_greedy_select(matrix.detach(), num_tokens, method, *plain, mask, backend))


def _check(
    matrix: Tensor,
    method: str,
    start: Tensor | None,
    relevance: Tensor | None,
    fallback: Tensor | None,
    mask: Tensor | None,
) -> None:
    _square("matrix", matrix)
    tokens = tuple(matrix.shape[:2])
    unread = {"start": start, "relevance": relevance} if method == "dpp" else {"fallback": fallback}
    for name, tensor in unread.items():
        if tensor is not None:
            raise ArgumentError(f'{NAME}: method="{method}" does not read {name}; leave it out')
    if fallback is not None:
        _square("fallback", fallback)
        _checks.shape(NAME, "fallback", fallback, tuple(matrix.shape))
        _checks.one_device(NAME, "fallback", fallback, "matrix", matrix)
    if start is not None:
        _checks.integers(NAME, "start", start)
        _checks.shape(NAME, "start", start, tokens[:1])
        _checks.one_device(NAME, "start", start, "matrix", matrix)
    if relevance is not None:
        _checks.floating(NAME, "relevance", relevance)
        _checks.shape(NAME, "relevance", relevance, tokens)
        _checks.one_device(NAME, "relevance", relevance, "matrix", matrix)
    if mask is not None:
        _checks.mask(NAME, "mask", mask, matrix, tokens)


def _square(name: str, tensor: Tensor) -> None:
    if tensor.dim() != 3 or tensor.shape[1] != tensor.shape[2]:
        raise ShapeError(f"{NAME}: {name} has shape {_checks.shape_of(tensor)}; expected (b, n, n)")
    _checks.floating(NAME, name, tensor)


def _start_allowed(start: Tensor | None, mask: Tensor | None, n: int) -> None:
    if start is None or _checks.unreadable(start):
        return
    for i, first in enumerate(start.tolist()):
        if not 0 <= first < n:
            raise ShapeError(f"{NAME}: start[{i}] = {first} lies outside [0, {n})")
        if mask is not None and not mask[i, first]:
            raise BudgetError(f"{NAME}: start[{i}] = {first} is not among the allowed tokens of sample {i}")
