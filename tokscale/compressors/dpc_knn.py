"""Clusters around the tokens where density peaks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import positive_int
from .base import TokenCompressor
from .compressed import Compressed, wide
from .density import in_turn, peaks, squared_distances
from .groups import averages, members
from .registry import register_compressor
from .rules import best


@register_compressor("dpc_knn")
class DPCKNN(TokenCompressor):
    """`k = min(num_tokens, n)` means of clusters around density peaks.

    With `E_ij = ||x_i - x_j|| / sqrt(d)`: the density `rho_i = exp(-mean of the min(neighbours, n) smallest E_ij^2)`,
    itself among them; `delta_i` the least E_ij to a token of larger rho (equal rho: of lower index), for the densest
    the largest E of all. Centres are the k of largest `rho delta`; every other token joins the nearest (ties: the lower
    index), and the means come out, each where its centre stands.

    Args:
        num_tokens: tokens to return, an integer >= 1.
        neighbours: an integer >= 1.

    Shape: (b, n, d) -> (b, k, d).

    Cost: n^2 d multiply-adds a sample in float64, and k n d.

    Example:
        >>> x = torch.tensor([[[4.0, 0], [5, 1], [3, 2], [0, 4], [-1, 6], [-3, 1]]])
        >>> DPCKNN(num_tokens=3, neighbours=2).compress(x).positions
        tensor([[0, 1, 3]])

    Source: Du, Ding, Jia, Study on Density Peaks Clustering Based on k-Nearest Neighbors and Principal Component
    Analysis, 2016, as used on tokens in Jin, Takanobu, Zhang, Cao, Yuan, Chat-UniVi: Unified Visual Representation
    Empowers Large Language Models with Image and Video Understanding, 2023, arXiv 2311.08046. Differs from the latter
    in that no random noise breaks ties of rho, and in plain means.
    """

    mixture = True
    also_known_as = ("dpc", "density_peaks", "chat_univi", "density_peak_clustering")

    def __init__(self, num_tokens: int, neighbours: int = 5) -> None:
        super().__init__(num_tokens)
        self.neighbours = positive_int(neighbours, "neighbours")

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        parts = [self._clusters(part) for part in vision_tokens.split(in_turn(vision_tokens))]
        positions, owner = (torch.cat(tables) for tables in zip(*parts, strict=True))
        return Compressed.mix(vision_tokens, averages(members(owner, positions), wide(vision_tokens.dtype)), positions)

    def _clusters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centres (b, k), ascending, and the centre of each token (b, n)."""
        square, n = squared_distances(x), x.shape[1]
        positions = best(peaks(square, self.neighbours), self.output_length(n))
        nearest = square.gather(1, positions.unsqueeze(-1).expand(-1, -1, n)).argmin(1)
        return positions, positions.gather(1, nearest).scatter_(1, positions, positions)
