"""`projected_fusion_attention`: signature, checks and the choice of the path."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .. import _backend, _checks, _numerics
from ..fusion_attention import FusionOutput, fusion_attention
from ..fusion_attention.arguments import check_biases, check_text, check_text_mask, pack
from .arguments import NAME, check_projections, folding_pays
from .folded import folded_fusion_attention
from .reference import split_heads

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
    folds where the FLOPs, `h m : g d (C + m h/g) / C`, are at most .6 of the projected ones (.4 in bf16 on
    a CPU with bf16 instructions), which is where m is small.

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
    if path == "folded" or (path == "auto" and folding_pays(q, w_k)):
        scale = q.shape[3] ** -0.5 if scale is None else float(scale)
        keep = _numerics.differentiates(q, x, w_k, w_v, k_text, v_text, b_k, b_v, vision_bias, text_bias)
        tensors = (q, x, w_k, w_v, k_text, v_text, b_k, b_v, *masks, vision_bias, text_bias)
        out, lse, importance, text_importance, *_ = folded_fusion_attention(
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
