"""The parts that trained resamplers share: attention, positions, and attention inside the cells of the grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from .layers import layer_norm


class Attention(nn.Module):
    """Multi-head attention: `W_o concat_h(softmax_j(q_h . k_hj / sqrt(d_h)) v_hj)`, each with its own projection.

    Keys have no bias: a softmax over them does not see it.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ArgumentError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.to_q, self.to_k = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.to_v, self.to_out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (b, k, dim).

        Args:
            queries: (b, k, dim). keys, values: (b, n, dim).
            mask: (k, n) bool, True = the query may look at the token; every row needs one.
        """
        q, k, v = self._heads(self.to_q(queries)), self._heads(self.to_k(keys)), self._heads(self.to_v(values))
        out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # b h n d


class CellAttention(nn.Module):
    """Each cell's query attends to the tokens of its cell: keys and values are `LayerNorm(MLP(x))`, each its own."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads)
        self.keys = nn.Sequential(two_layers(dim, dim), layer_norm(dim))
        self.values = nn.Sequential(two_layers(dim, dim), layer_norm(dim))

    def forward(self, queries: Tensor, x: Tensor, inside: Tensor) -> Tensor:
        """Return (b, k, dim) from queries (b, k, dim), tokens (b, n, dim) and `cells.inside` (k, n)."""
        return self.attention(queries, self.keys(x), self.values(x), inside)


def two_layers(dim: int, out_dim: int) -> nn.Sequential:
    """Return `W2 GELU(W1 x)`, as wide inside as outside."""
    return nn.Sequential(nn.Linear(dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))


def sine_cosine(grid: tuple[int, ...], dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return (n, dim) position codes: half of the channels for the row, half for the column, sines before cosines.

    Frequency i of `dim // 4` is `10000 ** (-i / (dim // 4))`; frames share their codes; what is left of `dim` is 0.
    """
    *frames, h, w = grid
    count = dim // 4
    frequency = 10000.0 ** (-torch.arange(count, dtype=torch.float64, device=device) / max(1, count))
    codes = []
    for size in (h, w):
        angle = torch.arange(size, dtype=torch.float64, device=device)[:, None] * frequency
        codes.append(torch.cat([angle.sin(), angle.cos()], 1))
    rows, columns = codes[0][:, None].expand(h, w, -1), codes[1][None].expand(h, w, -1)
    table = torch.cat([rows, columns], -1).flatten(0, 1).repeat(frames[0] if frames else 1, 1)
    return nn.functional.pad(table, (0, dim - 4 * count)).to(dtype)
