"""Fast PyTorch for `fusion_attention`: blocks of samples, or of one sample's rows, whose scores stay in the cache.

Where only `out` is wanted and no bias is given, PyTorch's own attention runs over the concatenated keys. The backward
recomputes the softmax block by block, so nothing of size m x n is kept between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _numerics


class Inputs(NamedTuple):
    """The arguments of the operator; `mask` is the joint visibility (b, n + t), None where all is visible.

    Triton reads `seen`, the visibility of each segment, instead.
    """

    q: Tensor
    k_vision: Tensor
    v_vision: Tensor
    k_text: Tensor | None
    v_text: Tensor | None
    mask: Tensor | None
    vision_bias: Tensor | None
    text_bias: Tensor | None
    scale: float
    dead: bool  # whether some row may see no key
    seen: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def n(self) -> int:
        return self.k_vision.shape[2]

    @property
    def t(self) -> int:
        return 0 if self.k_text is None else self.k_text.shape[2]


class Block(NamedTuple):
    """One block: samples and rows, and its operands in the precision of the computation."""

    samples: slice
    rows: slice
    q: Tensor  # s g (h/g rows) d, scaled
    k: Tensor  # s g (n + t) d
    p: Tensor  # s h rows (n + t)
    top: Tensor | None  # s h rows 1: maxima of the scores, where asked for


@_numerics.without_autocast
def forward(x: Inputs, with_lse: bool, with_importance: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, importance, text_importance); what is not asked for is empty."""
    b, h, m, _ = x.q.shape
    dtype = _numerics.compute_dtype(x.q)
    exact = x.q.new_empty(0, dtype=dtype)
    if b == 0 or h == 0 or m == 0 or x.n + x.t == 0:
        return (
            torch.zeros(x.q.shape, dtype=x.q.dtype, device=x.q.device),
            exact.new_full((b, h, m) if with_lse else (0,), -torch.inf),
            exact.new_zeros((b, x.n) if with_importance else (0,)),
            exact.new_zeros((b, x.t) if with_importance else (0,)),
        )
    if not with_lse and not with_importance and x.vision_bias is None and x.text_bias is None:
        return _scaled_dot_product(x), exact.clone(), exact.clone(), exact.clone()
    out = torch.empty(x.q.shape, dtype=x.q.dtype, device=x.q.device)
    lse = exact.new_empty((b, h, m) if with_lse else (0,))
    received = exact.new_zeros((b, x.n + x.t)) if with_importance else None
    for block in blocks(x, with_top=with_lse):
        if block.rows.start == 0:  # later rows of a sample share it
            v = _numerics.batched(join(x.v_vision, x.v_text, block.samples, dtype))
        out[block.samples, :, block.rows] = _per_head(grouped(block.p, v.shape[1]) @ v, h)
        if block.top is not None and with_lse:
            lse[block.samples, :, block.rows] = _numerics.log_sum_exp(block.p, block.top)
        if received is not None:
            received[block.samples] += block.p.sum((1, 2))
    if received is None:
        return out, lse, exact.clone(), exact.clone()
    return out, lse, received[:, : x.n].clone(), received[:, x.n :].clone()


@_numerics.without_autocast
def backward(
    x: Inputs,
    d_out: Tensor | None,
    d_lse: Tensor | None,
    d_importance: Tensor | None,
    d_text_importance: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k_vision, v_vision, k_text, v_text, vision_bias, text_bias; empty for those not given.

    `dP = dO v' + g`, `dS = P * (dP - sum P dP + dlse)`, `dQ = scale dS K`, `dK = scale dS' Q`, `dV = P' dO`.
    """
    b, h, m, d = x.q.shape
    n, t, g = x.n, x.t, x.k_vision.shape[1]
    dtype = _numerics.compute_dtype(x.q)
    d_q = torch.zeros(x.q.shape, dtype=x.q.dtype, device=x.q.device)
    d_k = d_q.new_zeros((b, g, n + t, d), dtype=dtype)
    d_v = torch.zeros_like(d_k)
    d_vision_bias = None if x.vision_bias is None else d_k.new_zeros(x.vision_bias.shape)
    d_text_bias = None if x.text_bias is None else d_k.new_zeros(x.text_bias.shape)
    received = join_received(d_importance, d_text_importance, (b, n, t), dtype)
    for block in blocks(x) if b * h * m * (n + t) else ():
        if block.rows.start == 0:
            v = join(x.v_vision, x.v_text, block.samples, dtype)
        if d_out is None:
            d_p = torch.zeros_like(block.p)
        else:
            d_o = _grouped_rows(d_out, block, g, dtype)
            d_p = (d_o @ v.transpose(-1, -2)).view(block.p.shape)
            d_v[block.samples] += grouped(block.p, g).transpose(-1, -2) @ d_o
        if received is not None:
            d_p += received[block.samples, None, None]
        d_l = None
        if d_lse is not None:
            d_l = d_lse[block.samples, :, block.rows]
            if block.top is not None:  # a row that sees no key has no gradient, whatever comes in
                d_l = d_l.masked_fill(block.top.squeeze(-1) == -torch.inf, 0)
        d_s = _numerics.softmax_backward(d_p, block.p, d_l)
        if d_vision_bias is not None:
            add_over_samples(d_vision_bias[:, block.rows], d_s[..., :n])
        if d_text_bias is not None:
            d_text_bias += d_s[..., n:].sum((0, 2, 3))
        d_s = grouped(d_s, g)
        d_q[block.samples, :, block.rows] = _per_head(d_s @ block.k, h) * x.scale
        d_k[block.samples] += d_s.transpose(-1, -2) @ block.q
    d_k_text = None if x.k_text is None else d_k[:, :, n:].clone()
    d_v_text = None if x.v_text is None else d_v[:, :, n:].clone()
    return (
        d_q,
        d_k[:, :, :n].to(x.q.dtype, copy=True),
        d_v[:, :, :n].to(x.q.dtype, copy=True),
        like(d_k_text, x.k_text, d_q),
        like(d_v_text, x.v_text, d_q),
        like(d_vision_bias, x.vision_bias, d_q),
        like(d_text_bias, x.text_bias, d_q),
    )


def add_over_samples(total: Tensor, d_scores: Tensor) -> None:
    """Add the gradient of the scores (s, h, r, n) to that of a bias (h or 1, r, n)."""
    total += d_scores.sum((0,) if total.shape[0] == d_scores.shape[1] else (0, 1))


def like(grad: Tensor | None, argument: Tensor | None, empty: Tensor) -> Tensor:
    """A gradient in its argument's dtype, or an empty tensor where there is no argument."""
    return empty.new_empty(0) if grad is None or argument is None else grad.to(argument.dtype)


def blocks(x: Inputs, with_top: bool = False) -> Iterator[Block]:
    """Samples together while their scores fit, else the rows of one sample after the other: a function of the sizes of
    one sample only, so that a sample's blocks do not depend on its batch mates."""
    b, h, m, _ = x.q.shape
    dtype = _numerics.compute_dtype(x.q)
    room = _numerics.block_elements(x.q)
    samples = max(1, room // (h * m * (x.n + x.t)))
    fit = max(_numerics.MIN_ROWS, room // (h * (x.n + x.t)))
    rows = m if samples > 1 else math.ceil(m / max(1, round(m / fit)))  # blocks of one size, each near the room
    for first in range(0, b, samples):
        some = slice(first, min(first + samples, b))
        k = _numerics.batched(join(x.k_vision, x.k_text, some, dtype))
        for start in range(0, m, rows):
            yield _attend(x, some, slice(start, min(start + rows, m)), k, with_top)


def _attend(x: Inputs, samples: slice, rows: slice, k: Tensor, with_top: bool) -> Block:
    q = _numerics.batched(x.q[samples, :, rows].to(k.dtype)) * x.scale
    s, h, r, d = q.shape
    q = q.reshape(s, k.shape[1], h // k.shape[1] * r, d)
    scores = (q @ k.transpose(-1, -2)).view(s, h, r, k.shape[2])
    if x.vision_bias is not None:
        scores[..., : x.n] += x.vision_bias[:, rows]
    if x.text_bias is not None:
        scores[..., x.n :] += x.text_bias[:, None, None]
    if x.mask is not None:
        _numerics.hide(scores, x.mask[samples, None, None])
    p, top = _numerics.joint_softmax(scores, x.dead, with_top)
    return Block(samples, rows, q, k, p, top)


def join(vision: Tensor, text: Tensor | None, samples: slice, dtype: torch.dtype) -> Tensor:
    """Both segments of some samples as one (s, g, n + t, d)."""
    if text is None or text.shape[2] == 0:
        return vision[samples].to(dtype)
    return torch.cat([vision[samples].to(dtype), text[samples].to(dtype)], 2)


def grouped(p: Tensor, key_heads: int) -> Tensor:
    """(s, h, r, n) as (s, g, h/g r, n): the query heads of a key head share one product."""
    s, h, r, n = p.shape
    return p.view(s, key_heads, h // key_heads * r, n)


def _per_head(rows: Tensor, heads: int) -> Tensor:
    s, g, r, d = rows.shape
    return rows.reshape(s, heads, r * g // heads, d)


def _grouped_rows(tensor: Tensor, block: Block, key_heads: int, dtype: torch.dtype) -> Tensor:
    rows = tensor[block.samples, :, block.rows].to(dtype)
    s, h, r, d = rows.shape
    return rows.reshape(s, key_heads, h // key_heads * r, d)


def join_received(
    vision: Tensor | None, text: Tensor | None, sizes: tuple[int, int, int], dtype: torch.dtype
) -> Tensor | None:
    """The cotangents of both importances as one (b, n + t)."""
    b, n, t = sizes
    if vision is None and text is None:
        return None
    some = vision if vision is not None else text
    joined = some.new_zeros((b, n + t), dtype=dtype)  # type: ignore[union-attr]
    if vision is not None:
        joined[:, :n] = vision
    if text is not None:
        joined[:, n:] = text
    return joined


def _scaled_dot_product(x: Inputs) -> Tensor:
    everything = slice(None)
    k = join(x.k_vision, x.k_text, everything, x.q.dtype)
    v = join(x.v_vision, x.v_text, everything, x.q.dtype)
    mask = None if x.mask is None else x.mask[:, None, None].expand(-1, -1, x.q.shape[2], -1)
    out = F.scaled_dot_product_attention(
        x.q, k, v, attn_mask=mask, scale=x.scale, enable_gqa=x.q.shape[1] != x.k_vision.shape[1]
    ).contiguous()
    if x.mask is not None and x.dead:  # a sample that sees no key gives 0 on every device and version
        out.masked_fill_(~x.mask.any(-1)[:, None, None, None], 0)
    return out
