"""Models that read images by cross-attention: the prompt keeps its length, the states that it attends to get fewer.

The language model of such a family is called with the states of all tiles and a mask over them. A seam on that call
puts the compressed states in their place and gathers the last axis of the mask at the columns they came from, at every
decode step again: the model itself rebuilds the mask at full width. Tiles that only fill up a batch are dropped; rows
that keep unlike numbers are padded with columns that nothing attends to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ..errors import UnsupportedInputError
from . import caches
from .compress import Clock, compress_images
from .context import Context
from .cutting import Modality
from .features import Piece
from .frontdoor import bind
from .images import Image
from .last import ImageRecord, LastCall
from .seam import Call, Seam, active, running

if TYPE_CHECKING:
    from .handle import PatchHandle

_MARK = "_tokscale_columns"  # on a cache: the columns of the states in it, for calls that go on from it or a copy


@dataclass
class Reading(Call):
    """A call in progress: its arguments, and what became of its states once the language model was called."""

    named: dict[str, Any] = field(default_factory=dict)
    compressed: tuple[Tensor, Tensor] | None = None  # states (B, K, d) and columns (B, K), -1 at padding
    done: bool = False  # compressed says what stays; None: everything does


@torch.compiler.disable
def enter(seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer `forward` or `generate` of a patched model."""
    handle = seam.state
    if active(handle) is not None:
        return seam.original(*args, **kwargs)
    host = handle._host
    named = bind(host.generate_names if seam.name == "generate" else host.forward_names, args, kwargs)
    if named is None:
        return seam.original(*args, **kwargs)
    if named.get("mm_encoder_outputs") is not None:
        raise UnsupportedInputError(f"{host.model_type} takes no mm_encoder_outputs; pass the pixels")
    if named.get("cross_attention_states") is not None and _valid(named) is None:
        raise UnsupportedInputError(
            "cross_attention_states without aspect_ratio_ids and aspect_ratio_mask do not say which of them are one "
            "image; pass these too"
        )
    if _valid(named) is not None:
        if not isinstance(named.get("input_ids"), Tensor):
            raise UnsupportedInputError("placeholders are found in input_ids; pass input_ids")
        if cached := caches.length(named):
            raise UnsupportedInputError(
                f"a cache of {cached} tokens and images in one call: one mask would run over compressed states and new "
                "ones. Pass the whole conversation without a cache"
            )
    with running(Reading(handle, named=named)):
        return seam.original(*args, **kwargs)


def answer(seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer the language model's `forward`: short states when it is given states, and a mask over them always."""
    call = active(seam.state)
    if not isinstance(call, Reading):
        return seam.original(*args, **kwargs)
    named = dict(seam.__signature__.bind(*args, **kwargs).arguments)
    named.update(named.pop("kwargs", {}))
    states, cache = named.get("cross_attention_states"), caches.given(named)
    columns = getattr(cache, _MARK, None)
    if states is not None:
        if not call.done:
            call.compressed, call.done = _compressed(call, states), True
        if call.compressed is None:
            if columns is not None:  # of an earlier use of this cache
                delattr(cache, _MARK)
            return seam.original(*args, **kwargs)
        short, columns = call.compressed
        named["cross_attention_states"] = short.repeat_interleave(len(_text(named)) // len(short), 0)
    if columns is None:
        return seam.original(*args, **kwargs)
    _shorten_mask(seam.owner, named, columns)
    result = seam.original(**named)
    if states is not None:
        for each in (cache, caches.given(vars(result)) if hasattr(result, "__dict__") else None):
            if each is not None:
                setattr(each, _MARK, columns)
    return result


def _text(named: dict[str, Any]) -> Tensor:
    """Return what the language model is called with, rows first."""
    ids = named.get("input_ids")
    return named["inputs_embeds"] if ids is None else ids


def _valid(named: dict[str, Any]) -> Tensor | None:
    """Return (B, images, tiles) bool, False at tiles that only fill up the batch; None for a call without images."""
    ids, mask = named.get("aspect_ratio_ids"), named.get("aspect_ratio_mask")
    given = named.get("pixel_values") is not None or named.get("cross_attention_states") is not None
    if not given or not isinstance(ids, Tensor) or not isinstance(mask, Tensor):
        return None
    return mask.bool() & (ids > 0)[..., None]  # a missing image has id 0, and a first tile for the tower's softmax


def _compressed(call: Reading, states: Tensor) -> tuple[Tensor, Tensor] | None:
    """Compress the states of a call and set `handle.last`; return states and their columns, None if all stay.

    Args:
        call: the call in progress.
        states: (rows * images * tiles, p, d), rows repeated under beams.
    """
    handle, named = call.handle, call.named
    valid: Tensor = _valid(named)  # type: ignore[assignment]
    valid = valid.to(states.device)
    rows, per_tile = len(valid), states.shape[-2]
    tokens = states.reshape(rows, -1, valid[0].numel() * per_tile, states.shape[-1])[:, 0]
    flags = valid.flatten(1).repeat_interleave(per_tile, 1)
    part, owners = _cut(handle, named, valid, tokens[flags], per_tile)
    budgets = handle._budgets()
    budgets.expect(len(part.images))
    wanted = budgets.of_all(part, 0)
    lengths = [budgets.length(image.n, budget) for image, budget in zip(part.images, wanted)]
    pieces, clock = [Piece(image.start, image.end) for image in part.images], Clock(states.device)
    less = any(k < image.n for k, image in zip(lengths, part.images))
    if less:
        compress_images(budgets, part, pieces, wanted, lengths, _Heard(handle, named, part, owners), clock)
    records = []
    for image, piece, k in zip(part.images, pieces, lengths):
        mix = None if piece.assignment is None else piece.assignment.detach()
        records.append(ImageRecord(image.row, "image", None, image.n, k, piece.positions, None, mix))
    handle.last = LastCall(lambda: records, part.mask, None, clock)
    if not less:
        return None
    places = flags.nonzero()[:, 1]
    kept: list[list[Tensor]] = [[part.flat[:0]] for _ in range(rows)]
    where: list[list[Tensor]] = [[places[:0]] for _ in range(rows)]
    for image, piece in zip(part.images, pieces):
        kept[image.row].append(part.flat[image.start : image.end] if piece.tokens is None else piece.tokens)
        where[image.row].append(places[piece.kept(places.device)])
    return (
        pad_sequence([torch.cat(row) for row in kept], batch_first=True),
        pad_sequence([torch.cat(row) for row in where], batch_first=True, padding_value=-1),
    )


def _cut(
    handle: PatchHandle, named: dict[str, Any], valid: Tensor, flat: Tensor, per_tile: int
) -> tuple[Modality, list[int]]:
    """Return the images (or tiles) of a call and the number of the image that each belongs to."""
    images, owners, start, number = [], [], 0, 0
    for row, counts in enumerate(valid.sum(-1).tolist()):
        for tiles in counts:
            for part in [1] * tiles if handle._unit == "tile" or not tiles else [tiles]:
                images.append(Image(row, start, start + part * per_tile, tile=part == 1))
                owners.append(number)
                start += part * per_tile
            number += bool(tiles)
    mask = named["input_ids"] == handle._host.tokens["image"]
    entries = [image.n for image in images]
    return Modality("image", mask, None, flat, entries, images, [None] * len(images), [1] * len(images)), owners


class _Heard(Context):
    """The context of images that have one placeholder each, whatever they are cut into."""

    def __init__(self, handle: PatchHandle, named: dict[str, Any], part: Modality, owners: list[int]) -> None:
        super().__init__(handle, named, [part], {})
        self._owners = owners

    def _columns(self, part: Modality) -> tuple[Tensor, Tensor]:
        columns = part.mask.nonzero()[:, 1]
        images = max(self._owners) + 1
        if len(columns) != images:
            raise UnsupportedInputError(
                f"input_ids hold {len(columns)} image placeholders, the call holds {images} images: which text follows "
                "which image cannot be told. Write a placeholder per image"
            )
        columns = columns[torch.tensor(self._owners, device=columns.device)]
        return columns, columns


def _shorten_mask(reader: Any, named: dict[str, Any], columns: Tensor) -> None:
    """Gather the mask of a call of the language model at `columns`, and hide padding.

    A text column from which every kept state is hidden is handled as the model handles one that sees no image: it
    attends to all of them, and its `full_text_row_masked_out_mask` is 0.
    """
    mask, text = named.get("cross_attention_mask"), _text(named)
    device = text.device if mask is None else mask.device
    columns = columns.repeat_interleave(len(text) // len(columns), 0).to(device)[:, None, None]  # b 1 1 k
    more = max(0, _reserved(reader, caches.given(named)) - columns.shape[-1])
    padding = pad(columns < 0, (0, more), value=True)
    if mask is None:
        if not bool(padding.any()):
            return
        mask = torch.zeros(len(text), 1, text.shape[1], 1, dtype=reader.dtype, device=device)
    else:
        mask = mask.gather(-1, columns.clamp(min=0).expand(*mask.shape[:-1], -1))
        sees = ((mask == 0) & (columns >= 0)).any(-1, keepdim=True)
        mask = pad(mask * sees, (0, more))
        if (whole := named.get("full_text_row_masked_out_mask")) is not None:
            named["full_text_row_masked_out_mask"] = whole * sees
    named["cross_attention_mask"] = mask.masked_fill(padding, torch.finfo(mask.dtype).min)


def _reserved(reader: Any, cache: Any) -> int:
    """Return how many columns a cache of fixed size reserves for states, 0 for one that grows."""
    layers, first = getattr(cache, "layers", ()), min(reader.cross_attention_layers)
    return int(getattr(layers[first], "max_cache_len", 0)) if first < len(layers) else 0
