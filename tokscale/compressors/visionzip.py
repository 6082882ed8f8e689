"""The tokens that get most attention, and a few that sum up the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import one_of
from ..errors import BudgetError
from .base import TokenCompressor
from .compressed import Compressed, take, wide
from .groups import averages, members, others, themselves
from .layers import whole
from .registry import register_compressor
from .rules import top
from .similarity import cosine_between


@register_compressor("visionzip")
class VisionZip(TokenCompressor):
    """`k = min(num_tokens, n)` tokens: k - c dominant ones, unchanged, and c contextual ones that sum up the others.

    Dominant are the k - c of largest importance. Of the N others, in order, those at places `i*N//c` are centres;
    every other one joins the centre of largest key cosine (ties: the earlier). A contextual token is
    `x_centre + mean(joined x)` (`merge="sum"`) or the mean of these two (`"mean"`); the centre alone if none joined.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        num_contextual: c, an integer from 0 to `num_tokens`; `5*num_tokens//32` if None (10 of 64, 30 of 192).
        merge: "sum" or "mean".

    Shape: (b, n, d), importance (b, n), keys (b, n, key dim) -> (b, k, d).

    Raises:
        BudgetError: `num_contextual` above `num_tokens`.
        ArgumentError: an unknown `merge`, or `num_contextual` is no integer >= 0.

    Cost: c n d + k n d multiply-adds a sample, and n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> a = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
        >>> VisionZip(num_tokens=3, num_contextual=1)(x, importance=a, keys=x)
        tensor([[[3.6667, 3.0000],
                 [5.0000, 1.0000],
                 [0.0000, 4.0000]]])

    Source: Yang, Chen, Tian, Wang, Li, Yu, Jia, VisionZip: Longer is Better but Not Necessary in Vision Language
    Models, 2024, arXiv 2412.04467. Differs from it in that the centres reach the end (published stride N//c crowds the
    front), and in that the tokens come out in their order.
    """

    needs = frozenset({"importance", "keys"})
    mixture = True
    also_known_as = ("vision_zip", "dominant_contextual")

    def __init__(self, num_tokens: int, num_contextual: int | None = None, merge: str = "sum") -> None:
        self.num_contextual = None if num_contextual is None else whole("num_contextual", num_contextual)
        super().__init__(num_tokens)
        self.merge = one_of("merge", merge, ("sum", "mean"))

    def check_budget(self, num_tokens: int) -> None:
        if self.num_contextual is not None and self.num_contextual > num_tokens:
            raise BudgetError(
                f"num_contextual={self.num_contextual} exceeds num_tokens={num_tokens}. "
                f"Use num_contextual <= {num_tokens}, or None for 5*{num_tokens}//32 = {5 * num_tokens // 32}"
            )
        super().check_budget(num_tokens)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n, dtype = vision_tokens.shape[1], wide(vision_tokens.dtype)
        k = self.output_length(n)
        c = 5 * k // 32 if self.num_contextual is None else self.num_contextual
        dominant = top(context["importance"], k - c)
        rest = others(dominant, n)  # b N
        places = torch.arange(c, device=rest.device) * rest.shape[1] // max(1, c)
        centres = rest[:, places]  # b c
        positions = torch.cat([dominant, centres], 1).sort(1).values
        weights = themselves(positions, n, dtype)
        if c:
            keys = context["keys"]
            nearest = cosine_between(take(keys, rest), take(keys, centres)).argmax(-1)  # b N
            owner = torch.full_like(context["importance"], -1, dtype=torch.int64)
            owner.scatter_(1, rest, centres.gather(1, nearest)).scatter_(1, centres, -1)
            joined = averages(members(owner, positions), dtype)
            weights = weights + joined
            if self.merge == "mean":
                weights = weights / weights.sum(-1, keepdim=True)  # by 2, or by 1 where none joined
        return Compressed.mix(vision_tokens, weights, positions)
