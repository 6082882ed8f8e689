"""Connected components of alike tokens, cut where exactly k are left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import TokenCompressor
from .compressed import Compressed, mixed, take, wide
from .groups import averages, members
from .registry import register_compressor
from .similarity import cosine_between, cosine_matrix
from .spanning_tree import components


@register_compressor("scissor")
class Scissor(TokenCompressor):
    """`k = min(num_tokens, n)` tokens, one for each semantic connected component of the image.

    Pairs of tokens are joined in order (cosine downwards, then i, then j; i < j) until k components are left. With C
    the mean of a component, and g(i) the component whose C is most like token i, its token is
    `(C + sum_{g(i)} x_i) / (1 + count)`. It stands where the member nearest to C does; C go in this order before g.
    The components are those of the maximum spanning tree without its k - 1 weakest edges.

    Args:
        num_tokens: tokens to return, an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: n^2 d for the cosines, n^2 for the tree in n steps (on a GPU n^2 log n in log n steps), 3 k n d for the means.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> Scissor(num_tokens=3).compress(x).positions
        tensor([[1, 4, 5]])

    Source: Sun, Zhao, Wei, Hou, LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs,
    2025, arXiv 2506.21862. Differs from it in that the threshold is the one that leaves exactly k, in that no pair is
    left out by sampling, and in one level (published: frames, then the clip).
    """

    mixture = True
    also_known_as = ("llava_scissor", "connected_components", "single_linkage")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x, n, dtype = vision_tokens.detach(), vision_tokens.shape[1], wide(vision_tokens.dtype)
        k = self.output_length(n)
        component = components(cosine_matrix(x), k)  # b n, numbered from 0
        inside = members(component, torch.arange(k, device=x.device).expand(len(x), k))  # b k n
        centres = mixed(x, averages(inside, dtype))
        near = cosine_between(centres, x)
        positions, turn = near.masked_fill(~inside, -torch.inf).argmax(-1).sort(1)
        nearest = take(near, turn).argmax(1)
        joined = members(positions.gather(1, nearest), positions).to(dtype)
        weights = (averages(take(inside, turn), dtype) + joined) / (1 + joined.sum(-1, keepdim=True))
        return Compressed.mix(vision_tokens, weights, positions)
