"""Image features in every container in which a model returns them: flatten, refill, clone. Pure functions.

A container is a stacked tensor (entries, n, d), a flat one (N, d), or a list or tuple of (n_i, d) or (1, n_i, d). Its
elements are *entries*: images, tiles or whole rows, as the family has it.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CompressorError, UnsupportedModelError


@dataclass
class Piece:
    """Features `start:end` of the flat order, and what is left of them; `tokens` None keeps them all."""

    start: int
    end: int
    tokens: Tensor | None = None  # (k, d)
    positions: Tensor | None = None  # (k,) relative to start
    assignment: Tensor | None = None  # (k, n)

    @property
    def length(self) -> int:
        return self.end - self.start if self.tokens is None else len(self.tokens)

    def kept(self, device: torch.device) -> Tensor:
        """Return the places, in the flat order, of the features that stay."""
        if self.positions is None:
            return torch.arange(self.start, self.end, device=device)
        return self.start + self.positions.to(device)

    def of(self, flat: Tensor, *, selects: bool = True) -> Tensor:
        """Return this piece of other features (N, d'), such as those of another layer, kept or mixed alike."""
        part = flat[self.start : self.end]
        if self.tokens is None:
            return part
        if self.assignment is not None:
            wide = torch.promote_types(part.dtype, torch.float32)
            return (self.assignment.to(wide) @ part.to(wide)).to(part.dtype)
        if not selects:
            raise CompressorError(
                "this model reads features of several encoder layers (deepstack), and the compressor mixes tokens "
                "without saying how; it must return Compressed(..., assignment=)"
            )
        return part.index_select(0, self.positions)  # type: ignore[arg-type]


def field_of(output: Any) -> str:
    """Return the name of the field of an encoder output that holds the projected features."""
    for name in ("pooler_output", "last_hidden_state"):
        if getattr(output, name, None) is not None:  # an attribute and no key in some versions: no indexing
            return name
    if paired(getattr(output, "deepstack_features", None)):
        return "deepstack_features"
    raise UnsupportedModelError(
        f"get_image_features returned {type(output).__name__} without pooler_output or last_hidden_state; "
        "tokscale reads image features from one of these"
    )


def paired(layers: Any) -> bool:
    """Return whether features are pairs (layer of the language model, container), with no container beside them."""
    return bool(layers) and isinstance(layers[0], tuple) and len(layers[0]) == 2 and isinstance(layers[0][0], int)


def _of_layer(layer: Any, change: Callable[[Any], Any]) -> Any:
    """Return the features of one layer changed, and its number as it is if it has one."""
    return (layer[0], change(layer[1])) if isinstance(layer, tuple) and isinstance(layer[0], int) else change(layer)


def flatten(value: Any) -> tuple[Tensor, list[int]]:
    """Return the features as one (N, d) tensor and the length of each entry; of pairs, those of the first."""
    if not isinstance(value, Tensor) and paired(value):
        value = value[0][1]
    if isinstance(value, Tensor):
        if value.ndim == 2:
            return value, [len(value)]
        return value.reshape(-1, value.shape[-1]), [value.shape[-2]] * math.prod(value.shape[:-2])
    parts = [part.reshape(-1, part.shape[-1]) for part in value]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)), [len(part) for part in parts]


def entry_lengths(entries: Sequence[int], pieces: Sequence[Piece]) -> list[int]:
    """Return how many tokens each entry keeps: a kept token belongs to the entry that its position lies in."""
    ends = torch.tensor(entries).cumsum(0)
    starts = ends - torch.tensor(entries)
    kept = torch.zeros(len(entries), dtype=torch.long)
    for piece in pieces:
        first = int(torch.searchsorted(ends, piece.start, right=True))
        if piece.end <= int(ends[first]):  # inside one entry: nothing to look up
            kept[first] += piece.length
        elif piece.tokens is None:
            kept += (ends.clamp(max=piece.end) - starts.clamp(min=piece.start)).clamp(min=0)
        else:
            where = piece.start + piece.positions.cpu()  # type: ignore[union-attr]
            kept += torch.bincount(torch.searchsorted(ends, where, right=True), minlength=len(entries))
    return kept.tolist()


def refill(value: Any, flat: Tensor, lengths: Sequence[int], row_totals: Sequence[int]) -> Any:
    """Return `flat` in the container type of `value`, with entries of the given lengths.

    A stacked tensor whose entries differ is cut into equal blocks that end where rows end: a reader which counts
    blocks to find rows (beam search does) still finds them.
    """
    if isinstance(value, Tensor):
        if value.ndim == 2:
            return flat
        if len(set(lengths)) == 1:
            return flat.view(-1, lengths[0], flat.shape[-1])
        block = math.gcd(*row_totals)
        return flat.view(-1, block, flat.shape[-1])
    parts = flat.split(list(lengths))
    if all(part.ndim == 3 for part in value):
        parts = tuple(part[None] for part in parts)
    return tuple(parts) if isinstance(value, tuple) else list(parts)


def clone(output: Any, **fields: Any) -> Any:
    """Return a shallow copy of an encoder output with some fields replaced; attributes that are no fields survive."""
    if isinstance(output, OrderedDict):  # a ModelOutput: copy.copy would rebuild it from its fields, and slowly
        new: Any = OrderedDict.__new__(type(output))
        for name, value in OrderedDict.items(output):
            OrderedDict.__setitem__(new, name, value)
        vars(new).update(vars(output))
    else:
        new = copy.copy(output)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def repeated(output: Any, totals: Sequence[int], times: int) -> Any:
    """Return an encoder output with the images of each row repeated: rows A, B become A, A, B, B.

    Args:
        output: an encoder output of its own (it is written into).
        totals: tokens of each row; entries of the container end where rows end.
        times: how often.
    """
    name = field_of(output)

    def again(value: Any) -> Any:
        flat, lengths = flatten(value)
        rows = flat.split(list(totals))
        new = torch.cat([row for row in rows for _ in range(times)])
        if len(lengths) == 1 and isinstance(value, Tensor):  # one entry, whatever the rows
            return new.view(*value.shape[:-2], -1, new.shape[-1])
        groups, count = [], 0
        for total in totals:
            entries: list[int] = []
            while sum(entries) < total:
                entries.append(lengths[count])
                count += 1
            groups += entries * times
        return refill(value, new, groups, [total for total in totals if total])

    if name != "deepstack_features":
        setattr(output, name, again(getattr(output, name)))
    if layers := getattr(output, "deepstack_features", None):
        output.deepstack_features = [_of_layer(layer, again) for layer in layers]
    return output


def compressed(
    output: Any, entries: Sequence[int], pieces: Sequence[Piece], rows: Sequence[int], *, selects: bool
) -> Any:
    """Return the encoder output with only what is left of each piece, deepstack features cut or mixed alike.

    Args:
        output: what get_image_features returned.
        entries: length of each entry of its container.
        pieces: the images in order; together they cover all features.
        rows: tokens left per row of the batch.
        selects: the compressor returns tokens as they are, so positions alone say what to keep.
    """
    name = field_of(output)
    value = getattr(output, name)
    flat, _ = flatten(value)
    lengths = entry_lengths(entries, pieces)
    totals = [total for total in rows if total]
    fields: dict[str, Any] = {}
    if name != "deepstack_features":
        new = torch.cat([flat[p.start : p.end] if p.tokens is None else p.tokens for p in pieces])
        fields[name] = refill(value, new, lengths, totals)

    def cut(layer: Any) -> Any:
        return refill(layer, torch.cat([p.of(flatten(layer)[0], selects=selects) for p in pieces]), lengths, totals)

    if layers := getattr(output, "deepstack_features", None):
        fields["deepstack_features"] = [_of_layer(layer, cut) for layer in layers]
    return clone(output, **fields)
