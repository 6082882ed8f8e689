"""The definition of `fusion_attention` in plain PyTorch: one softmax over both segments, every score in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def fusion_attention(
    q: Tensor,  # b h m d
    k_vision: Tensor,  # b g n d
    v_vision: Tensor,
    k_text: Tensor | None = None,  # b g t d
    v_text: Tensor | None = None,
    *,
    vision_mask: Tensor | None = None,  # b n
    vision_lengths: Tensor | None = None,  # b
    text_mask: Tensor | None = None,  # b t
    text_lengths: Tensor | None = None,  # b
    vision_bias: Tensor | None = None,  # (h or 1) m n
    text_bias: Tensor | None = None,  # h
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, lse, importance, text_importance), in the inputs' dtype: call it in float64 for an oracle."""
    heads, key_heads = q.shape[1], k_vision.shape[1]
    if k_text is None or v_text is None:
        k_text, v_text = k_vision[:, :, :0], v_vision[:, :, :0]
    n, t = k_vision.shape[2], k_text.shape[2]
    k = torch.cat([k_vision, k_text], 2).repeat_interleave(heads // key_heads, 1)  # b h (n + t) d
    v = torch.cat([v_vision, v_text], 2).repeat_interleave(heads // key_heads, 1)
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)  # b h m (n + t)

    vision_scores, text_scores = scores[..., :n], scores[..., n:]
    if vision_bias is not None:
        vision_scores = vision_scores + vision_bias
    if text_bias is not None:
        text_scores = text_scores + text_bias[:, None, None]
    scores = torch.cat([vision_scores, text_scores], -1)

    visible = torch.cat(
        [_visible(vision_mask, vision_lengths, q.shape[0], n), _visible(text_mask, text_lengths, q.shape[0], t)], 1
    )
    scores = scores.masked_fill(~visible[:, None, None, :].to(scores.device), -torch.inf)
    lse = torch.logsumexp(scores, -1)  # -inf for a row that sees no key
    p = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0)[..., None])
    return p @ v, lse, p[..., :n].sum((1, 2)), p[..., n:].sum((1, 2))


def _visible(mask: Tensor | None, lengths: Tensor | None, b: int, n: int) -> Tensor:
    if mask is not None:
        return mask
    if lengths is not None:
        return torch.arange(n, device=lengths.device) < lengths[:, None]
    return torch.ones(b, n, dtype=torch.bool)
