"""`Compressed`, what every method returns, and the few ways in which one is made."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..ops.topk_gather import gather_tokens

# Asked once: torch.compile of PyTorch 2.11 cannot trace the question.
AUTOCAST = frozenset(
    kind
    for kind in ("cpu", "cuda", "xpu", "hpu", "mps", "mtia", "xla", "maia")
    if torch.amp.is_autocast_available(kind)
)


class Compressed(NamedTuple):
    """The kept tokens of a batch, and which input token each of them stands for.

    Args:
        tokens: (b, k, d), in the input's dtype and on its device.
        positions: (b, k) int64, distinct and ascending: the input token itself, or a mixture's anchor.
        assignment: (b, k, n) float32 for mixtures, `tokens = assignment @ vision_tokens`; it may share memory between
            samples, so treat it as read-only.
        scores: (b, n), higher = keep, where the method has one.
    """

    tokens: Tensor
    positions: Tensor
    assignment: Tensor | None = None
    scores: Tensor | None = None

    @classmethod
    def select(cls, vision_tokens: Tensor, index: Tensor, scores: Tensor | None = None) -> Compressed:
        """Return bitwise copies of the tokens at `index`, in ascending order of position.

        Args:
            vision_tokens: (b, n, d).
            index: (b, k), or (k,) for the same positions in every sample; any order.
            scores: (b, n), passed on.

        Raises:
            ArgumentError: an index is out of range, repeated, or no integer.

        Cost: k log k + k d a sample, and one synchronisation for the check.

        Example:
            >>> x = torch.arange(8.0).view(1, 4, 2)
            >>> Compressed.select(x, torch.tensor([2, 0])).tokens.tolist()
            [[[0.0, 1.0], [4.0, 5.0]]]
        """
        b, n, _ = vision_tokens.shape
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ArgumentError(f"index is {index.dtype}; expected integers")
        if index.ndim == 1:
            index = index.expand(b, -1)
        if index.ndim != 2 or index.shape[0] != b:
            raise ArgumentError(f"index has shape {tuple(index.shape)}; expected (k,) or ({b}, k)")
        positions = index.to(vision_tokens.device, torch.int64).sort(dim=1).values
        wrong = (positions < 0) | (positions >= n)
        wrong[:, 1:] |= positions[:, 1:] == positions[:, :-1]
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            value = int(positions[row, column])
            why = "is chosen twice" if 0 <= value < n else f"lies outside [0, {n})"
            raise ArgumentError(f"index {value} {why} in sample {row}")
        return cls(take(vision_tokens, positions), positions, None, scores)

    @classmethod
    def mix(
        cls, vision_tokens: Tensor, assignment: Tensor, positions: Tensor, scores: Tensor | None = None
    ) -> Compressed:
        """Return `assignment @ vision_tokens`, summed in float32 or wider and cast once.

        Args:
            vision_tokens: (b, n, d).
            assignment: (b, k, n), or (k, n) for the same mixture in every sample.
            positions: (b, k) or (k,) anchors, ascending.
            scores: (b, n), passed on.

        Cost: k n d a sample.
        """
        b = len(vision_tokens)
        tokens = mixed(vision_tokens, assignment).to(vision_tokens.dtype)
        return cls(tokens, per_sample(positions, b), per_sample(assignment.float(), b, share=True), scores)


def take(vision_tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the rows of (b, n, d) tokens at (b, k) positions, as copies."""
    return gather_tokens(vision_tokens, positions)


def mixed(vision_tokens: Tensor, assignment: Tensor) -> Tensor:
    """Return `assignment @ vision_tokens` in float32 (float64 where the tokens are)."""
    dtype = wide(vision_tokens.dtype)
    with exact(vision_tokens):
        return torch.matmul(assignment.to(dtype), vision_tokens.to(dtype))


def exact(x: Tensor) -> AbstractContextManager:
    """Return a context in which autocast, if it is on, does not narrow products of tensors on x's device."""
    kind = x.device.type
    narrows = kind in AUTOCAST and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if narrows else nullcontext()


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which sums over tokens of `dtype` are taken: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def per_sample(table: Tensor, b: int, share: bool = False) -> Tensor:
    """Return a table without a batch axis once per sample; a cached table is never handed out itself."""
    if table.ndim == (3 if share else 2):
        return table
    return table.expand(b, *table.shape) if share and b > 1 else table.repeat(b, *[1] * table.ndim)
