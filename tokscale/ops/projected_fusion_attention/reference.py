"""The definition of `projected_fusion_attention` in plain PyTorch, and the folded algebra beside it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..fusion_attention import reference


def projected_fusion_attention(
    q: Tensor,  # b h m d
    x: Tensor,  # b n C
    w_k: Tensor,  # (g d) C
    w_v: Tensor,
    k_text: Tensor | None = None,  # b g t d
    v_text: Tensor | None = None,
    *,
    b_k: Tensor | None = None,  # (g d)
    b_v: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, importance, text_importance): project, split into heads, attend."""
    k, v = (split_heads(F.linear(x, w, bias), q.shape[3]) for w, bias in ((w_k, b_k), (w_v, b_v)))
    return reference.fusion_attention(q, k, v, k_text, v_text, **options)


def split_heads(projected: Tensor, head_dim: int) -> Tensor:
    """(b, n, g d) as (b, g, n, d), by strides."""
    return projected.unflatten(-1, (projected.shape[-1] // head_dim, head_dim)).transpose(1, 2)
