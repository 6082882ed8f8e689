"""The folded path of `projected_fusion_attention` as an operator: registration and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import _backend, _numerics, _register
from ..fusion_attention.arguments import fake_outputs, joint_mask, seen_keys
from . import arguments, torch_path
from .arguments import NAME


@_register.operator("projected_fusion_attention")
def folded_fusion_attention(
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
    triton = _backend.resolve(NAME, backend, q) == "triton"
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
    n, t = x.shape[1], 0 if k_text is None else k_text.shape[2]
    if triton:
        from . import triton_path

        out, lse, received, p, y = triton_path.forward(inputs, return_importance, keep)
    else:
        out, lse, received, p, y = torch_path.forward(inputs, return_lse, keep)
    p, y = arguments.keep(p, y, q, n + t, backend)
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
    width, dtype = arguments.kept_as(q, n + t, backend)
    return (
        *fake_outputs(q, (b, h, m), n, t, return_lse, return_importance),
        q.new_empty((b, h * m, width) if keep else (0,), dtype=dtype),
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
    seen = seen_keys(NAME, sizes, vision_mask, vision_lengths, text_mask, text_lengths)
    mask = joint_mask(q, sizes, *seen)
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
    backend: str,
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
    cotangents = d_out, d_lse, d_importance, d_text_importance
    if _backend.resolve(NAME, backend, q) == "triton":
        from . import triton_path

        return triton_path.backward(inputs, p, y, *cotangents)
    width, dtype = inputs.sizes[4] + inputs.sizes[5], _numerics.compute_dtype(q)
    return torch_path.backward(inputs, p[..., :width].to(dtype), y.to(dtype), *cotangents)


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
    ctx.options, ctx.num_inputs = (inputs[14], inputs[18]), len(inputs)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    lse_and_sums = (None if c is None or c.numel() == 0 else c for c in cotangents[1:4])
    grads = _projected_fusion_attention_backward(cotangents[0], *lse_and_sums, *ctx.saved_tensors, *ctx.options)
    full: list[Tensor | None] = [None] * ctx.num_inputs
    for place, grad in zip(_GRADIENT_PLACES, grads, strict=True):
        full[place] = grad if ctx.needs_input_grad[place] else None
    return tuple(full)


_register.autograd("projected_fusion_attention", _differentiate, _save)
