"""Video tokens of key frames, and of the frames between them those that changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .cells import anchors, share
from .compressed import Compressed, per_sample, take
from .registry import register_compressor
from .rules import kept, ranks
from .similarity import pair_distance


@register_compressor("dycoke")
class DyCoke(TokenCompressor):
    """`k = min(num_tokens, n)` tokens of a clip: K key frames whole, and what changed in the frames between them.

    The first frame of each window is a key frame. Any other is compared, place by place, with the frame whose number
    in the window is its own with the lowest set bit cleared (1 -> 0, 2 -> 0, 3 -> 2). `k >= K h w`: all tokens of the
    key frames, and `share(k - K h w)` over the other frames by largest `1 - c`; else `share(k, K)` tokens of each key
    frame by `uniform`. Ties go to the lower index.

    Args:
        num_tokens: tokens to keep of the whole clip, an integer >= 1.
        window: frames in a window, an integer >= 1.

    Shape: (b, n, d) and a grid (t, h, w) of n -> (b, k, d).

    Raises:
        BudgetError: `window` is no integer >= 1.

    Cost: n d, then n log n.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> DyCoke(num_tokens=4, window=2).compress(x, grid=(3, 1, 2)).positions
        tensor([[0, 1, 4, 5]])

    Source: Tao et al., DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models, 2024, arXiv
    2411.15024 (its first stage). Differs from it in that exactly k tokens are kept.
    """

    needs = frozenset({"grid"})
    also_known_as = ("dy_coke", "temporal_merging")

    def __init__(self, num_tokens: int, window: int = 4) -> None:
        super().__init__(num_tokens)
        self.window = positive_int(window, "window")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        grid = context["grid"]
        b, n, _ = vision_tokens.shape
        k, places = self.output_length(n), grid[-2] * grid[-1]
        frames = range(n // places)
        key = [f for f in frames if f % self.window == 0]
        left = k - len(key) * places
        if left < 0:
            positions = per_sample(_uniform(key, k, grid[-2:], vision_tokens.device), b)
        else:
            other = [f for f in frames if f % self.window]
            chosen = torch.zeros(b, len(frames), places, dtype=torch.bool, device=vision_tokens.device)
            chosen[:, key] = True
            if left:
                image = vision_tokens.unflatten(1, (len(frames), places)).unbind(1)
                base = [f - f % self.window + (f % self.window & (f % self.window - 1)) for f in other]
                change = torch.stack([pair_distance(image[f], image[g]) for f, g in zip(other, base, strict=True)], 1)
                quota = torch.tensor(share(left, len(other)), device=chosen.device)
                chosen[:, other] = ranks(change) < quota.unsqueeze(1)
            positions = kept(chosen.flatten(1), k)
        return Compressed(take(vision_tokens, positions), positions)


def _uniform(key: list[int], k: int, grid: tuple[int, ...], device: torch.device) -> Tensor:
    """(k,) positions of evenly spread tokens of the key frames."""
    counts = share(k, len(key))
    return torch.cat([f * grid[0] * grid[1] + anchors(m, grid, device) for f, m in zip(key, counts, strict=True) if m])
