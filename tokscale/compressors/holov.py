"""Budgets for stretches of the image by the attention they receive, and the most attended tokens of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .compressed import Compressed, take
from .registry import register_compressor
from .rules import kept, ranks


@register_compressor("holov")
class HoloV(TokenCompressor):
    """`k = min(num_tokens, n)` tokens of largest importance a within each of `min(chunks, n)` runs of tokens.

    The runs hold n//P tokens each, the first n%P one more. Quota of a run: its size at most, else `floor(w k + 1e-9)`,
    w its mean a over the sum of the means; what is left goes one at a time by decreasing w, round and round, past full
    runs. Means below 0 count as 0; if all do, w is equal. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep, an integer >= 1.
        chunks: runs, an integer >= 1.

    Shape: (b, n, d) and importance (b, n) -> (b, k, d).

    Raises:
        BudgetError: `chunks` is no integer >= 1.

    Cost: n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> HoloV(num_tokens=3, chunks=2).compress(x, importance=a).positions
        tensor([[1, 3, 4]])

    Source: Zou et al., Don't Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention,
    2025, arXiv 2510.02912. Differs from it in that a full run's surplus moves on to the others (published: rows of
    zeros), and in that its diversity term, which multiplies all scores of a run alike, is left out.
    """

    needs = frozenset({"importance"})
    also_known_as = ("holo_v", "holistic")

    def __init__(self, num_tokens: int, chunks: int = 16) -> None:
        super().__init__(num_tokens)
        self.chunks = positive_int(chunks, "chunks")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        k, parts = self.output_length(n), min(self.chunks, n)
        a = context["importance"].detach().double()
        sizes = [n // parts + (run < n % parts) for run in range(parts)]
        place = torch.arange(sizes[0], device=a.device)  # in a run; the first is among the longest
        size = torch.tensor(sizes, device=a.device)
        inside = place < size.unsqueeze(1)  # run, place
        slot = kept(inside.view(1, -1), n)[0]  # of each token in the table of runs
        runs = a.new_full((b, parts * sizes[0]), -torch.inf).index_copy(1, slot, a).view(b, parts, -1)
        mean = runs.masked_fill(~inside, 0).sum(2) / size
        chosen = ranks(runs) < _quotas(_weights(mean), size, k).unsqueeze(2)
        positions = kept(chosen.flatten(1)[:, slot], k)
        return Compressed(take(vision_tokens, positions), positions)


def _weights(mean: Tensor) -> Tensor:
    """(b, parts) shares of attention that sum to 1."""
    mean = mean.clamp(min=0)
    total = mean.sum(1, keepdim=True)
    return torch.where(total > 0, mean / total, 1 / mean.shape[1])


def _quotas(weight: Tensor, size: Tensor, k: int) -> Tensor:
    """(b, parts) int64 that sum to k: floors, then whole rounds at once, then the last round by decreasing weight."""
    quota = torch.minimum((weight * k + 1e-9).floor().long(), size)
    left = k - quota.sum(1, keepdim=True)
    room = size - quota
    level = torch.arange(k + 1, device=size.device)
    dealt = torch.minimum(room.unsqueeze(2), level).sum(1)  # b level: places dealt after so many rounds
    rounds = (dealt <= left).sum(1, keepdim=True) - 1
    quota = quota + torch.minimum(room, rounds)
    left = k - quota.sum(1, keepdim=True)
    return quota + (ranks(torch.where(quota < size, weight, -1.0)) < left)
