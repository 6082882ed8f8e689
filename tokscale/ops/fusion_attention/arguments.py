"""What both fusion operators share: the result, the checks of question, masks and biases, the fake outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ArgumentError, DtypeError
from .. import _checks, _numerics


class FusionOutput(NamedTuple):
    """`out` (b, h, m, d), and on request `lse` (b, h, m), `importance` (b, n), `text_importance` (b, t); else None."""

    out: Tensor
    lse: Tensor | None = None
    importance: Tensor | None = None
    text_importance: Tensor | None = None


def pack(
    out: Tensor,
    lse: Tensor,
    importance: Tensor,
    text_importance: Tensor,
    with_lse: bool,
    with_importance: bool,
    text: bool,
) -> FusionOutput:
    """The public result: what was not asked for is None, not empty."""
    return FusionOutput(
        out,
        lse if with_lse else None,
        importance if with_importance else None,
        text_importance if with_importance and text else None,
    )


def check_text(op: str, k_text: Tensor, v_text: Tensor, heads: tuple[int, int], q: Tensor) -> None:
    """Raise unless the question's keys and values fit batch and key heads, and the queries."""
    _checks.layout(op, "k_text", k_text, "b, heads, length, head_dim")
    _checks.keys_and_values(op, "k_text", k_text, "v_text", v_text)
    _checks.shape(op, "k_text", k_text, (*heads, k_text.shape[2], q.shape[3]))
    _checks.one_device(op, "q", q, "k_text", k_text)
    _checks.same_dtype(op, "q", q, "k_text", k_text)


def check_text_mask(op: str, k_text: Tensor | None, text_mask: Tensor | None, text_lengths: Tensor | None) -> None:
    """Raise unless the question's mask or lengths fit its keys."""
    if k_text is not None:
        _checks.visibility(op, "text", k_text, text_mask, text_lengths)
    elif text_mask is not None or text_lengths is not None:
        raise ArgumentError(
            f"{op}: {'text_mask' if text_mask is not None else 'text_lengths'} was given without k_text"
        )


def check_biases(op: str, q: Tensor, n: int, vision_bias: Tensor | None, text_bias: Tensor | None) -> None:
    """Raise unless the biases fit the heads, rows and keys."""
    h, m = q.shape[1], q.shape[2]
    if vision_bias is not None:
        expected = (1 if vision_bias.dim() == 3 and vision_bias.shape[0] == 1 else h, m, n)
        _checks.shape(op, "vision_bias", vision_bias, expected)
    if text_bias is not None:
        _checks.shape(op, "text_bias", text_bias, (h,))
    for name, bias in (("vision_bias", vision_bias), ("text_bias", text_bias)):
        if bias is not None:
            _checks.floating(op, name, bias)
            _checks.one_device(op, name, bias, "q", q)
            if bias.dtype == torch.float64 and q.dtype != torch.float64:
                raise DtypeError(f"{op}: {name} is {bias.dtype} and q is {q.dtype}; a bias is no wider than the scores")


def seen_keys(
    op: str,
    sizes: tuple[int, int],
    vision_mask: Tensor | None,
    vision_lengths: Tensor | None,
    text_mask: Tensor | None,
    text_lengths: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Check the lengths; the mask of each segment, (b, n) and (b, t), None where all is visible."""
    n, t = sizes
    _checks.lengths_in_range(op, "vision_lengths", vision_lengths, n)
    _checks.lengths_in_range(op, "text_lengths", text_lengths, t)
    vision = _numerics.visible_keys(n, vision_mask, vision_lengths)
    return vision, _numerics.visible_keys(t, text_mask, text_lengths)


def joint_mask(like: Tensor, sizes: tuple[int, int], vision: Tensor | None, text: Tensor | None) -> Tensor | None:
    """The masks of both segments as one, (b, n + t), None where all is visible."""
    return _numerics.if_it_hides(_numerics.join_masks(vision, text, (like.shape[0], *sizes)))


def fake_outputs(
    q: Tensor, rows: tuple[int, int, int], n: int, t: int, with_lse: bool, with_importance: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs without content: contiguous, of the right shapes and dtypes."""
    dtype = _numerics.compute_dtype(q)
    return (
        q.new_empty(q.shape),
        q.new_empty(rows if with_lse else (0,), dtype=dtype),
        q.new_empty((rows[0], n) if with_importance else (0,), dtype=dtype),
        q.new_empty((rows[0], t) if with_importance else (0,), dtype=dtype),
    )
