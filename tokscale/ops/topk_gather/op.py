"""`topk_gather`: signature, checks and registration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import ShapeError
from .. import _backend, _checks, _register
from . import torch_path

NAME = "topk_gather"


class TopKGather(NamedTuple):
    """Kept tokens (b, k, ...), or a tuple of them, and their positions (b, k), int64, ascending."""

    tokens: Any
    positions: Tensor


@_register.operator("topk_positions")
def topk_positions(scores: Tensor, num_tokens: int, mask: Tensor | None, backend: str) -> Tensor:
    """Positions of the k largest scores, ascending."""
    triton = _backend.resolve(NAME, backend, scores) == "triton"
    _checks.enough_allowed(NAME, num_tokens, mask)
    if triton:
        from . import triton_path

        return triton_path.topk_positions(scores, num_tokens, mask)
    return torch_path.topk_positions(scores, num_tokens, mask)


@_register.fake("topk_positions")
def _(scores: Tensor, num_tokens: int, mask: Tensor | None, backend: str) -> Tensor:
    return scores.new_empty((scores.shape[0], num_tokens), dtype=torch.int64)


@_register.operator("topk_tokens")
def topk_tokens(x: Tensor, positions: Tensor, backend: str) -> Tensor:
    """Rows of `x` at `positions`."""
    if _backend.resolve(NAME, backend, positions) == "triton":
        from . import triton_path

        return triton_path.gather_tokens(x, positions)
    return torch_path.gather_tokens(x, positions)


@_register.fake("topk_tokens")
def _(x: Tensor, positions: Tensor, backend: str) -> Tensor:
    return x.new_empty((*positions.shape, *x.shape[2:]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shape = inputs[0].shape


def _scatter(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """To the kept rows; no position repeats, so nothing is added."""
    (positions,) = ctx.saved_tensors
    sample = torch.arange(grad.shape[0], device=grad.device)[:, None]
    return grad.new_zeros(ctx.shape).index_put((sample, positions), grad), None, None


_register.autograd("topk_tokens", _scatter, _save)


def topk_gather(
    x: Tensor | tuple[Tensor, ...],
    scores: Tensor,
    num_tokens: int,
    *,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> TopKGather:
    """The `num_tokens` tokens of largest score, in their original order, and their positions.

    `positions = sort(argsort(scores, descending, stable)[:k])`, `tokens = x[positions]`. Ties go to the lowest index,
    -0.0 equals +0.0, NaN ranks below -inf, a token that the mask rules out is never taken.

    Args:
        x: tokens of any dtype, or a tuple of such tensors (keys, features of other layers, position ids).
        scores: higher = keep; float16, bfloat16, float32 or float64. Gets no gradient.
        num_tokens: how many tokens are kept per sample.
        mask: bool, True = may be kept.
        backend: "auto", "torch" or "triton".

    Shape:
        x (b, n, ...), scores (b, n), mask (b, n) -> tokens (b, k, ...), positions (b, k) int64.

    Raises:
        ShapeError, DtypeError: tensors that do not go together.
        BudgetError: a budget outside [1, n], or above the tokens a sample's mask allows.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        One pass over the scores to find the k-th largest, two to take it and what lies above; one copy of the kept
        rows.

    Example:
        >>> import torch
        >>> x = torch.arange(10.0).reshape(1, 5, 2)
        >>> topk_gather(x, torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0]]), 2)
        TopKGather(tokens=tensor([[[2., 3.],
                 [6., 7.]]]), positions=tensor([[1, 3]]))
    """
    tensors = x if isinstance(x, tuple) else (x,)
    _check(tensors, scores, mask)
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    num_tokens = _checks.budget(NAME, num_tokens, scores.shape[1])
    positions = topk_positions(scores.detach(), num_tokens, mask, backend)
    kept = tuple(topk_tokens(tensor, positions, backend) for tensor in tensors)
    return TopKGather(kept if isinstance(x, tuple) else kept[0], positions)


def _check(tensors: tuple[Tensor, ...], scores: Tensor, mask: Tensor | None) -> None:
    _checks.layout(NAME, "scores", scores, "b, n")
    _checks.floating(NAME, "scores", scores)
    if not tensors:
        raise ShapeError(f"{NAME}: x is an empty tuple; pass at least one tensor")
    for i, tensor in enumerate(tensors):
        name = "x" if len(tensors) == 1 else f"x[{i}]"
        if tensor.dim() < 2 or tensor.shape[:2] != scores.shape:
            raise ShapeError(
                f"{NAME}: {name} has shape {_checks.shape_of(tensor)} and scores {_checks.shape_of(scores)}; "
                "the first two sizes must agree"
            )
        _checks.one_device(NAME, name, tensor, "scores", scores)
    if mask is not None:
        _checks.mask(NAME, "mask", mask, scores, tuple(scores.shape))
