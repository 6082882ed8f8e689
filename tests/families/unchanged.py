"""What a patch must not change: a full budget, the model after an exception or removal; and that it can learn."""

from typing import Any

import torch
from torch import nn

from tests.families import tiny
from tests.families.case import Case, Failing, K, Spread, same
from tests.families.prompts import ONE, RAGGED, TWO
from tests.hf.helpers import forget
from tests.tiny_models import Prompt, labels_of


def keep_all(case: Case) -> None:
    """A budget that keeps everything: logits, loss and ids bitwise; the compressor is not called."""
    for rows in (ONE, RAGGED):
        batch = case.prompt(rows)
        more = {} if case.apart else {"labels": labels_of(batch)}
        before, ids = case.forward(batch, **more), case.generate(batch)
        every = [part for row in batch.images for part in row]
        crossed = case.family.columns is not None  # one placeholder stands for a picture
        n = max(case.family.picture(i).num_features if crossed else len(part) for i, part in enumerate(every))
        for compressor in (Spread(), case.mixer()):
            for budget in (n, 10_000):
                with case.patch(compressor, num_tokens=budget):
                    after, again = case.forward(batch, **more), case.generate(batch)
                same(after.logits, before.logits, f"logits at {budget}")
                if more:
                    same(after.loss, before.loss, f"loss at {budget}")
                same(again, ids, f"ids at {budget}")
            if compressor.calls:
                raise AssertionError("the compressor was called")


def removal(case: Case) -> None:
    """After `remove()` the model is as it was."""

    def state() -> Any:
        parts = dict(case.model.named_modules())
        return (
            {name: sorted(vars(part)) for name, part in parts.items()},
            list(case.model.state_dict()),
            {name: (len(p._forward_hooks), len(p._forward_pre_hooks)) for name, p in parts.items()},
        )

    batch = case.prompt(TWO)
    logits, ids = case.forward(batch).logits, case.generate(batch)
    before = state()
    handle = case.patch()
    case.forward(batch), case.generate(batch)
    if list(case.model.state_dict()) != before[1]:
        raise AssertionError("state_dict changed while patched")
    handle.remove()
    if state() != before:
        raise AssertionError("attributes, modules or hooks differ after remove()")
    same(case.forward(batch).logits, logits, "logits after remove()")
    same(case.generate(batch), ids, "ids after remove()")


def exception(case: Case) -> None:
    """What `compress` raises comes out; the patched and the removed model still work."""
    batch = case.prompt(ONE)
    before = case.forward(batch).logits
    with case.patch(Failing()) as handle:
        for call in (case.forward, case.generate):
            try:
                call(batch)
            except ZeroDivisionError:
                pass
            else:
                raise AssertionError("the error of compress() was lost")
        handle.num_tokens = 10_000
        same(case.forward(batch).logits, before, "logits of the patched model after an exception")
    same(case.forward(batch).logits, before, "logits after an exception")


def gradients(case: Case) -> None:
    """The loss reaches the compressor and what encodes the images; everything is finite."""
    batch, mixer = case.prompt(ONE), case.mixer()
    forget(case.model)
    labels = torch.full((1, 2), 60) if case.encoder_decoder else labels_of(batch)
    tower = _encoding(case, batch)
    with case.patch(mixer):
        if case.canvas:
            loss = case.model(**case.inputs(batch)).logits.logsumexp(-1).sum()  # it computes none
        else:
            inputs = {k: v for k, v in case.inputs(batch).items() if k != "decoder_input_ids"}
            loss = case.model(**inputs, labels=labels).loss
        got = torch.autograd.grad(loss, [*mixer.parameters(), *tower], allow_unused=True)
    if got[0] is None or not torch.isfinite(got[0]).all() or not got[0][:K].abs().max() > 0:
        raise AssertionError("no gradient reaches the compressor")
    if tower and not any(g is not None and bool(g.abs().max() > 0) for g in got[1:]):
        raise AssertionError("no gradient reaches the tower")
    if not all(g is None or bool(torch.isfinite(g).all()) for g in got):
        raise AssertionError("gradients are not finite")


def _encoding(case: Case, batch: Prompt) -> list[nn.Parameter]:
    """Parameters on which the image features depend."""
    every = [p for p in case.model.parameters() if p.requires_grad and p.is_floating_point()]
    pixels = {k: v for k, v in batch.inputs.items() if k not in ("input_ids", "attention_mask", case.family.types)}
    with torch.enable_grad():
        modality = "video" if "pixel_values_videos" in pixels else None
        made = tiny.features(case.model, pixels, grad=True, modality=modality)
        total = torch.stack([m.double().square().sum() for m in made]).sum()
    if not total.requires_grad:
        return []
    got = torch.autograd.grad(total, every, allow_unused=True)
    return [p for p, g in zip(every, got) if g is not None and bool(g.abs().max() > 0)]
