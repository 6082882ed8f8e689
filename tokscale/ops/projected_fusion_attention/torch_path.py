"""The folded path of `projected_fusion_attention` in PyTorch: the keys' projection moves to the queries.

    q~ = q W_k        S = [scale q~ x' + scale q . b_k + vision_bias ; scale q k_text' + text_bias]
    P = softmax(S)    y = P_vision x    out = y W_v' + (sum_j P_ij over vision) b_v + P_text v_text

`q . b_k` is one constant per row, but of the vision segment only, and `b_v` is weighted by the mass on vision: the
question shares the softmax. With m rows this costs 4 h m n C FLOPs in place of 4 n d (g C + h m). P and y are kept for
the backward; they are smaller than x wherever folding pays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _numerics
from ..fusion_attention.torch_path import add_over_samples, join_received, like
from .products import by_key_head, to_heads, to_tokens, weight_gradient


class Inputs(NamedTuple):
    """The arguments of the operator; `mask` is the joint visibility (b, n + t), None where all is visible."""

    q: Tensor  # b h m d
    x: Tensor  # b n C
    w_k: Tensor  # (g d) C
    w_v: Tensor
    k_text: Tensor | None  # b g t d
    v_text: Tensor | None
    b_k: Tensor | None  # (g d)
    b_v: Tensor | None
    mask: Tensor | None
    vision_bias: Tensor | None
    text_bias: Tensor | None
    scale: float
    dead: bool  # whether some row may see no key

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]:
        """b, h, g, m, n, t, d"""
        b, h, m, d = self.q.shape
        return b, h, self.w_k.shape[0] // d, m, self.x.shape[1], 0 if self.k_text is None else self.k_text.shape[2], d

    def per_head(self, weight: Tensor) -> Tensor:
        """(g d, C) as (g, d, C), in the precision of the computation."""
        g, d = self.sizes[2], self.sizes[6]
        return weight.to(_numerics.compute_dtype(self.q)).view(g, d, *weight.shape[1:])

    def queries(self) -> Tensor:
        """(b, g, h/g m, d), scaled, in the precision of the computation."""
        return by_key_head(self.q.to(_numerics.compute_dtype(self.q)) * self.scale, self.sizes[2])


@_numerics.without_autocast
def forward(a: Inputs, with_lse: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, received (b, n + t), P, y); lse is filled only if asked for, the last two are empty unless `keep`."""
    b, h, g, m, n, t, d = a.sizes
    if b * h * m * (n + t) == 0:
        return nothing(a, keep)
    q = a.queries()
    p = q.new_empty((b, h * m, n + t))
    lse = q.new_empty((b, h * m))
    y = q.new_empty((b, h * m, a.x.shape[2]))
    queries = to_tokens(q, a.per_head(a.w_k)).view(b, h * m, -1)
    for some in _samples(a):
        x = a.x[some].to(q.dtype)
        p[some], rows = _softmax(a, some, q[some], queries[some], x, with_lse)
        if rows is not None:
            lse[some] = rows
        if _numerics.narrow_products(a.x):  # P in bf16, sums in fp32: as flash attention does
            y[some] = torch.bmm(p[some, :, :n].to(a.x.dtype), a.x[some])
        else:
            torch.bmm(p[some, :, :n], x, out=y[some])
    out = to_heads(y.view(b, g, -1, y.shape[2]), a.per_head(a.w_v))
    vision, text = p[..., :n], p[..., n:]
    if a.b_v is not None:
        out += vision.sum(-1).view(b, g, -1, 1) * a.per_head(a.b_v)[:, None]
    if a.v_text is not None and t:
        out += text.reshape(b, g, -1, t) @ a.v_text.to(q.dtype)
    out = out.view(b, h, m, d).to(a.q.dtype)
    received = p.sum(1)
    if not keep:
        p, y = q.new_empty(0), q.new_empty(0)
    return out, lse.view(b, h, m), received, p, y


def nothing(a: Inputs, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The outputs where there is nothing to attend with or to."""
    b, h, _, m, n, t, _ = a.sizes
    exact = a.q.new_empty(0, dtype=_numerics.compute_dtype(a.q))
    return (
        torch.zeros(a.q.shape, dtype=a.q.dtype, device=a.q.device),
        exact.new_full((b, h, m), -torch.inf),
        exact.new_zeros((b, n + t)),
        exact.new_zeros((b, h * m, n + t) if keep else 0),
        exact.new_zeros((b, h * m, a.x.shape[2]) if keep else 0),
    )


def _softmax(
    a: Inputs, some: slice, q: Tensor, queries: Tensor, x: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """P (s, h m, n + t) of some samples, and lse (s, h m) if asked for."""
    _, h, _, m, n, t, _ = a.sizes
    s = x.shape[0]
    scores = q.new_empty((s, h * m, n + t))
    torch.bmm(queries, x.transpose(1, 2), out=scores[..., :n])
    by_head = scores.view(s, h, m, n + t)
    if a.k_text is not None and t:
        text = q @ a.k_text[some].to(q.dtype).transpose(-1, -2)
        by_head[..., n:] = text.view(s, h, m, t)
        if a.text_bias is not None:
            by_head[..., n:] += a.text_bias[:, None, None]
    if a.b_k is not None:
        by_head[..., :n] += (q @ a.per_head(a.b_k)[..., None]).view(s, h, m, 1)
    if a.vision_bias is not None:
        by_head[..., :n] += a.vision_bias
    if a.mask is not None:
        _numerics.hide(scores, a.mask[some, None])
    p, top = _numerics.joint_softmax(scores, a.dead, with_lse)
    return p, _numerics.log_sum_exp(p, top) if top is not None and with_lse else None


class Gradients(NamedTuple):
    """Of q, x, w_k, w_v, k_text, v_text, b_k, b_v, vision_bias, text_bias; empty for arguments not given."""

    q: Tensor
    x: Tensor
    w_k: Tensor
    w_v: Tensor
    k_text: Tensor
    v_text: Tensor
    b_k: Tensor
    b_v: Tensor
    vision_bias: Tensor
    text_bias: Tensor


@_numerics.without_autocast
def backward(
    a: Inputs,
    p: Tensor,
    y: Tensor,
    d_out: Tensor | None,
    d_lse: Tensor | None,
    d_importance: Tensor | None,
    d_text_importance: Tensor | None,
) -> Gradients:
    """Gradients of every argument, from the kept P and y: the derivatives of the products above, in reverse order."""
    b, h, g, m, n, t, _ = a.sizes
    if b * h * m * (n + t) == 0:
        return no_gradients(a)
    if p.numel() == 0:  # the operator was called without `keep`
        *_, p, y = forward(a, with_lse=False, keep=True)
    d_received = join_received(d_importance, d_text_importance, (b, n, t), p.dtype)
    q, w_k, w_v = a.queries(), a.per_head(a.w_k), a.per_head(a.w_v)
    d_out = torch.zeros_like(q) if d_out is None else by_key_head(d_out.to(q.dtype), g)
    queries = to_tokens(q, w_k).view(b, h * m, -1)
    d_y = to_tokens(d_out, w_v).view(b, h * m, -1)
    mass = p[..., :n].sum(-1).view(b, g, -1, 1)

    d_p = p.new_empty(p.shape)
    d_queries = torch.empty_like(d_y)
    d_x = torch.empty_like(a.x, memory_format=torch.contiguous_format)
    d_vision_bias = None if a.vision_bias is None else q.new_zeros(a.vision_bias.shape)
    d_row = q.new_empty((b, h * m))  # sum of dS over vision: what reaches q . b_k
    if a.v_text is not None and t:
        d_p.view(b, g, -1, n + t)[..., n:] = d_out @ a.v_text.to(q.dtype).transpose(-1, -2)
    d_mass = None if a.b_v is None else (d_out @ _bias_column(a, a.b_v)).view(b, h * m, 1)
    for some in _samples(a):
        x = a.x[some].to(q.dtype)
        torch.bmm(d_y[some], x.transpose(1, 2), out=d_p[some, :, :n])
        if d_mass is not None:
            d_p[some, :, :n] += d_mass[some]
        if d_received is not None:
            d_p[some] += d_received[some, None]
        d_l = None
        if d_lse is not None:  # a row that sees no key has no gradient, whatever comes in
            d_l = d_lse.reshape(b, h * m)[some].masked_fill(p[some].amax(-1) == 0, 0)
        d_s = _numerics.softmax_backward(d_p[some], p[some], d_l)
        d_p[some] = d_s
        vision = d_s[..., :n]
        d_row[some] = vision.sum(-1)
        if d_vision_bias is not None:
            add_over_samples(d_vision_bias, vision.view(x.shape[0], h, m, n))
        torch.bmm(vision, x, out=d_queries[some])
        d_x[some] = torch.baddbmm(
            torch.bmm(p[some, :, :n].transpose(1, 2), d_y[some]), vision.transpose(1, 2), queries[some]
        )

    d_queries = d_queries.view(b, g, -1, d_queries.shape[2])
    d_q = to_heads(d_queries, w_k)
    d_b_k = d_b_v = d_k_text = d_v_text = d_text_bias = None
    if a.b_k is not None:
        row = d_row.view(b, g, -1, 1)
        d_q += row * _bias_column(a, a.b_k).transpose(-1, -2)
        d_b_k = (row * q).sum((0, 2)).view(-1)
    if a.b_v is not None:
        d_b_v = (mass * d_out).sum((0, 2)).view(-1)
    if a.k_text is not None and a.v_text is not None:
        d_text = d_p.view(b, g, -1, n + t)[..., n:]
        d_q += d_text @ a.k_text.to(q.dtype)
        d_k_text = d_text.transpose(-1, -2) @ q
        d_v_text = p.view(b, g, -1, n + t)[..., n:].transpose(-1, -2) @ d_out
    if a.text_bias is not None:
        d_text_bias = d_p.view(b, h, m, n + t)[..., n:].sum((0, 2, 3))
    return Gradients(
        (d_q * a.scale).view(a.q.shape).to(a.q.dtype),
        d_x,
        weight_gradient(q, d_queries).to(a.w_k.dtype),
        weight_gradient(d_out, y.view(d_queries.shape)).to(a.w_v.dtype),
        *(
            like(grad, argument, q)
            for grad, argument in (
                (d_k_text, a.k_text),
                (d_v_text, a.v_text),
                (d_b_k, a.b_k),
                (d_b_v, a.b_v),
                (d_vision_bias, a.vision_bias),
                (d_text_bias, a.text_bias),
            )
        ),
    )


def no_gradients(a: Inputs) -> Gradients:
    """Zeros."""
    return Gradients(*(a.q.new_empty(0) if x is None else x.new_zeros(x.shape) for x in (*a[:8], *a[9:11])))


def _bias_column(a: Inputs, bias: Tensor) -> Tensor:
    """(g d,) as (g, d, 1)."""
    return a.per_head(bias)[..., None]


def _samples(a: Inputs) -> list[slice]:
    """Samples whose scores fit the cache together."""
    b, h, _, m, n, t, _ = a.sizes
    per_sample = h * m * (n + t)
    step = max(1, _numerics.block_elements(a.q) // per_sample)
    return [slice(first, min(first + step, b)) for first in range(0, b, step)]
