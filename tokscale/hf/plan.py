"""What one call does: which images it holds, what is left of each, which columns of the prompt stay, and the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import prompt
from .compress import Clock, compress_images
from .context import Context
from .cutting import Modality, cut_entries, cut_modality, entries_are_images
from .features import Piece, compressed, field_of, flatten
from .host import PIXELS
from .last import ImageRecord, LastCall
from .seam import Call

if TYPE_CHECKING:
    from .handle import PatchHandle


@dataclass
class Plan:
    """What one call does: the encoder outputs to hand out, the short prompt (None: the long one), the record."""

    outputs: dict[str, Any]
    totals: dict[str, list[int]]  # vision tokens left per row
    short: prompt.Short | None
    real: Tensor | None
    last: LastCall


def make_plan(
    handle: PatchHandle,
    named: dict[str, Any],
    masks: dict[str, Tensor],
    counts: dict[str, list[int]],
    encoded: dict[str, Any],
    generating: bool,
) -> Plan:
    """Cut, compress and refill every modality, and say which columns stay."""
    ids, budgets = named["input_ids"], handle._budgets()
    parts: list[Modality] = []
    for name, mask in masks.items():
        first = sum(len(part.images) for part in parts)
        parts.append(cut_modality(handle, name, named, encoded[name], mask, counts[name], budgets, first))
    budgets.expect(sum(len(part.images) for part in parts))
    context, clock = None, Clock(ids.device)
    outputs, records, left, keep, count = {}, [], {}, None, 0
    dropped = [0] * len(ids)
    for part in parts:
        wanted = budgets.of_all(part, count)
        lengths = [budgets.length(image.n, budget) for image, budget in zip(part.images, wanted)]
        count += len(part.images)
        pieces = [Piece(image.start, image.end) for image in part.images]
        outputs[part.name], left[part.name] = part.output, counts[part.name]
        if any(k < image.n for k, image in zip(lengths, part.images)):
            context = context or Context(handle, named, parts, encoded)  # not built where all is kept
            compress_images(budgets, part, pieces, wanted, lengths, context, clock)
            totals = [0] * len(ids)
            for image, k in zip(part.images, lengths):
                totals[image.row] += k
                dropped[image.row] += image.n - k
            selects = not getattr(handle.compressor, "mixture", False)
            outputs[part.name] = compressed(part.output, part.entries, pieces, totals, selects=selects)
            left[part.name] = totals
            if not part.presized:
                stays = prompt.keep_mask(part.mask, torch.cat([piece.kept(ids.device) for piece in pieces]))
                keep = stays if keep is None else keep & stays
        for image, grid, k, piece in zip(part.images, part.grids, lengths, pieces):
            mix = None if piece.assignment is None else piece.assignment.detach()  # the record holds no graph
            records.append(ImageRecord(image.row, part.name, None, image.n, k, piece.positions, grid, mix))
    short = real = None
    if keep is not None:
        pad, eos = handle._pad_and_eos(named)
        real = prompt.real_columns(ids, named.get("attention_mask"), generating=generating, pad=pad, eos=eos)
        pad_left = generating or (real is not None and not bool(real[:, 0].all()))
        short = prompt.shorten_columns(keep, dropped, real=real, pad_left=pad_left)
    is_image = parts[0].mask if len(parts) == 1 else torch.stack([part.mask for part in parts]).any(0)
    return Plan(outputs, left, short, real, LastCall(lambda: records, is_image, short, clock))


def all_stay(handle: PatchHandle, named: dict[str, Any], counts: dict[str, list[int]]) -> bool:
    """Return whether no image can be above the budget, as no row of this call holds more placeholders than that."""
    if handle._ratio is not None or handle._recorder is not None or named.get("mm_encoder_outputs") is not None:
        return False
    budget = handle._budget  # None would leave it to the compressor's output_length
    return isinstance(budget, int) and list(counts) == ["image"] and max(counts["image"]) <= budget


def record_all(
    named: dict[str, Any], masks: dict[str, Tensor], counts: dict[str, list[int]], call: Call, output: Any
) -> Any:
    """Return the features that the model made in a call where all of them stay, and set `handle.last`.

    They may yet be more than the placeholders, for a prompt that already holds k of n: then they are compressed.
    """
    handle, (mask, rows) = call.handle, (masks["image"], counts["image"])
    value = getattr(output, field_of(output))
    flat, entries = flatten(value)
    if len(flat) != sum(rows):
        plan = make_plan(handle, named, masks, counts, {"image": output}, False)
        handle.last, call.changed, output = plan.last, True, plan.outputs["image"]
        call.outputs["image"] = output
        return output
    small = {name: given for name, given in named.items() if name not in PIXELS["image"]}  # the record holds no pixels
    by_entry = entries_are_images(handle._host, "image", value, small)

    def records() -> list[ImageRecord]:
        images, grids = cut_entries(handle, "image", small, entries, by_entry, mask, rows)
        return [ImageRecord(im.row, "image", None, im.n, im.n, None, grid, None) for im, grid in zip(images, grids)]

    handle.last = LastCall(records, mask, None, Clock(mask.device))
    return output
