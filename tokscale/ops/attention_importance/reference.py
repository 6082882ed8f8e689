"""The definition of `attention_importance` in plain PyTorch: the whole matrix, then its column sums."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_importance(
    q: Tensor,  # b h m d
    k: Tensor,  # b g n d
    *,
    lse: Tensor | None = None,  # b h m
    rows: int | slice | Tensor | None = None,
    row_mask: Tensor | None = None,  # b m
    key_mask: Tensor | None = None,  # b n
    key_lengths: Tensor | None = None,  # b
    attn_mask: Tensor | None = None,  # broadcasts to b h m n
    causal: bool = False,
    offset: int | None = None,
    scale: float | None = None,
    reduce: str = "sum",
    group_size: int = 1,
) -> Tensor:
    """Column sums of the attention matrix, in the inputs' dtype: call it in float64 for an oracle."""
    (b, h, m, d), n = q.shape, k.shape[2]
    k = k.repeat_interleave(h // k.shape[1], 1)
    scores = q @ k.transpose(-1, -2) * (d**-0.5 if scale is None else scale)  # b h m n

    visible = torch.ones(b, h, m, n, dtype=torch.bool)
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    if key_lengths is not None:
        visible = visible & (torch.arange(n) < key_lengths[:, None])[:, None, None, :]
    if attn_mask is not None:
        visible = visible & attn_mask
    if causal:
        visible = visible & (torch.arange(n) <= torch.arange(m)[:, None] + (n - m if offset is None else offset))
    scores = scores.masked_fill(~visible, -torch.inf)

    if lse is None:
        lse = torch.logsumexp(scores, -1)
    p = torch.where(
        (lse == -torch.inf)[..., None], 0, torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0)[..., None])
    )
    votes = torch.ones(b, m, dtype=torch.bool) if row_mask is None else row_mask
    p = torch.stack([p[i][:, _selected(rows, m, i)] for i in range(b)]) if b else p  # b h r n
    votes = torch.stack([votes[i][_selected(rows, m, i)] for i in range(b)]) if b else votes  # b r
    per_head = (p * votes[:, None, :, None]).sum(2)  # b h n
    per_head = per_head.reshape(b, h, n // group_size, group_size).sum(-1)
    if reduce == "none":
        return per_head
    if reduce == "sum":
        return per_head.sum(1)
    return per_head.sum(1) / (h * votes.sum(1, keepdim=True)).clamp_min(1)


def _selected(rows: int | slice | Tensor | None, m: int, sample: int) -> Tensor:
    """The indices of the rows that vote in one sample."""
    every = torch.arange(m)
    if rows is None:
        return every
    if isinstance(rows, int):
        return every[[rows]]
    if isinstance(rows, slice):
        return torch.tensor(range(m)[rows], dtype=torch.int64)
    return every[rows if rows.dim() == 1 else rows[sample]]
