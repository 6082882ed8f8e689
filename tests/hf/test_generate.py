"""What a patched model generates: greedy, in padded batches, in the caller's own loop."""

from typing import Any

import pytest
import torch

import tokscale
from tests.hf.helpers import (
    GREEDY,
    ONE,
    RAGGED,
    TWO,
    K,
    close,
    continued,
    forget,
    forward,
    generate,
    kept_placeholders,
    own_loop,
    pick,
    recomputed,
    reference,
)
from tests.hf.versions import cache_of, with_cache
from tests.tiny_models import (
    Family,
    Prompt,
    alone,
    labels_of,
    prompt,
)

# generation


@pytest.mark.parametrize("rows", [ONE, RAGGED], ids=["one", "ragged"])
def test_cached_equals_uncached(family: Family, model: Any, patched: Any, rows: Any) -> None:
    batch = prompt(family, rows)
    ids = generate(model, batch.inputs)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids)  # the caller's own prompt comes back
    assert ids.shape[1] == batch.ids.shape[1] + 6
    for row in range(len(rows)):
        own = alone(family, rows, row)
        assert torch.equal(recomputed(family, model, own.inputs)[0, -6:], ids[row, -6:])


def test_own_loop_equals_generate(family: Family, model: Any, patched: Any) -> None:
    batch = prompt(family, TWO)
    assert torch.equal(own_loop(model, batch.inputs), generate(model, batch.inputs)[:, -6:])


def test_own_loop_of_a_padded_batch(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, [[2, ("image", 1), 6], [3, ("image", 1), 2]])
    ids = generate(model, batch.inputs)[:, -6:]
    mask = batch.inputs["attention_mask"]
    assert torch.equal(own_loop(model, batch.inputs, lambda _: mask[selected.last.keep].view(2, -1)), ids)


@pytest.mark.parametrize("rows", [ONE, RAGGED, [TWO[0], [12, "image", 4]]], ids=["one", "ragged", "unlike"])
def test_own_loop_with_the_mask_the_error_names(family: Family, model: Any, selected: Any, rows: Any) -> None:
    """`handle.last.shorten(attention_mask)` and new columns: each row goes on as it would alone."""
    batch = prompt(family, rows)
    ids = own_loop(model, batch.inputs, lambda _: selected.last.shorten(batch.inputs["attention_mask"]))
    for row in range(len(rows)):
        assert torch.equal(ids[row], generate(model, alone(family, rows, row).inputs)[0, -6:])


def test_the_mask_the_error_names_gives_the_logits_of_each_row_alone(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, RAGGED)
    token = torch.tensor([[61], [70]])

    def step(inputs: dict[str, Any], token: torch.Tensor) -> torch.Tensor:
        """The logits of one new id behind a prompt, from its cache."""
        output = forward(model, inputs, use_cache=True)
        mask = torch.cat([selected.last.shorten(inputs["attention_mask"]), torch.ones_like(token)], 1)
        more = {}
        if (deltas := getattr(model.base_model, "rope_deltas", None)) is not None:
            more["position_ids"] = ((mask.cumsum(-1) - 1)[:, -1:] + deltas).expand(3, -1, -1)
        with torch.no_grad():
            return model(input_ids=token, **with_cache(model, cache_of(output)), attention_mask=mask, **more).logits

    ours = step(batch.inputs, token)
    for row in range(2):
        close(ours[row], step(alone(family, RAGGED, row).inputs, token[row : row + 1])[0])


def test_a_conversation_goes_on_from_its_cache(family: Family, model: Any, selected: Any) -> None:
    """Several new text ids at once after a compressed prompt: as if all had been one prompt."""
    batch = prompt(family, TWO)
    more = torch.randint(60, 200, (1, 5), generator=torch.Generator().manual_seed(1))
    whole = batch.inputs
    for token in more.split(1, 1):
        whole = continued(family, whole, token)
    expected = forward(model, whole).logits[:, -5:]
    first = forward(model, batch.inputs, use_cache=True)
    with torch.no_grad():
        close(model(input_ids=more, **with_cache(model, cache_of(first))).logits, expected)


def test_greedy_equals_the_reference(family: Family, model: Any, compressor: Any) -> None:
    """Each step from the reference of the prompt and the ids so far."""
    batch = prompt(family, TWO)
    steps = batch
    with torch.no_grad():
        for _ in range(4):
            token = pick(reference(family, model, steps, compressor).logits)
            steps = Prompt(continued(family, steps.inputs, token), batch.images)
    with tokscale.patch(model, compressor, **family.options()):
        assert torch.equal(generate(model, batch.inputs)[:, :-2], steps.ids)


def test_positional_and_named_ids(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, ONE)
    rest = {k: v for k, v in batch.inputs.items() if k != "input_ids"}
    ids, logits = generate(model, batch.inputs), forward(model, batch.inputs).logits
    forget(model)
    assert torch.equal(model.generate(batch.ids, **rest, **GREEDY), ids)
    forget(model)
    assert torch.equal(model.generate(inputs=batch.ids, **rest, **GREEDY), ids)
    forget(model)
    with torch.no_grad():
        assert torch.equal(model(batch.ids, **rest).logits, logits)


def test_a_missing_mask_is_made_where_it_is_needed(family: Family, model: Any, selected: Any) -> None:
    """One row needs no mask, and its result is that with a mask of ones."""
    batch = prompt(family, TWO)
    bare = {k: v for k, v in batch.inputs.items() if k != "attention_mask"}
    close(forward(model, bare).logits, forward(model, batch.inputs).logits)
    assert torch.equal(generate(model, bare), generate(model, batch.inputs))


# batches


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_rows(family: Family, model: Any, compressor: Any, patched: Any, side: str) -> None:
    batch = prompt(family, RAGGED, side=side)
    labels = labels_of(batch)
    output = forward(model, batch.inputs, labels=labels)
    assert kept_placeholders(batch, patched.last.keep) == [[K, K], [K]]
    assert [image.row for image in patched.last.images] == [0, 0, 1]
    ids = generate(model, batch.inputs) if side == "left" else None
    parts, counted = [], []
    for row in range(2):
        own = alone(family, RAGGED, row)
        single = forward(model, own.inputs, labels=labels_of(own))
        length = single.logits.shape[1]
        ours = output.logits[row, -length:] if side == "left" else output.logits[row, :length]
        close(ours, single.logits[0])
        parts.append(single.loss)
        counted.append(int((labels_of(own)[:, 1:] != -100).sum()))
        if ids is not None:
            assert torch.equal(ids[row, -6:], generate(model, own.inputs)[0, -6:])
    weights = torch.tensor(counted) / sum(counted)
    if side == "right":  # on the left a label may stand at the row's first real column, predicted from padding
        close(output.loss, (torch.stack(parts) * weights).sum())


def test_ragged_rows_without_a_mask_get_one(family: Family, model: Any, selected: Any) -> None:
    """Rows of equal length that keep unequal numbers: the patch must add padding, and mask it."""
    one, two = prompt(family, ONE), prompt(family, TWO)
    missing = two.ids.shape[1] - one.ids.shape[1]
    rows = [TWO[0], [3 + missing, *ONE[0][1:]]]
    batch = prompt(family, rows)
    if not batch.inputs["attention_mask"].all():  # the second row holds picture 2, which may be of another size
        gap = int((batch.inputs["attention_mask"] == 0).sum(1).max())
        shorter = int(batch.inputs["attention_mask"].sum(1).argmin())
        rows[shorter] = [rows[shorter][0] + gap, *rows[shorter][1:]]
        batch = prompt(family, rows)
    assert batch.inputs["attention_mask"].all()
    bare = {k: v for k, v in batch.inputs.items() if k != "attention_mask"}
    ids = generate(model, bare)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids)
    for row in range(2):
        assert torch.equal(ids[row, -6:], generate(model, alone(family, rows, row).inputs)[0, -6:])


def test_rows_without_an_image(family: Family, model: Any, compressor: Any, patched: Any) -> None:
    rows = [[6], [3, "image", 4], [2]]
    batch = prompt(family, rows)
    logits, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
    for row in range(3):
        own = alone(family, rows, row)
        single = forward(model, own.inputs).logits[0]
        close(logits[row, -len(single) :], single)
        assert torch.equal(ids[row, -6:], generate(model, own.inputs)[0, -6:])


def test_text_alone_is_untouched(family: Family, model: Any, compressor: Any, patched: Any) -> None:
    batch = prompt(family, [[6], [3]])
    ours = forward(model, batch.inputs, labels=labels_of(batch)), generate(model, batch.inputs)
    patched.remove()
    theirs = forward(model, batch.inputs, labels=labels_of(batch)), generate(model, batch.inputs)
    assert torch.equal(ours[0].logits, theirs[0].logits)
    assert torch.equal(ours[0].loss, theirs[0].loss)
    assert torch.equal(ours[1], theirs[1])
    assert compressor.calls == 0
