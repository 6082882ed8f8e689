"""Fast PyTorch for `attention_importance`: a block of rows at a time, summed at once, so memory is O(m + n) per head.

The backward recomputes each block's softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _numerics

ROWS = 128  # query rows in work at a time, a thread: their scores against a few thousand keys stay in the cache


class Inputs(NamedTuple):
    """The arguments of the operator, the voting rows selected already."""

    q: Tensor  # b h r d
    k: Tensor  # b g n d
    lse: Tensor | None  # b h r
    positions: Tensor | None  # (1 or b) r: which query row each is; None: 0, 1, 2, ...
    votes: Tensor | None  # b r
    visible: Tensor | None  # b n
    attn_mask: Tensor | None  # (1 or b) (1 or h) (1 or m) (1 or n), over all query rows
    offset: int | None  # causal: row i sees key j iff j <= i + offset
    scale: float

    @property
    def masked(self) -> bool:
        """Whether some row may see no key."""
        return self.visible is not None or self.attn_mask is not None or self.offset is not None


class Block(NamedTuple):
    """Samples, key heads and rows; keys beyond `keys` are invisible to all of them."""

    samples: slice
    key_heads: slice
    heads: slice
    rows: slice
    keys: int
    q: Tensor  # s G (h/g rows) d, scaled
    k: Tensor  # s G keys d
    p: Tensor  # s H rows keys; 0 in rows that do not vote


@_numerics.without_autocast
def column_sums(a: Inputs) -> Tensor:
    """(b, h, n): what each key receives, per query head."""
    b, h, _, _ = a.q.shape
    total = a.q.new_zeros((b, h, a.k.shape[2]), dtype=_numerics.compute_dtype(a.q))
    for block in blocks(a):
        total[block.samples, block.heads, : block.keys] += block.p.sum(2)
    return total


@_numerics.without_autocast
def backward(a: Inputs, d_total: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of q, k and lse from that of the column sums (b, h, n).

    `dS = P * (g - sum_k P g)`; with a given lse `dS = P * g` and `dlse = -sum_j P g`. `dQ = scale dS K`, `dK = scale
    dS' Q`.
    """
    dtype = _numerics.compute_dtype(a.q)
    d_q = a.q.new_zeros(a.q.shape, dtype=dtype)
    d_k = a.k.new_zeros(a.k.shape, dtype=dtype)
    d_lse = None if a.lse is None else a.lse.new_zeros(a.lse.shape, dtype=dtype)
    for block in blocks(a):
        g = d_total[block.samples, block.heads, None, : block.keys]
        d_s = block.p * g
        row = d_s.sum(-1, keepdim=True)
        if d_lse is None:
            d_s.addcmul_(block.p, row, value=-1)
        else:
            d_lse[block.samples, block.heads, block.rows] -= row.squeeze(-1)
        d_s = d_s.view(*block.q.shape[:3], block.keys)
        d_q[block.samples, block.heads, block.rows] += (d_s @ block.k).view(*block.p.shape[:3], -1) * a.scale
        d_k[block.samples, block.key_heads, : block.keys] += d_s.transpose(-1, -2) @ block.q
    return d_q, d_k, d_lse


def blocks(a: Inputs) -> Iterator[Block]:
    """Whole samples together while their scores fit the cache, else some key heads of one sample, `ROWS` rows at a
    time: a function of the sizes of one sample only, so that a sample's blocks do not depend on its batch mates."""
    (b, h, r, _), (_, g, n, _) = a.q.shape, a.k.shape
    if b * h * r * n == 0:
        return
    share = h // g
    threads = torch.get_num_threads() if a.q.device.type == "cpu" else 1
    rows = min(r, max(_numerics.MIN_ROWS, ROWS * threads // share))
    key_heads = min(g, max(1, _numerics.block_elements(a.q) // (share * rows * n)))
    whole = rows == r and key_heads == g
    samples = max(1, _numerics.block_elements(a.q) // (h * r * n)) if whole else 1
    for first in range(0, b, samples):
        some = slice(first, min(first + samples, b))
        for head in range(0, g, key_heads):
            some_keys = slice(head, min(head + key_heads, g))
            k = _numerics.batched(a.k[some, some_keys].to(_numerics.compute_dtype(a.q)))
            for start in range(0, r, rows):
                block = _attend(a, some, some_keys, slice(start, min(start + rows, r)), k)
                if block is not None:
                    yield block


def _attend(a: Inputs, samples: slice, key_heads: slice, rows: slice, k: Tensor) -> Block | None:
    share = a.q.shape[1] // a.k.shape[1]
    heads = slice(key_heads.start * share, key_heads.stop * share)
    q = _numerics.batched(a.q[samples, heads, rows].to(k.dtype)) * a.scale
    s, h, r, d = q.shape
    index = _row_index(a, samples, rows)
    keys = k.shape[2]
    if a.offset is not None:
        keys = min(keys, int(index.max()) + a.offset + 1) if a.q.device.type == "cpu" else keys
        if keys <= 0:
            return None  # no row of the block sees any key
        k = k[:, :, :keys]
    q = q.reshape(s, k.shape[1], share * r, d)
    scores = (q @ k.transpose(-1, -2)).view(s, h, r, keys)
    if a.visible is not None:
        _numerics.hide(scores, a.visible[samples, None, None, :keys])
    if a.offset is not None:
        seen = torch.arange(keys, device=q.device) <= index[..., None] + a.offset  # (1 or s) r keys
        _numerics.hide(scores, seen[:, None])
    if a.attn_mask is not None:
        _numerics.hide(scores, _mask_rows(a.attn_mask, samples, heads, index, keys))
    if a.lse is None:
        p, _ = _numerics.joint_softmax(scores, a.masked)
    else:  # lse = -inf does not vote: exp(s - inf) = 0, also where s is -inf
        lse = a.lse[samples, heads, rows]
        p = scores.sub_(lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]).exp_()
    if a.votes is not None:
        p.masked_fill_(~a.votes[samples, None, rows, None], 0)
    return Block(samples, key_heads, heads, rows, keys, q, k, p)


def _row_index(a: Inputs, samples: slice, rows: slice) -> Tensor:
    """Which query rows a block holds: (1 or s, r)."""
    if a.positions is None:
        return torch.arange(rows.start, rows.stop, device=a.q.device)[None]
    return a.positions[samples if a.positions.shape[0] > 1 else slice(None), rows]


def _mask_rows(mask: Tensor, samples: slice, heads: slice, index: Tensor, keys: int) -> Tensor:
    """The part of a broadcastable mask that a block's rows see."""
    if mask.shape[0] > 1:
        mask = mask[samples]
    if mask.shape[1] > 1:
        mask = mask[:, heads]
    if mask.shape[3] > 1:
        mask = mask[..., :keys]
    if mask.shape[2] == 1:
        return mask
    if index.shape[0] == 1:
        return mask.index_select(2, index[0])
    mask = mask.expand(index.shape[0], -1, -1, -1)
    return mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))


def reduced(total: Tensor, reduce: str, group_size: int, voters: Tensor | float) -> Tensor:
    """Sum over groups of keys, then over heads; `voters` (b, 1) or a number: rows that vote, for the mean."""
    b, h, n = total.shape
    total = total.view(b, h, n // group_size, group_size).sum(-1) if group_size > 1 else total
    if reduce == "none":
        return total
    if reduce == "sum":
        return total.sum(1)
    return total.sum(1) / _at_least_one(h * voters)


def reduced_backward(grad: Tensor, heads: int, reduce: str, group_size: int, voters: Tensor | float) -> Tensor:
    """The gradient (b, h, n) of the column sums."""
    if reduce == "mean":
        grad = grad / _at_least_one(heads * voters)
    if group_size > 1:
        grad = grad.repeat_interleave(group_size, -1)
    return grad if reduce == "none" else grad[:, None].expand(-1, heads, -1)


def _at_least_one(count: Tensor | float) -> Tensor | float:
    return count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1)


def scatter_rows(grad: Tensor, positions: Tensor, m: int) -> Tensor:
    """Gradient (b, h, m, ...) of all rows from that of the selected ones (b, h, r, ...); a repeated row adds up.

    Without atomics, so that two runs agree bit for bit.
    """
    b, h, r = grad.shape[:3]
    flat = (positions.expand(b, r) + m * torch.arange(b, device=grad.device)[:, None]).reshape(b * r)
    full = grad.new_zeros((b * m, h, *grad.shape[3:]))
    source = grad.transpose(1, 2).reshape(b * r, h, *grad.shape[3:])
    if grad.device.type == "cpu":
        full.index_add_(0, flat, source)  # one row after the other
    else:
        full.index_put_((flat,), source, accumulate=True)  # sorts first
    return full.view(b, m, h, *grad.shape[3:]).transpose(1, 2).contiguous()
