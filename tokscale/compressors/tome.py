"""Pairs of alike tokens merge, round after round, until k are left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import one_of
from .base import TokenCompressor
from .compressed import Compressed, take, wide
from .groups import add_to, averages, members, others
from .registry import register_compressor
from .rules import best
from .similarity import cosine_between


@register_compressor("tome")
class ToMe(TokenCompressor):
    """`k = min(num_tokens, n)` means of groups of alike tokens (bipartite soft matching).

    While n' > k tokens are left: those at even places are A, those at odd places B; each of A finds its best in B by
    cosine, and the `r = min(n' - k, n'//2)` of A with the best matches merge into them, as means weighted by the number
    of tokens merged so far. Ties go to the lower place. The order is kept; a merged token stands where B's stood.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        metric: what is compared: "tokens", or "keys" (averaged alike as tokens merge).

    Shape: (b, n, d) -> (b, k, d); keys (b, n, key dim).

    Raises:
        ArgumentError: an unknown metric.

    Cost: 2/3 n^2 d multiply-adds a sample, in about log2(n / k) rounds, and k n d.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> ToMe(num_tokens=3)(x)
        tensor([[[ 4.0000,  1.0000],
                 [-0.5000,  5.0000],
                 [-3.0000,  1.0000]]])

    Source: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman, Token Merging: Your ViT But Faster, 2022, arXiv 2210.09461.
    Differs from it in that order is kept (published: the unmerged, then B), and in that it repeats until exactly k are
    left, on one layer's tokens.
    """

    mixture = True
    also_known_as = ("token_merging", "bipartite_soft_matching")

    def __init__(self, num_tokens: int, metric: str = "tokens") -> None:
        super().__init__(num_tokens)
        self.metric = one_of("metric", metric, ("tokens", "keys"))
        self.needs = frozenset({"keys"} if metric == "keys" else ())

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        k, dtype = self.output_length(n), wide(vision_tokens.dtype)
        means = (context["keys"] if self.metric == "keys" else vision_tokens).detach()
        means = means.to(wide(means.dtype))  # of the tokens merged so far, `sizes` of them
        sizes = means.new_ones(b, n, 1)
        positions = torch.arange(n, device=means.device).repeat(b, 1)
        owner = positions  # place, among those left, of each input token
        while means.shape[1] > k:
            merged, target = _matches(means, k)
            stay = others(merged, means.shape[1])
            moves = torch.empty_like(positions)  # from a place to the next round's
            moves.scatter_(1, stay, torch.arange(stay.shape[1], device=stay.device).expand_as(stay))
            place = moves.gather(1, target)
            moves.scatter_(1, merged, place)
            old, joining = take(sizes, stay), take(sizes, merged)
            sizes = add_to(old.clone(), place, joining)
            means = add_to(take(means, stay).mul_(old), place, take(means, merged).mul_(joining)).div_(sizes)
            owner, positions = moves.gather(1, owner), positions.gather(1, stay)
        return Compressed.mix(vision_tokens, averages(members(positions.gather(1, owner), positions), dtype), positions)


def _matches(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the places (b, r) that merge, ascending, and the places they merge into."""
    n = x.shape[1]
    most, nearest = cosine_between(x[:, 0::2], x[:, 1::2]).max(-1)
    chosen = best(most, min(n - k, n // 2))
    return 2 * chosen, 2 * nearest.gather(1, chosen) + 1
