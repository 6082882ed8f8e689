"""`projected_fusion_attention`: signature, choice of the path, registration and backward of the folded one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _backend, _checks, _numerics, _register
from ..fusion_attention import FusionOutput, fusion_attention
from ..fusion_attention.arguments import check_biases, check_text, check_text_mask, fake_outputs, joint_mask, pack
from . import torch_path
from .arguments import check_projections, folding_pays
from .reference import split_heads

NAME = "projected_fusion_attention"
PATHS = ("auto", "folded", "projected")


def projected_fusion_attention(
    q: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    k_text: Tensor | None = None,
    v_text: Tensor | None = None,
    *,
    b_k: Tensor | None = None,
    b_v: Tensor | None = None,
    path: str = "auto",
    vision_mask: Tensor | None = None,
    vision_lengths: Tensor | None = None,
    text_mask: Tensor | None = None,
    text_lengths: Tensor | None = None,
    vision_bias: Tensor | None = None,
    text_bias: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    return_importance: bool = False,
    backend: str = "auto",
) -> FusionOutput:
    """Attention of each query over keys and values projected from vision tokens, and over a question, in one softmax.

    It is `fusion_attention(q, heads(x w_k' + b_k), heads(x w_v' + b_v), k_text, v_text, ...)`. `path="projected"`
    computes just that. `path="folded"` never forms the keys and values: `q_h . (w_k,h x_j + b_k,h) = (q_h w_k,h) . x_j
    + q_h . b_k,h`, and `sum_j p_ij (w_v,h x_j + b_v,h) = w_v,h (sum_j p_ij x_j) + (sum_j p_ij) b_v,h`. `path="auto"`
    folds where the FLOPs, `h m : g d (C + m h/g) / C`, are at most .6 of the projected ones, which is where m is small.

    Args:
        q: queries.
        x: vision tokens, normalised; fold a LayerNorm's affine into the weights.
        w_k, w_v: weights of the key and value projection, as in `torch.nn.Linear`.
        k_text, v_text: the question, projected.
        b_k, b_v: biases of the projections.
        path: "auto", "folded" or "projected".
        vision_mask, vision_lengths, text_mask, text_lengths, vision_bias, text_bias, scale, return_lse,
        return_importance:
            as in `fusion_attention`.
        backend: "auto", "torch" or "triton".

    Shape:
        q (b, h, m, d), x (b, n, C), w_k and w_v (g d, C), b_k and b_v (g d,), text (b, g, t, d), the rest as in
        `fusion_attention` -> the same outputs.

    Raises:
        ShapeError, DtypeError, ArgumentError: tensors or options that do not go together.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        Forward FLOPs: projected 4 b n d (g C + h m), folded 4 b n h m C. For the backward the folded path keeps
        (b, h m, n + t + C) numbers, the projected one the keys and values.

    Example:
        >>> import torch
        >>> q, x, w = torch.randn(2, 8, 4, 8), torch.randn(2, 144, 64), torch.randn(2, 64, 64) / 8
        >>> folded, projected = (projected_fusion_attention(q, x, *w, path=p).out for p in ("folded", "projected"))
        >>> torch.allclose(folded, projected, atol=1e-5)
        True
    """
    _checks.option(NAME, "path", path, PATHS)
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    _checks.pair(NAME, "k_text", k_text, "v_text", v_text)
    q, x, w_k, w_v, k_text, v_text, b_k, b_v = _numerics.autocast(q, x, w_k, w_v, k_text, v_text, b_k, b_v)
    check_projections(NAME, q, x, w_k, w_v, b_k, b_v)
    if k_text is not None and v_text is not None:
        check_text(NAME, k_text, v_text, (q.shape[0], w_k.shape[0] // q.shape[3]), q)
    check_text_mask(NAME, k_text, text_mask, text_lengths)
    _checks.visibility(NAME, "vision", x[:, None], vision_mask, vision_lengths)
    check_biases(NAME, q, x.shape[1], vision_bias, text_bias)
    masks = (vision_mask, vision_lengths, text_mask, text_lengths)
    # The folded products have no kernel: who asks for Triton by name gets the projected path.
    if path == "folded" or (path == "auto" and backend != "triton" and folding_pays(q, w_k)):
        scale = q.shape[3] ** -0.5 if scale is None else float(scale)
        keep = torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad
            for tensor in (q, x, w_k, w_v, k_text, v_text, b_k, b_v, vision_bias, text_bias)
        )
        tensors = (q, x, w_k, w_v, k_text, v_text, b_k, b_v, *masks, vision_bias, text_bias)
        out, lse, importance, text_importance, *_ = _projected_fusion_attention(
            *tensors, scale, return_lse, return_importance, keep, backend
        )
        return pack(out, lse, importance, text_importance, return_lse, return_importance, k_text is not None)
    return fusion_attention(
        q,
        split_heads(F.linear(x, w_k, b_k), q.shape[3]),
        split_heads(F.linear(x, w_v, b_v), q.shape[3]),
        k_text,
        v_text,
        vision_mask=vision_mask,
        vision_lengths=vision_lengths,
        text_mask=text_mask,
        text_lengths=text_lengths,
        vision_bias=vision_bias,
        text_bias=text_bias,
        scale=scale,
        return_lse=return_lse,
        return_importance=return_importance,
        backend=backend,
    )


@_register.operator("projected_fusion_attention")
def _projected_fusion_attention(
    q: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    b_k: Tensor | None,
    b_v: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
    return_lse: bool,
    return_importance: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _backend.resolve(NAME, backend, q)
    inputs = _inputs(
        q,
        x,
        w_k,
        w_v,
        k_text,
        v_text,
        b_k,
        b_v,
        vision_mask,
        vision_lengths,
        text_mask,
        text_lengths,
        vision_bias,
        text_bias,
        scale,
    )
    out, lse, received, p, y = torch_path.forward(inputs, return_lse, keep)
    n = x.shape[1]
    importance, text_importance = (
        (received[:, :n].clone(), received[:, n:].clone())
        if return_importance
        else (lse.new_empty(0), lse.new_empty(0))
    )
    return out, lse if return_lse else lse.new_empty(0), importance, text_importance, p, y


@_register.fake("projected_fusion_attention")
def _(
    q: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    b_k: Tensor | None,
    b_v: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
    return_lse: bool,
    return_importance: bool,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, h, m, _ = q.shape
    n, t = x.shape[1], 0 if k_text is None else k_text.shape[2]
    dtype = _numerics.compute_dtype(q)
    return (
        *fake_outputs(q, (b, h, m), n, t, return_lse, return_importance),
        q.new_empty((b, h * m, n + t) if keep else (0,), dtype=dtype),
        q.new_empty((b, h * m, x.shape[2]) if keep else (0,), dtype=dtype),
    )


def _inputs(
    q: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    b_k: Tensor | None,
    b_v: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
) -> torch_path.Inputs:
    sizes = (x.shape[1], 0 if k_text is None else k_text.shape[2])
    mask = joint_mask(NAME, q, sizes, vision_mask, vision_lengths, text_mask, text_lengths)
    dead = _numerics.may_be_dead(mask, vision_bias, text_bias)
    return torch_path.Inputs(q, x, w_k, w_v, k_text, v_text, b_k, b_v, mask, vision_bias, text_bias, scale, dead)


@_register.operator("projected_fusion_attention_backward")
def _projected_fusion_attention_backward(
    d_out: Tensor | None,
    d_lse: Tensor | None,
    d_importance: Tensor | None,
    d_text_importance: Tensor | None,
    p: Tensor,
    y: Tensor,
    q: Tensor,
    x: Tensor,
    w_k: Tensor,
    w_v: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    b_k: Tensor | None,
    b_v: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = _inputs(
        q,
        x,
        w_k,
        w_v,
        k_text,
        v_text,
        b_k,
        b_v,
        vision_mask,
        vision_lengths,
        text_mask,
        text_lengths,
        vision_bias,
        text_bias,
        scale,
    )
    return torch_path.backward(inputs, p, y, d_out, d_lse, d_importance, d_text_importance)


@_register.fake("projected_fusion_attention_backward")
def _(
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q = arguments[6]
    given = (*arguments[6:14], *arguments[18:20])
    return tuple(q.new_empty(0) if t is None else t.new_empty(t.shape) for t in given)  # type: ignore[return-value]


_GRADIENT_PLACES = (0, 1, 2, 3, 4, 5, 6, 7, 12, 13)  # of the differentiable arguments


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[4:], *inputs[:14])
    ctx.scale, ctx.num_inputs = inputs[14], len(inputs)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    lse_and_sums = (None if c is None or c.numel() == 0 else c for c in cotangents[1:4])
    grads = _projected_fusion_attention_backward(cotangents[0], *lse_and_sums, *ctx.saved_tensors, ctx.scale)
    full: list[Tensor | None] = [None] * ctx.num_inputs
    for place, grad in zip(_GRADIENT_PLACES, grads, strict=True):
        full[place] = grad if ctx.needs_input_grad[place] else None
    return tuple(full)


_register.autograd("projected_fusion_attention", _differentiate, _save)
