"""The short prompt: which columns stay, and every argument of a call gathered at them. Pure functions.

`keep` (B, S) is False at dropped placeholders. `index` (B, S') names the long column of each short one, -1 where a row
was padded anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedInputError


@dataclass
class Short:
    """How a prompt of S columns becomes one of S'."""

    keep: Tensor  # (B, S) bool
    index: Tensor  # (B, S') int64, -1: new padding
    padded: bool  # rows kept unlike numbers: padding is new, a mask must say where
    lost: Tensor  # (B,) tokens that left each row

    @property
    def removed(self) -> int:
        return self.keep.shape[1] - self.index.shape[1]

    def gather(self, value: Tensor, fill: Any = 0) -> Tensor:
        """Return `value` (..., B, S) at the kept columns, `fill` in new padding."""
        index = self.index.to(value.device)
        if value.ndim != 2 or value.shape[0] != len(index):
            index = index.expand(*value.shape[:-1], -1)
        if not self.padded:
            return value.gather(-1, index)
        return value.gather(-1, index.clamp(min=0)).masked_fill(index < 0, fill)


def keep_mask(is_image: Tensor, kept: Tensor) -> Tensor:
    """Return (B, S) bool, False at the placeholders that leave.

    Args:
        is_image: (B, S), where the placeholders are.
        kept: int64, the placeholders that stay, counted row by row over the batch.
    """
    flat = is_image.reshape(-1)
    keep = ~flat
    keep[flat.nonzero()[:, 0][kept]] = True
    return keep.view_as(is_image)


def shorten_columns(keep: Tensor, left: Sequence[int], *, real: Tensor | None, pad_left: bool) -> Short:
    """Return the column index of the short prompt.

    Args:
        keep: (B, S) bool.
        left: columns dropped per row, as Python integers.
        real: (B, S) bool, False at padding; None where there is none.
        pad_left: the side of new padding, needed if rows keep unlike numbers.
    """
    rows = len(keep)
    lost = torch.tensor(list(left), device=keep.device)
    if len(set(left)) == 1:
        return Short(keep, keep.nonzero()[:, 1].view(rows, -1), False, lost)
    stays = keep if real is None else keep & real  # old padding goes, new padding comes
    counts = stays.sum(1)
    width = int(counts.max())
    order = torch.sort((~stays).to(torch.uint8), dim=1, stable=True).indices[:, :width]
    place = torch.arange(width, device=keep.device)
    index = torch.where(place < counts[:, None], order, -1)
    if pad_left:
        shift = (place - (width - counts)[:, None]) % width
        index = index.gather(1, shift)
    return Short(keep, index, True, lost)


def real_columns(ids: Tensor, mask: Any, *, generating: bool, pad: int | None, eos: Sequence[int]) -> Tensor | None:
    """Return (B, S) bool, False at padding, or None if no column is known to be padding.

    Without a mask `generate` takes the pad id for padding where it is not also an end id; so does this function.
    """
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape == ids.shape:
        return mask.bool()
    if mask is None and generating and pad is not None and pad not in eos:
        real = ids != pad
        return None if bool(real.all()) else real
    return None


def shorten_arguments(
    named: dict[str, Any], short: Short, *, pad: int, skip: frozenset[str], real: Tensor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the call's arguments for the short prompt, and the (B, S) ones as they were.

    Args:
        named: every argument by name.
        short: the columns.
        pad: id for new padding in `input_ids`.
        skip: names that never hold columns of the prompt (pixels, grids, decoder inputs), whatever their shape.
        real: (B, S) bool or None, for a mask where new padding needs one.
    """
    rows, columns = short.keep.shape
    fills = {"input_ids": pad, "labels": -100}
    new, originals = {}, {}
    for name, value in named.items():
        if name in skip or not isinstance(value, Tensor):
            if name in ("attention_mask", "decoder_attention_mask") and isinstance(value, dict):
                raise UnsupportedInputError(
                    f"{name} is a dict of ready masks, which cannot be shortened; pass the (batch, columns) mask"
                )
            new[name] = value
        elif name == "logits_to_keep":
            new[name] = _kept_logits(value, short)
        elif name == "position_ids" and value.shape[-1] == columns:
            axes = value.shape[:-2] if value.ndim > 1 else ()
            new[name] = short.gather(value.expand(*axes, rows, columns))
        elif value.shape == (rows, columns):
            originals[name] = value
            new[name] = short.gather(value, fills.get(name, 0))
        elif name == "attention_mask":
            raise UnsupportedInputError(
                f"attention_mask has shape {tuple(value.shape)}, input_ids {(rows, columns)}: only a mask of the same "
                "shape can be shortened"
            )
        elif name == "decoder_attention_mask" and value.ndim == 2 and value.shape[1] > columns:  # then a canvas
            new[name] = torch.cat([short.gather(value[:, :columns]), value[:, columns:]], 1)
        elif name == "cache_position" and value.shape == (columns,):
            new[name] = value[: short.index.shape[1]]
        else:
            new[name] = value
    if short.padded and named.get("attention_mask") is None:
        new["attention_mask"] = (short.index >= 0).long()
        if real is not None:
            originals["attention_mask"] = real.long()
    elif real is not None and "attention_mask" not in originals:
        originals["attention_mask"] = real.long()
    return new, originals


def _kept_logits(value: Tensor, short: Short) -> Tensor:
    """Return `logits_to_keep` (long column numbers) as numbers of the short columns."""
    if value.ndim == 0:
        return value
    if not bool((short.keep == short.keep[:1]).all()) or short.padded:
        raise UnsupportedInputError(
            "logits_to_keep names columns, but the rows of this batch keep unlike columns; pass a number"
        )
    keep = short.keep[0].to(value.device)
    if not bool(keep[value].all()):
        raise UnsupportedInputError("logits_to_keep names placeholders that were dropped; name text columns")
    return (keep.cumsum(0) - 1)[value]


def shorten_lengths(named: dict[str, Any], config: Any, removed: int) -> None:
    """Make `max_length` and `min_length` count the short prompt, in `named`; a passed generation config is copied."""
    given = named.get("generation_config")
    if given is not None:
        named["generation_config"] = config = copy.deepcopy(given)
    for name in ("max_length", "min_length"):
        if named.get(name) is not None:
            named[name] = max(named[name] - removed, 0)
        elif config is not None and getattr(config, name, None):
            value = max(getattr(config, name) - removed, 0)
            if given is not None:
                setattr(config, name, value)
            elif name == "min_length" or named.get("max_new_tokens") is None:
                named[name] = value


def restore(result: Any, ids: Tensor, width: int) -> Any:
    """Return what `generate` gave, with the caller's own ids in place of the `width` short columns in front."""
    out = result if isinstance(result, Tensor) else getattr(result, "sequences", None)
    if out is None:
        return result
    long = torch.cat([ids.to(out.device).repeat_interleave(len(out) // len(ids), 0), out[:, width:]], 1)
    if isinstance(result, Tensor):
        return long
    result.sequences = long
    return result
