"""Weighted means over the cells of the grid: the pooler that every trained method is measured against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import one_of, positive_int
from ..errors import ArgumentError
from .base import TokenCompressor
from .cells import pooling
from .compressed import Compressed, mixed, per_sample, wide
from .layers import check_width, layer_norm, module_dtype
from .registry import register_compressor


@register_compressor("adaptive_pool")
class AdaptivePooler(TokenCompressor):
    """Means of `k = min(num_tokens, n)` cells of the grid: `y = P x`, P the (k, n) weights of `cells(k, grid)`.

    Modes: `"mean"`: just that, no parameters. `"gated"`: P times `exp(g_i - max over the cell)`, renormalised, with
    `g = Linear(dim, 1)(LayerNorm(x))`, zero at the start. `"projected"`: `y + W2 GELU(W1 LayerNorm(y))`, hidden width
    4 dim, W2 zero at the start; `assignment` is that of the mean.

    Args:
        num_tokens: cells, an integer >= 1.
        mode: "mean", "gated" or "projected".
        dim: width of the vision tokens; needed by the modes with weights.

    Shape: (b, n, dim) -> (b, k, dim).

    Raises:
        ArgumentError: an unknown mode, or a mode with weights without `dim`.
        ShapeError: tokens of another width than `dim`, in a mode with weights.

    Cost: k n dim multiply-adds a sample; the matrix is cached per (k, grid, dtype, device).

    Example:
        >>> AdaptivePooler(num_tokens=2)(torch.arange(8.0).view(1, 4, 2), grid=(2, 2))
        tensor([[[2., 3.],
                 [4., 5.]]])

    Source: none; differs from `torch.nn.functional.adaptive_avg_pool2d` in that cells never overlap and any number of
    them is possible.
    """

    uses = frozenset({"grid"})
    mixture = True
    also_known_as = ("average_pool", "avg_pool", "mean_pool", "adaptive_pooler", "pool")

    def __init__(self, num_tokens: int, mode: str = "mean", dim: int | None = None) -> None:
        super().__init__(num_tokens)
        self.mode = one_of("mode", mode, ("mean", "gated", "projected"))
        self.dim = None if dim is None else positive_int(dim, "dim")
        self.trainable = mode != "mean"
        if not self.trainable:
            return
        if self.dim is None:
            raise ArgumentError(f'mode="{mode}" needs dim, the width of the vision tokens')
        self.norm = layer_norm(self.dim)
        if mode == "gated":
            self.gate = nn.Linear(self.dim, 1)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)
        else:
            self.mlp = nn.Sequential(nn.Linear(self.dim, 4 * self.dim), nn.GELU(), nn.Linear(4 * self.dim, self.dim))
            nn.init.zeros_(self.mlp[2].weight)
            nn.init.zeros_(self.mlp[2].bias)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        k, x = self.output_length(vision_tokens.shape[1]), vision_tokens
        matrix, anchors = pooling(k, context["grid"], wide(x.dtype), x.device)
        if self.mode == "mean":
            return Compressed.mix(x, matrix, anchors)
        check_width(self, "vision_tokens", x, self.dim)
        dtype = module_dtype(self.norm)
        if self.mode == "gated":
            gate = self.gate(self.norm(x.to(dtype))).to(matrix.dtype)  # b n 1
            return Compressed.mix(x, torch.softmax(matrix.log() + gate.transpose(1, 2), dim=-1), anchors)
        mean = mixed(x, matrix)
        tokens = mean + self.mlp(self.norm(mean.to(dtype))).to(mean.dtype)
        b = len(x)
        return Compressed(tokens.to(x.dtype), per_sample(anchors, b), per_sample(matrix.float(), b, share=True))
