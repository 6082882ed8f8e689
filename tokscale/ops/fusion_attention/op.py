"""`fusion_attention`: signature, checks, registration and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import _backend, _checks, _numerics, _register
from . import torch_path
from .arguments import (
    FusionOutput,
    check_biases,
    check_text,
    check_text_mask,
    fake_outputs,
    joint_mask,
    pack,
    seen_keys,
)

NAME = "fusion_attention"


def fusion_attention(
    q: Tensor,
    k_vision: Tensor,
    v_vision: Tensor,
    k_text: Tensor | None = None,
    v_text: Tensor | None = None,
    *,
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
    """Attention of each query over vision and question keys under one softmax.

    `l_ij = scale q_i . k_vision_j + vision_bias_ij`, `l'_im = scale q_i . k_text_m + text_bias`,
    `out_i = sum_j p_ij v_vision_j + sum_m p'_im v_text_m` with `[p ; p'] = softmax([l ; l'])`,
    `importance_j = sum_hi p_hij`, `text_importance_m = sum_hi p'_him`. A row that sees no key gives 0 and lse -inf.

    Args:
        q: queries; query head i reads key head `i // (h / g)`.
        k_vision, v_vision: the first segment.
        k_text, v_text: the second segment; None or of length 0: vision alone.
        vision_mask, text_mask: bool, True = keep. Masked content must be finite and changes nothing.
        vision_lengths, text_lengths: keep the first so many keys; mask or lengths, not both.
        vision_bias, text_bias: added to the scores after the scale.
        scale: None: `head_dim ** -0.5`.
        return_lse: also give the rows' natural log-sum-exp, scale and biases included.
        return_importance: also give the attention each key receives, summed over heads and rows.
        backend: "auto", "torch" or "triton".

    Shape:
        q (b, h, m, d), vision (b, g, n, d), text (b, g, t, d) with h a multiple of g; masks (b, n), (b, t), lengths
        (b,); vision_bias (h or 1, m, n), text_bias (h,) -> out (b, h, m, d) in q's dtype; lse (b, h, m), importance (b,
        n), text_importance (b, t) in fp32 (fp64 for fp64). Any strides; any size may be 0 but head_dim.

    Raises:
        ShapeError, DtypeError, ArgumentError: tensors or options that do not go together.
        BackendError: a backend asked for by name that cannot run.

    Cost:
        4 b h m (n + t) d FLOPs forward, 10 backward; memory O(b h m d + b g (n + t) d), never m x n. Once
        differentiable in all outputs and in q, keys, values and biases.

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 2, 8, 16, 64).unbind()
        >>> o = fusion_attention(q, k, v, k[:, :, :4], v[:, :, :4], return_importance=True)
        >>> o.out.shape, round(float(o.importance.sum() + o.text_importance.sum()))  # 2 samples x 8 heads x 16 rows
        (torch.Size([2, 8, 16, 64]), 256)

    Source:
        Dao et al., FlashAttention, 2022, arXiv 2205.14135 (recomputation in the backward; differs from it in the two
        segments, their biases and the column sums).
    """
    _checks.option(NAME, "backend", backend, _backend.BACKENDS)
    _checks.pair(NAME, "k_text", k_text, "v_text", v_text)
    q, k_vision, v_vision, k_text, v_text = _numerics.autocast(q, k_vision, v_vision, k_text, v_text)
    _checks.queries_and_keys(NAME, q, k_vision, k_name="k_vision")
    _checks.keys_and_values(NAME, "k_vision", k_vision, "v_vision", v_vision)
    _checks.visibility(NAME, "vision", k_vision, vision_mask, vision_lengths)
    if k_text is not None and v_text is not None:
        check_text(NAME, k_text, v_text, k_vision.shape[:2], q)
    check_text_mask(NAME, k_text, text_mask, text_lengths)
    check_biases(NAME, q, k_vision.shape[2], vision_bias, text_bias)
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    masks = (vision_mask, vision_lengths, text_mask, text_lengths)
    given = (q, k_vision, v_vision, k_text, v_text, vision_bias, text_bias)
    keep_lse = return_lse or (_backend.may_be_triton(backend, q) and _numerics.differentiates(*given))
    out, lse, importance, text_importance = _fusion_attention(
        q,
        k_vision,
        v_vision,
        k_text,
        v_text,
        *masks,
        vision_bias,
        text_bias,
        scale,
        keep_lse,
        return_importance,
        backend,
    )
    return pack(out, lse, importance, text_importance, return_lse, return_importance, k_text is not None)


@_register.operator("fusion_attention")
def _fusion_attention(
    q: Tensor,
    k_vision: Tensor,
    v_vision: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
    return_lse: bool,
    return_importance: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    triton = _backend.resolve(NAME, backend, q, k_vision) == "triton"
    inputs = _inputs(
        q,
        k_vision,
        v_vision,
        k_text,
        v_text,
        vision_mask,
        vision_lengths,
        text_mask,
        text_lengths,
        vision_bias,
        text_bias,
        scale,
        triton,
    )
    if triton:
        from . import triton_path

        return triton_path.forward(inputs, return_lse, return_importance)
    return torch_path.forward(inputs, return_lse, return_importance)


@_register.fake("fusion_attention")
def _(
    q: Tensor,
    k_vision: Tensor,
    v_vision: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
    return_lse: bool,
    return_importance: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, h, m, _ = q.shape
    t = 0 if k_text is None else k_text.shape[2]
    return fake_outputs(q, (b, h, m), k_vision.shape[2], t, return_lse, return_importance)


def _inputs(
    q: Tensor,
    k_vision: Tensor,
    v_vision: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    scale: float,
    triton: bool,
) -> torch_path.Inputs:
    n, t = k_vision.shape[2], 0 if k_text is None else k_text.shape[2]
    seen = seen_keys(NAME, (n, t), vision_mask, vision_lengths, text_mask, text_lengths)
    if triton:  # it reads the two as they are
        return torch_path.Inputs(q, k_vision, v_vision, k_text, v_text, None, vision_bias, text_bias, scale, True, seen)
    mask = joint_mask(q, (n, t), *seen)
    dead = _numerics.may_be_dead(mask, vision_bias, text_bias)
    return torch_path.Inputs(q, k_vision, v_vision, k_text, v_text, mask, vision_bias, text_bias, scale, dead)


@_register.operator("fusion_attention_backward")
def _fusion_attention_backward(
    d_out: Tensor | None,
    d_lse: Tensor | None,
    d_importance: Tensor | None,
    d_text_importance: Tensor | None,
    q: Tensor,
    k_vision: Tensor,
    v_vision: Tensor,
    k_text: Tensor | None,
    v_text: Tensor | None,
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
    vision_bias: Tensor | None,
    text_bias: Tensor | None,
    out: Tensor | None,
    lse: Tensor | None,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    triton = _backend.resolve(NAME, backend, q, k_vision) == "triton"
    inputs = _inputs(
        q,
        k_vision,
        v_vision,
        k_text,
        v_text,
        vision_mask,
        vision_lengths,
        text_mask,
        text_lengths,
        vision_bias,
        text_bias,
        scale,
        triton,
    )
    if triton:
        from . import triton_path

        return triton_path.backward(inputs, out, lse, d_out, d_lse, d_importance, d_text_importance)
    return torch_path.backward(inputs, d_out, d_lse, d_importance, d_text_importance)


@_register.fake("fusion_attention_backward")
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q = arguments[4]
    given = (*arguments[4:9], *arguments[13:15])
    return tuple(q.new_empty(0) if t is None else t.new_empty(t.shape) for t in given)  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    kept = output[:2] if output[1].numel() else (None, None)
    ctx.save_for_backward(*inputs[:11], *kept)
    ctx.options, ctx.num_inputs = (inputs[11], inputs[14]), len(inputs)


def _differentiate(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    lse_and_sums = (None if c is None or c.numel() == 0 else c for c in cotangents[1:])
    grads = _fusion_attention_backward(cotangents[0], *lse_and_sums, *saved, *ctx.options)
    full: list[Tensor | None] = [None] * ctx.num_inputs
    for place, grad in zip((0, 1, 2, 3, 4, 9, 10), grads, strict=True):
        full[place] = grad if ctx.needs_input_grad[place] else None
    return tuple(full)


_register.autograd("fusion_attention", _differentiate, _save)
