"""`attention_importance_varlen` by Triton: short segments in one tile each, else the same kernels within a segment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _triton
from .._scores import Scores
from . import kernel, triton_path
from .configs import segment_tile


class Packed(NamedTuple):
    """Packed queries and keys, and where the segments end."""

    q: Tensor  # total h d
    k: Tensor  # total g d
    ends_q: Tensor
    ends_k: Tensor
    longest: tuple[int, int]

    def scores(self, causal: bool, scale: float) -> Scores:
        """As the kernels read it: (1, heads, total, d)."""
        q, k = (_triton.unit_stride(t).transpose(0, 1)[None] for t in (self.q, self.k))
        return Scores(
            q,
            k,
            scale,
            offset=0 if causal else None,
            ends_q=self.ends_q.contiguous(),
            ends_k=self.ends_k.contiguous(),
            longest=self.longest,
        )


@_triton.on_device
def importance(p: Packed, causal: bool, scale: float, reduce: str, group_size: int) -> Tensor:
    """(total keys / group_size,), or with "none" one row per head."""
    sums = _column_sums(p.scores(causal, scale), reduce == "none")  # (g or h) total
    if group_size > 1:
        sums = sums.unflatten(1, (-1, group_size)).sum(-1)
    if reduce == "none":
        return sums
    total = sums.sum(0)
    return total / _votes(p, group_size) if reduce == "mean" else total


@_triton.on_device
def backward(
    p: Packed, grad: Tensor, causal: bool, scale: float, reduce: str, group_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of q and k."""
    s = p.scores(causal, scale)
    received = grad / _votes(p, group_size) if reduce == "mean" else grad
    if group_size > 1:
        received = received.repeat_interleave(group_size, -1)
    received = (received if reduce == "none" else received[None]).float().contiguous()
    d_q, d_k, _ = triton_path.gradients(s, triton_path.log_sum_exp(s), received, False)
    return d_q[0].transpose(0, 1).contiguous(), d_k[0].transpose(0, 1).contiguous()


def _column_sums(s: Scores, per_head: bool) -> Tensor:
    """(h, total) or, to be summed over the key heads, (g, total): in one launch where every segment fits a tile."""
    segments, h, g, m, n, d = s.sizes
    tile = segment_tile(_triton.platform(s.q.device), _triton.block_d(d), max(m, n), s.q.element_size())
    if tile is None:
        return triton_path.column_sums(s, triton_path.log_sum_exp(s), per_head)
    out = s.q.new_empty((h if per_head else g, s.k.shape[2]), dtype=torch.float32)
    if out.numel():
        kernel.column_sum_tile[(segments, g)](
            s.call(),
            out,
            out.stride(0),
            BM=tile.rows,
            BN=tile.keys,
            PER_HEAD=per_head,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return out


def _votes(p: Packed, group_size: int) -> Tensor:
    """Heads times rows of the segment that a (group of) key lies in."""
    rows, keys = p.ends_q.diff(), p.ends_k.diff() // group_size
    of_key = torch.repeat_interleave(rows, keys, output_size=p.k.shape[0] // group_size)
    return (of_key * p.q.shape[1]).clamp_min(1)
