"""A compressed call against a reference that uses no code of the library.

The unpatched model runs under a pre-hook on the innermost module that receives `inputs_embeds`, which puts all
arguments of that call, gathered at the kept columns, in their place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tokscale
from tests.families import crossed
from tests.families.case import Case, NotApplicable, Spread, near, same
from tests.families.generation import recomputed
from tests.families.prompts import ONE, TWO
from tests.tiny_models import Prompt, labels_of
from tokscale import Compressed

MARKS = "image_embeds_position_mask"


def _sliced(value: Any, index: Tensor, width: int, kept: Tensor, count: int) -> Any:
    """An argument at the kept columns: every axis as long as the prompt; a flat axis of all placeholders likewise."""
    if isinstance(value, dict):
        return {k: _sliced(v, index, width, kept, count) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_sliced(v, index, width, kept, count) for v in value)
    if not isinstance(value, Tensor):
        return value
    for axis in range(value.ndim):
        if value.shape[axis] == width:
            value = value.index_select(axis, index)
    if value.ndim == 2 and len(value) == count and value.is_floating_point():
        value = value[kept]
    return value


def receivers(case: Case, batch: Prompt) -> list[nn.Module]:
    """The modules that receive the embeddings of the whole prompt, or where images are in it, outermost first."""
    found: list[nn.Module] = []
    width, handles = batch.ids.shape[1], []
    name = MARKS if MARKS in batch.inputs else "inputs_embeds"

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs.get(name)
        if isinstance(embeds, Tensor) and embeds.ndim > 1 and embeds.shape[1] == width and module not in found:
            found.append(module)

    for module in case.model.modules():
        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        case.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def expected(case: Case, batch: Prompt, compressor: Any, *, original: bool = False) -> tuple[Tensor, Tensor]:
    """Logits and kept columns of the unpatched model whose language model was called with gathered arguments."""
    if "cross_attention_mask" in batch.inputs:
        return crossed.expected(case, batch, compressor)
    ids = batch.ids
    places = sorted(c for columns in batch.images[0] for c in columns)
    width, count = ids.shape[1], len(places)
    inside = receivers(case, batch)
    if not inside:
        raise NotApplicable("no module receives inputs_embeds")
    keep = torch.ones(width, dtype=torch.bool)
    kept, order = [], {c: i for i, c in enumerate(places)}
    for columns in batch.images[0]:
        where = torch.tensor(columns)
        short = where[compressor.compress(torch.zeros(1, len(where), 1)).positions[0]]
        keep[where] = False
        keep[short] = True
        kept += [order[c] for c in short.tolist()]
    index, chosen = keep.nonzero()[:, 0], torch.tensor(sorted(kept))

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        new = {k: _sliced(v, index, width, chosen, count) for k, v in kwargs.items()}
        if MARKS in batch.inputs:
            new["image_embeds"] = kwargs["image_embeds"].flatten(0, 1)[chosen]
        positions = kwargs.get("position_ids")
        if isinstance(positions, Tensor) and positions.ndim <= 2:
            counted = index if original else torch.arange(len(index))
            new["position_ids"] = counted.expand(*positions.shape[:-1], -1)
        elif original and not case.family.mrope:
            new["position_ids"] = index[None]
        return args, new

    handle = inside[-1].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        more = {} if case.apart else {"use_cache": False}
        if case.apart:  # cross-attention reads the short states
            batch = Prompt({k: v for k, v in batch.inputs.items() if k != "attention_mask"}, batch.images)
        return case.forward(batch, **more).logits, keep
    finally:
        handle.remove()


def subset(case: Case) -> None:
    """An explicit subset, one image and two: the logits are those of the reference, and so is the loss."""
    for rows in (ONE, TWO):
        batch = case.prompt(rows)
        logits, keep = expected(case, batch, Spread())
        labels = labels_of(batch)
        more = {} if case.apart else {"labels": labels}
        with case.patch() as handle:
            output = case.forward(batch, **more)
            same(handle.last.keep[0], keep, "kept columns")
        near(output.logits, logits, case.tolerance, f"logits, {len(batch.images[0])} images")
        if more:
            kept = labels[0, keep]
            loss = F.cross_entropy(logits[0, :-1].float(), kept[1:], ignore_index=-100)
            near(output.loss, loss, 1e-4, "loss")


def first_two(case: Case) -> None:
    """The reference notices a wrong subset, so that `subset` can fail."""
    batch = case.prompt(ONE)
    logits, _ = expected(case, batch, Spread())
    with case.patch(_First()):
        wrong = case.forward(batch).logits
    if wrong.shape == logits.shape and (wrong - logits).abs().max() <= 10 * case.tolerance:
        raise AssertionError("the first k features give the same logits: this model cannot tell them apart")


class _First(Spread):
    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        index = torch.arange(self.output_length(vision_tokens.shape[1]))
        return Compressed(vision_tokens[:, index], index.expand(len(vision_tokens), -1))


def original(case: Case) -> None:
    """`positions="original"`: kept tokens stay where they were."""
    if case.family.mrope:
        raise NotApplicable("positions of several axes are always the original ones")
    if case.encoder_decoder:
        raise NotApplicable("an encoder's positions are its own")
    batch = case.prompt(ONE)
    try:
        handle = case.patch(positions="original")
    except tokscale.ArgumentError as error:
        raise NotApplicable(str(error)) from error
    with handle:
        logits = case.forward(batch).logits
        for first in range(4):
            each = case.prompt(TWO, first=first)
            same(case.generate(each), recomputed(case, each), "cached and recomputed ids")
    try:
        reference, _ = expected(case, batch, Spread(), original=True)
    except TypeError as error:
        raise NotApplicable(f"the language model takes no position_ids: {error}") from error
    near(logits, reference, case.tolerance, "logits")
