"""`fusion_attention` by Triton: launches, and what PyTorch does around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _triton
from .._scores import Scores
from ..attention_backward import triton_path as attention_backward
from ..attention_backward.triton_path import Cotangents
from ..attention_importance import triton_path as attention_importance
from . import kernel, torch_path
from .configs import bias_tile, combine_rows, forward_tile


class Values(NamedTuple):
    """One segment's values as a kernel gets them."""

    v: Any
    v_b: Any
    v_g: Any
    v_n: Any
    ALIGN: Any


def segments(x: torch_path.Inputs) -> tuple[Scores, Tensor, Scores | None, Tensor | None]:
    """Scores and values of vision, and of the question if there is one; only an inner stride other than 1 is copied."""
    q, k, v = (_triton.unit_stride(t) for t in (x.q, x.k_vision, x.v_vision))
    bias = x.vision_bias
    if bias is not None:
        bias = _triton.unit_stride(bias).expand(q.shape[1], -1, -1)
    seen, text_seen = x.seen
    vision = Scores(q, k, x.scale, seen, bias=bias)
    if x.k_text is None or x.v_text is None or x.t == 0:
        return vision, v, None, None
    head_bias = None if x.text_bias is None else x.text_bias.contiguous()
    text = Scores(q, _triton.unit_stride(x.k_text), x.scale, text_seen, head_bias=head_bias)
    return vision, v, text, _triton.unit_stride(x.v_text)


@_triton.on_device
def forward(x: torch_path.Inputs, with_lse: bool, with_importance: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, importance, text_importance); what is not asked for is empty."""
    vision, v, text, v_text = segments(x)
    out, lse = attention(vision, v, text, v_text)
    given = lse if with_lse else lse.new_empty(0)
    if not with_importance:
        return out, given, lse.new_empty(0), lse.new_empty(0)
    importance = attention_importance.column_sums(vision, lse, False).sum(1)
    t = x.q.shape[0], x.t
    text_importance = lse.new_zeros(t) if text is None else attention_importance.column_sums(text, lse, False).sum(1)
    return out, given, importance, text_importance


def attention(a: Scores, v: Tensor, text: Scores | None, v_text: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output (b, h, m, d) and log-sum-exp (b, h, m)."""
    b, h, _, m, n, d = a.sizes
    a = a.packed().ascending()
    block_d = _triton.block_d(d)
    t = forward_tile(_triton.platform(a.q.device), block_d, _triton.row_block(a.rows), a.q.element_size())
    blocks = _triton.cdiv(a.rows, t.rows)
    splits = _triton.splits(blocks * a.row_programs, n, t.keys, a.q.device)
    out = a.q.new_empty((b, h, m, d))
    lse = out.new_empty((b, h, m), dtype=torch.float32)
    if not out.numel():
        return out, lse
    parts = out if splits == 1 else out.new_empty((splits, *out.shape), dtype=torch.float32)
    part_lse = lse if splits == 1 else lse.new_empty((splits, *lse.shape))
    call, values = a.call(), _values(v)
    kernel.forward[(blocks, splits, a.row_programs)](
        call,
        values,
        call if text is None else text._replace(pack=a.pack).ascending().call(),
        values if v_text is None else _values(v_text),
        parts,
        part_lse,
        out.numel(),
        *out.stride()[:3],
        lse.numel(),
        splits,
        BM=t.rows,
        BN=t.keys,
        HAS_TEXT=text is not None,
        num_warps=t.warps,
        num_stages=t.stages,
    )
    if splits > 1:
        padded = 1 << (splits - 1).bit_length()
        together = combine_rows(padded * block_d)
        kernel.combine[(_triton.cdiv(b * h * m, together),)](
            parts,
            part_lse,
            out,
            lse,
            b * h * m,
            splits,
            D=d,
            BLOCK_D=block_d,
            SPLITS=padded,
            R=together,
            WIDE=_triton.INTERPRETED,
            num_warps=4,
        )
    return out, lse


def _values(v: Tensor) -> Values:
    strides = v.stride()
    return Values(v, *strides[:3], *_triton.constants(_triton.alignment(strides)))


@_triton.on_device
def backward(
    x: torch_path.Inputs,
    out: Tensor | None,
    lse: Tensor | None,
    d_out: Tensor | None,
    d_lse: Tensor | None,
    d_importance: Tensor | None,
    d_text_importance: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k_vision, v_vision, k_text, v_text, vision_bias, text_bias; empty for those not given.

    `delta_i = O_i . dO_i + sum_j P_ij g_j - dlse_i`; without `out` and `lse` the forward runs again.
    """
    vision, v, text, v_text = segments(x)
    if out is None or lse is None:
        out, lse = attention(vision, v, text, v_text)
    d_out = None if d_out is None else _triton.unit_stride(d_out)
    delta = torch.zeros_like(lse) if d_out is None else (out.float() * d_out.float()).sum(-1)
    if d_lse is not None:
        delta = delta - d_lse
    c = Cotangents(lse, _received(d_importance), None if d_out is None else v, d_out)
    c_text = Cotangents(lse, _received(d_text_importance), None if d_out is None else v_text, d_out)
    if c.received is not None:
        delta = delta + attention_backward.received_sums(vision, c)
    if text is not None and c_text.received is not None:
        delta = delta + attention_backward.received_sums(text, c_text)
    c, c_text = (segment._replace(delta=delta.contiguous()) for segment in (c, c_text))

    d_q, _ = attention_backward.query_gradient(vision, c, partial=text is not None)
    d_k, d_v = attention_backward.key_gradient(vision, c)
    empty = x.q.new_empty(0)
    d_bias = empty.clone() if x.vision_bias is None else bias_gradient(vision, c, x.vision_bias)
    if text is None:
        absent = (torch.zeros_like(t) if t is not None else empty.clone() for t in (x.k_text, x.v_text))
        d_text_bias = empty.clone() if x.text_bias is None else torch.zeros_like(x.text_bias)
        return d_q, d_k, _or_zeros(d_v, v), *absent, d_bias, d_text_bias
    d_q_text, sums = attention_backward.query_gradient(text, c_text, partial=True, sum_rows=x.text_bias is not None)
    d_k_text, d_v_text = attention_backward.key_gradient(text, c_text)
    return (
        (d_q + d_q_text).to(x.q.dtype),
        d_k,
        _or_zeros(d_v, v),
        d_k_text,
        _or_zeros(d_v_text, text.k),
        d_bias,
        empty if x.text_bias is None else sums.sum((0, 2)).to(x.text_bias.dtype),
    )


def bias_gradient(a: Scores, c: Cotangents, bias: Tensor) -> Tensor:
    """The gradient of the position bias, in its shape and dtype."""
    b, h, _, m, n, d = a.sizes
    shared = bias.shape[0] == 1 and h > 1
    t = bias_tile(_triton.platform(a.q.device), _triton.block_d(d), _triton.row_block(m), a.q.element_size())
    out = torch.empty(bias.shape, dtype=bias.dtype, device=bias.device)
    if out.numel():
        kernel.bias_gradient[(_triton.cdiv(n, t.keys), _triton.cdiv(m, t.rows), 1 if shared else h)](
            a.call(),
            c.call(a),
            out,
            b * h if shared else b,
            BM=t.rows,
            BN=t.keys,
            SHARED=shared,
            num_warps=t.warps,
            num_stages=t.stages,
        )
    return out


def _received(cotangent: Tensor | None) -> Tensor | None:
    """(b, n) as (b, 1, n): one for all heads."""
    return None if cotangent is None else cotangent.float().contiguous()[:, None]


def _or_zeros(gradient: Tensor, like: Tensor) -> Tensor:
    """Without a cotangent of the output no value has a gradient."""
    return gradient if gradient.numel() else torch.zeros(like.shape, dtype=like.dtype, device=like.device)
