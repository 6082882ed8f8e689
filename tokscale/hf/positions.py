"""Positions of the kept tokens: one-dimensional ones counted over the long prompt, and multi-axis rotary ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import one_of
from ..errors import ArgumentError
from .families import FORGETS_DELTA, NO_POSITIONS
from .host import Host
from .prompt import Short
from .seam import Call, Seam


def resolve(host: Host, positions: str) -> str:
    """Return `"compact"` or `"original"` for a model, or raise `ArgumentError` where the choice has no meaning."""
    one_of("positions", positions, ("auto", "compact", "original"))
    if host.reader is not None and positions != "auto":
        raise ArgumentError(
            f'positions="{positions}": {host.model_type} reads images by cross-attention, so no token of its prompt '
            'moves; use "auto"'
        )
    if host.rope is not None:
        if positions == "compact":
            raise ArgumentError(
                f'positions="compact" has no meaning for the three-axis positions of {host.model_type}; use "original"'
            )
        return "original"
    if positions == "original" and (host.model_type in NO_POSITIONS or "position_ids" not in host.forward_names):
        raise ArgumentError(f'positions="original": {host.model_type} passes no position ids')
    return "original" if positions == "original" else "compact"


def counted(short: Short, real: Tensor | None) -> Tensor:
    """Return (B, S') position ids: the place of each kept token among the real tokens of the long prompt."""
    mask = torch.ones_like(short.keep, dtype=torch.long) if real is None else real.long()
    return short.gather((mask.cumsum(-1) - 1).clamp(min=0))


def continued(host: Host, named: dict[str, Any], ids: Tensor, cached: int) -> Tensor | None:
    """Return positions for a forward call that goes on from a shortened prompt, where the model would forget them."""
    deltas = getattr(getattr(host.rope, "__self__", None), "rope_deltas", None)
    if host.model_type not in FORGETS_DELTA or deltas is None or named.get("position_ids") is not None:
        return None
    axes = len(host.config.get_text_config().rope_parameters["mrope_section"])
    counted = torch.arange(cached, cached + ids.shape[1], device=ids.device)
    return (counted + deltas.to(ids.device).view(-1, 1)).expand(axes, len(ids), -1)


def answer_rope_index(seam: Seam, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return three-axis positions at the kept columns, and deltas that count from the short length.

    The original runs on the long prompt, which it needs to see whole. Under beams it may be called with more rows.
    """
    if call.index is None or call.lost is None:
        return seam.original(*args, **kwargs)
    named = seam.__signature__.bind_partial(*args, **kwargs).arguments
    extra = named.pop("kwargs", {})
    named = {**named, **extra}
    ids = named["input_ids"]
    repeat = len(ids) // len(call.index)
    for name in {*named, *call.originals} & {"input_ids", "attention_mask", *_columns(named, ids)}:
        long = call.originals.get(name)
        named[name] = None if long is None else long.repeat_interleave(repeat, 0).to(ids.device)
    positions, delta = seam.original(**named)
    index = call.index.repeat_interleave(repeat, 0).to(positions.device)
    short = positions.gather(-1, index.clamp(min=0).expand(*positions.shape[:-1], -1)).masked_fill(index < 0, 0)
    lost = call.lost.repeat_interleave(repeat, 0).to(delta.device)
    return short, delta + lost.view(-1, *[1] * (delta.ndim - 1))


def _columns(named: dict[str, Any], ids: Tensor) -> set[str]:
    return {name for name, value in named.items() if isinstance(value, Tensor) and value.shape == ids.shape}
