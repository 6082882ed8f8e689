"""The folded path of `projected_fusion_attention` on a GPU: two products, and one kernel between them.

The formulas are those of `torch_path`. Products run in the inputs' dtype, the softmax and all sums in fp32; the scale
is applied before the folded queries are rounded. Scores become probabilities in place, and the backward's dP becomes dS
in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _numerics, _triton
from ..fusion_attention.torch_path import add_over_samples, join_received, like
from . import kernel, torch_path
from .arguments import padded
from .configs import ROWS, WARPS, keys_block
from .products import by_key_head, to_heads, to_tokens, weight_gradient
from .torch_path import Gradients, Inputs


class Softmax(NamedTuple):
    """The first argument of `softmax_colsum`."""

    scores: Any
    row_bias: Any
    text_bias: Any
    bias: Any
    seen: Any
    bias_h: Any
    bias_m: Any
    bias_n: Any
    seen_b: Any
    seen_n: Any
    rows: Any
    m: Any
    n: Any
    t: Any
    width: Any
    HAS_ROW_BIAS: Any
    HAS_TEXT_BIAS: Any
    HAS_BIAS: Any
    HAS_SEEN: Any
    WIDE: Any


class SoftmaxBackward(NamedTuple):
    """The first argument of `softmax_backward`."""

    p: Any
    d_p: Any
    d_mass: Any
    received: Any
    d_lse: Any
    rows: Any
    n: Any
    t: Any
    width: Any
    HAS_MASS: Any
    HAS_RECEIVED: Any
    HAS_LSE: Any
    WIDE: Any


@_triton.on_device
@_numerics.without_autocast
def forward(a: Inputs, with_sums: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, received (b, n + t), P, y); `received` is empty unless asked for, the last two unless `keep`.

    P is (b, h m, width), with `width` the padded n + t.
    """
    b, h, g, m, n, t, d = a.sizes
    if b * h * m * (n + t) == 0:
        return torch_path.nothing(a, keep)
    q = by_key_head(a.q, g)
    p = a.q.new_empty((b, h * m, padded(n + t)))
    _scores(a, q, p)
    lse, mass, received = _softmax(a, q, p, with_sums)
    y = torch.bmm(p[..., :n], a.x)
    out = to_heads(y.view(b, g, -1, y.shape[2]), _per_head(a, a.w_v)).float()
    if a.b_v is not None:
        out += mass.view(b, g, -1, 1) * _per_head(a, a.b_v).float()[:, None]
    if a.v_text is not None and t:
        out += torch.bmm(_text(p, b * g, n, t), a.v_text.reshape(b * g, t, d)).view(out.shape)
    out = out.view(b, h, m, d).to(a.q.dtype)
    if not keep:
        p, y = p.new_empty(0), y.new_empty(0)
    return out, lse, received, p, y


def _scores(a: Inputs, q: Tensor, out: Tensor) -> None:
    """`scale q~ x'` and `scale q k_text'` side by side, without biases."""
    b, _, g, _, n, t, d = a.sizes
    queries = to_tokens(q, _per_head(a, a.w_k), a.scale).view(b, out.shape[1], -1)
    torch.bmm(queries, a.x.transpose(1, 2), out=out[..., :n])
    if a.k_text is not None and t:
        rows, keys = q.reshape(b * g, -1, d), a.k_text.reshape(b * g, t, d)
        text = _text(out, b * g, n, t)
        torch.baddbmm(text, rows, keys.transpose(1, 2), beta=0, alpha=a.scale, out=text)


def _softmax(a: Inputs, q: Tensor, scores: Tensor, with_sums: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Scores become probabilities; (lse (b, h, m), mass on vision (b, h m), received (b, n + t))."""
    b, h, _, m, n, t, _ = a.sizes
    row_bias = None
    if a.b_k is not None:
        row_bias = a.scale * (q.float() @ _per_head(a, a.b_k).float()[..., None]).view(b, h * m)
    bias = None if a.vision_bias is None else a.vision_bias.expand(h, -1, -1)
    given = (row_bias, a.text_bias, bias, a.mask)
    lse = scores.new_empty((b, h, m), dtype=torch.float32)
    mass = scores.new_empty((b, h * m), dtype=torch.float32)
    grid = _triton.cdiv(h * m, ROWS), b
    received = scores.new_empty((*grid, scores.shape[2]) if with_sums else (0,), dtype=torch.float32)
    values: list[Any] = [
        scores,
        row_bias,
        _contiguous(a.text_bias),
        bias,
        a.mask,
        *((0, 0, 0) if bias is None else bias.stride()),
        *((0, 0) if a.mask is None else a.mask.stride()),
        h * m,
        m,
        n,
        t,
        scores.shape[2],
        *_triton.constants(*(tensor is not None for tensor in given), _triton.INTERPRETED),
    ]
    kernel.softmax_colsum[grid](
        Softmax(*values), lse, mass, received, R=ROWS, BN=keys_block(n + t), SUMS=with_sums, num_warps=WARPS
    )
    return lse, mass, received.sum(0)[:, : n + t] if with_sums else received


@_triton.on_device
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
    b, h, g, m, n, t, d = a.sizes
    if b * h * m * (n + t) == 0:
        return torch_path.no_gradients(a)
    if p.numel() == 0:  # the operator was called without `keep`
        *_, p, y = forward(a, with_sums=False, keep=True)
    q, w_k, w_v = by_key_head(a.q, g), _per_head(a, a.w_k), _per_head(a, a.w_v)
    p, y = p.to(q.dtype), y.to(q.dtype)
    d_out = torch.zeros_like(q) if d_out is None else by_key_head(d_out.to(q.dtype), g)
    queries = to_tokens(q, w_k, a.scale).view(b, h * m, -1)
    d_y = to_tokens(d_out, w_v).view(b, h * m, -1)
    d_s = torch.empty_like(p)
    torch.bmm(d_y, a.x.transpose(1, 2), out=d_s[..., :n])
    if a.v_text is not None and t:
        values = a.v_text.reshape(b * g, t, d).transpose(1, 2)
        torch.bmm(d_out.reshape(b * g, -1, d), values, out=_text(d_s, b * g, n, t))
    d_mass = None if a.b_v is None else d_out.float() @ _per_head(a, a.b_v).float()[..., None]
    received = join_received(d_importance, d_text_importance, (b, n, t), torch.float32)
    mass, on_vision, on_text = _softmax_backward(a, p, d_s, d_mass, received, d_lse)

    vision = d_s[..., :n]
    d_queries = torch.bmm(vision, a.x).view(b, g, -1, queries.shape[2])
    d_x = torch.baddbmm(torch.bmm(p[..., :n].transpose(1, 2), d_y), vision.transpose(1, 2), queries)
    d_q = to_heads(d_queries, w_k).float()
    d_b_k = d_b_v = d_k_text = d_v_text = d_vision_bias = d_text_bias = None
    if a.b_k is not None:
        row = on_vision.view(b, g, -1, 1)
        d_q += row * _per_head(a, a.b_k).float()[:, None]
        d_b_k = a.scale * (row * q).sum((0, 2)).view(-1)
    if a.b_v is not None:
        d_b_v = (mass.view(b, g, -1, 1) * d_out).sum((0, 2)).view(-1)
    if a.k_text is not None and a.v_text is not None:
        text, rows = _text(d_s, b * g, n, t), q.reshape(b * g, -1, d)
        d_q += torch.bmm(text, a.k_text.reshape(b * g, t, d)).view(d_q.shape)
        keys = torch.bmm(text.transpose(1, 2), rows).float() * a.scale
        d_k_text = keys.view(a.k_text.shape)
        values = torch.bmm(_text(p, b * g, n, t).transpose(1, 2), d_out.reshape(b * g, -1, d))
        d_v_text = values.view(a.v_text.shape)
    if a.vision_bias is not None:
        d_vision_bias = torch.zeros(a.vision_bias.shape, dtype=torch.float32, device=q.device)
        add_over_samples(d_vision_bias, d_s.view(b, h, m, -1)[..., :n].float())
    if a.text_bias is not None:
        d_text_bias = on_text.view(b, h, m).sum((0, 2))
    return Gradients(
        (d_q * a.scale).view(a.q.shape).to(a.q.dtype),
        d_x,
        weight_gradient(q, d_queries, a.scale).to(a.w_k.dtype),
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


def _softmax_backward(
    a: Inputs, p: Tensor, d_p: Tensor, d_mass: Tensor | None, received: Tensor | None, d_lse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dP becomes dS; (mass on vision, dS summed over vision, over the question), (b, h m) each."""
    b, h, _, m, n, t, _ = a.sizes
    given = (_contiguous(d_mass), received, None if d_lse is None else d_lse.float().contiguous())
    mass, on_vision, on_text = (torch.empty((b, h * m), dtype=torch.float32, device=p.device) for _ in range(3))
    values: list[Any] = [
        p,
        d_p,
        *given,
        h * m,
        n,
        t,
        p.shape[2],
        *_triton.constants(*(tensor is not None for tensor in given), _triton.INTERPRETED),
    ]
    grid, call = (_triton.cdiv(h * m, ROWS), b), SoftmaxBackward(*values)
    kernel.softmax_backward[grid](call, mass, on_vision, on_text, R=ROWS, BN=keys_block(n + t), num_warps=WARPS)
    return mass, on_vision, on_text


def _per_head(a: Inputs, weight: Tensor) -> Tensor:
    """(g d, ...) as (g, d, ...)."""
    return weight.unflatten(0, (a.sizes[2], a.sizes[6]))


def _text(scores: Tensor, groups: int, n: int, t: int) -> Tensor:
    """The question's part of (b, h m, width), by key head: (b g, h/g m, t)."""
    return scores.view(groups, -1, scores.shape[2])[..., n : n + t]


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
