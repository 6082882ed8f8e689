"""Tokens that stand out in the whole image or in their window of it; the rest join those most like them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .compressed import Compressed, take, wide
from .groups import averages, members
from .layers import fraction
from .registry import register_compressor
from .rules import best, order
from .similarity import cosine_between


@register_compressor("vscan")
class VScan(TokenCompressor):
    """`k = min(num_tokens, n)` tokens chosen by attention late and early in the encoder, with the others merged in.

    Windows of `window` x `window` tokens lie from the top left (smaller at the edges, frame by frame), and each ranks
    its tokens by shallow importance. Local are the first `L = floor(k local_ratio)` tokens by (rank, shallow importance
    downwards, index); global the k - L others of largest importance. With `merge` each other token joins the kept one
    of largest cosine (ties: the lower index), and means come out; without, the kept tokens.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        window: side of a window in tokens, an integer >= 1.
        local_ratio: share of local tokens, from 0 to 1.
        merge: mix the tokens that are not kept into those that are.

    Shape: (b, n, d), importance and shallow_importance (b, n) -> (b, k, d).

    Raises:
        ArgumentError: `local_ratio` lies outside [0, 1].

    Cost: 2 k n d multiply-adds a sample with `merge`, k d without; n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> late = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> early = torch.tensor([[0.2, 0.1, 0.3, 0.05, 0.25, 0.1]])
        >>> VScan(3, window=2).compress(x, importance=late, shallow_importance=early, grid=(2, 3)).positions
        tensor([[1, 2, 3]])

    Source: Zhang, Ma, Fang, Yu, Zhang, Zhang, Xie, Sycara, Mi, Yu, VScan: Rethinking Visual Token Reduction for
    Efficient Large Vision-Language Models, 2025, arXiv 2505.22654. Differs from it in that any grid and any share of
    local tokens is possible; this is its first stage, before the language model.
    """

    needs = frozenset({"importance", "shallow_importance", "grid"})
    mixture = True
    shallow_layer = 0.25
    also_known_as = ("v_scan", "global_local_scan")

    def __init__(self, num_tokens: int, window: int = 6, local_ratio: float = 0.5, merge: bool = True) -> None:
        super().__init__(num_tokens)
        self.window = positive_int(window, "window")
        self.local_ratio = fraction("local_ratio", local_ratio)
        self.merge = self.mixture = bool(merge)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x, k = vision_tokens, self.output_length(vision_tokens.shape[1])
        count = math.floor(k * self.local_ratio)
        shallow, late = context["shallow_importance"], context["importance"].to(torch.float64)
        local = self._by_window(shallow, context["grid"])[:, :count]
        positions = best(late.scatter(1, local, torch.inf), k)  # all local ones, and the best others
        if not self.merge:
            return Compressed(take(x, positions), positions)
        nearest = cosine_between(x, take(x, positions)).argmax(-1)
        owner = positions.gather(1, nearest).scatter_(1, positions, positions)
        return Compressed.mix(x, averages(members(owner, positions), wide(x.dtype)), positions)

    def _by_window(self, shallow: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Return (b, n) indices in order of (rank in the window, shallow importance downwards, index)."""
        *frames, h, w = grid
        t, side, device = (frames[0] if frames else 1), self.window, shallow.device
        down, across = torch.arange(h, device=device) // side, torch.arange(w, device=device) // side
        in_frame = (down[:, None] * -(-w // side) + across).flatten()
        frame = torch.arange(t, device=device)[:, None] * (-(-h // side) * -(-w // side))
        window = (frame + in_frame).flatten().expand_as(shallow)  # b n
        by_score = order(shallow)
        by_window = window.gather(1, by_score).sort(dim=1, stable=True)  # windows in turn, each by score
        places = torch.arange(shallow.shape[1], device=device).expand_as(window)
        first = torch.searchsorted(by_window.values, by_window.values)  # where each one's window begins
        rank = torch.empty_like(places).scatter_(1, by_window.indices, places - first)  # of by_score's tokens
        return by_score.gather(1, rank.sort(dim=1, stable=True).indices)
