"""What a patched model computes, over all families and two compressors, against references without the patch.

The models are float64; norms and rotary tables of transformers round to float32 inside, so two exact routes differ by
up to some 5e-7 in the logits (measured between the two references below). Tolerance: 2e-6 for logits and losses, 1e-12
where one route only is involved, bitwise where nothing may change.
"""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.hf.helpers import (
    ONE,
    RAGGED,
    TWO,
    ByNorm,
    K,
    Listed,
    Mixer,
    close,
    forget,
    forward,
    generate,
    kept_placeholders,
    ready,
    recomputed,
    reference,
    short_prompt,
)
from tests.tiny_models import (
    FAMILIES,
    IMAGE,
    Family,
    Prompt,
    alone,
    build_gemma3_narrow,
    labels_of,
    module,
    prompt,
)

# the references themselves


def test_the_two_references_agree(family: Family, model: Any, compressor: Any) -> None:
    batch = prompt(family, TWO)
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    with ready(model, short_prompt(family, model, batch, compressor), batch) as inputs:
        close(forward(model, inputs).logits, expected.logits)
    assert kept_placeholders(batch, expected.keep) == [[K, K]]


# a budget that keeps everything


@pytest.mark.parametrize("rows", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("budget", ["n", 10_000])
def test_full_budget_is_bitwise(family: Family, model: Any, compressor: Any, rows: Any, budget: int | str) -> None:
    batch = prompt(family, rows)
    labels = labels_of(batch)
    before, ids = forward(model, batch.inputs, labels=labels), generate(model, batch.inputs)
    num_tokens = max(len(c) for images in batch.images for c in images) if budget == "n" else budget
    with tokscale.patch(model, compressor, num_tokens=num_tokens, **family.options()):
        after, again = forward(model, batch.inputs, labels=labels), generate(model, batch.inputs)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)
    assert torch.equal(ids, again)
    assert compressor.calls == 0  # also for a mixture: nothing is mixed where everything is kept


def test_full_budget_encodes_once(family: Family, model: Any) -> None:
    batch, calls = prompt(family, ONE), []
    hook = module(model, family.tower).register_forward_hook(lambda *_: calls.append(1))
    try:
        for num_tokens in (10_000, K):
            calls.clear()
            with tokscale.patch(model, ByNorm(num_tokens), **family.options()):
                forward(model, batch.inputs)
            assert len(calls) == 1
    finally:
        hook.remove()


# a budget that does not


@pytest.mark.parametrize("rows", [ONE, TWO], ids=["one", "two"])
def test_subset_equals_reference(family: Family, model: Any, compressor: Any, rows: Any) -> None:
    batch = prompt(family, rows)
    labels = labels_of(batch)
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    with tokscale.patch(model, compressor, **family.options()) as handle:
        output = forward(model, batch.inputs, labels=labels)
        last = handle.last
    close(output.logits, expected.logits)
    close(output.loss, expected.loss(labels))
    assert torch.equal(last.keep, expected.keep)
    assert kept_placeholders(batch, last.keep) == [[K] * len(batch.images[0])]
    for image, columns, positions in zip(last.images, batch.images[0], expected.positions[0]):
        assert (image.row, image.n, image.k) == (0, len(columns), K)
        assert torch.equal(torch.as_tensor(image.positions).flatten(), positions)
    assert last.milliseconds >= 0


def test_norms_do_not_choose_the_first_features(family: Family, model: Any) -> None:
    """Else the tests above could not tell a patch that keeps the first k."""
    with torch.no_grad():
        expected = reference(family, model, prompt(family, TWO), ByNorm(K))
    assert all(p.tolist() != list(range(K)) for p in expected.positions[0])


def test_listed_positions_equal_reference(family: Family, model: Any) -> None:
    batch, listed = prompt(family, TWO, first=1), Listed([0, 2, 4, 5])
    with torch.no_grad():
        expected = reference(family, model, batch, listed)
    with tokscale.patch(model, listed, **family.options()):
        close(forward(model, batch.inputs).logits, expected.logits)


def test_rows_that_keep_alike_stay_in_their_columns(family: Family, model: Any, compressor: Any) -> None:
    """Existing padding stays where it is, with or without images of one size."""
    batch = prompt(family, [[2, ("image", 1), 6], [3, ("image", 1), 2]])
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    with tokscale.patch(model, compressor, **family.options()) as handle:
        logits = forward(model, batch.inputs).logits
        assert torch.equal(handle.last.keep, expected.keep)
    real = batch.inputs["attention_mask"][expected.keep].view(2, -1).bool()
    close(logits[real], expected.logits[real])


def test_touching_images(family: Family, model: Any, compressor: Any) -> None:
    """Two images side by side are one run of placeholders and still two images; markers between change nothing."""
    batch = prompt(family, [[3, "image", "image", 4]])
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    with tokscale.patch(model, compressor, **family.options()) as handle:
        close(forward(model, batch.inputs).logits, expected.logits)
        assert kept_placeholders(batch, handle.last.keep) == [[K, K]]
        assert [image.n for image in handle.last.images] == [len(c) for c in batch.images[0]]


def test_a_budget_that_no_row_can_exceed(family: Family, model: Any, compressor: Any) -> None:
    """The model runs as it is; the record has every image all the same, and holds no pixels."""
    batch = prompt(family, [[3, "image", "image", 4]])
    expected = forward(model, batch.inputs).logits
    sizes = [len(columns) for columns in batch.images[0]]
    with tokscale.patch(model, compressor, num_tokens=sum(sizes), **family.options()) as handle:
        inputs = {name: value.clone() for name, value in batch.inputs.items()}
        pixels = weakref.ref(inputs["pixel_values"])
        assert torch.equal(forward(model, inputs).logits, expected)
        del inputs
        assert pixels() is None
        assert [(im.row, im.n, im.k, im.positions) for im in handle.last.images] == [(0, n, n, None) for n in sizes]
        assert bool(handle.last.keep.all()) and handle.last.index is None
        assert torch.equal(handle.last.is_image, batch.ids == IMAGE)


def test_images_that_fit_stay_beside_those_that_do_not(family: Family, model: Any, compressor: Any) -> None:
    """A budget between two sizes: one image passes bit for bit and the compressor never sees it."""
    batch = prompt(family, TWO)
    sizes = [len(columns) for columns in batch.images[0]]
    k = min(sizes)
    compressor.num_tokens = k
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    compressor.calls = 0
    with tokscale.patch(model, compressor, **family.options()) as handle:
        close(forward(model, batch.inputs).logits, expected.logits)
        assert torch.equal(handle.last.keep, expected.keep)
        assert [image.k for image in handle.last.images] == [k, k]
        ids = generate(model, batch.inputs)
        assert torch.equal(ids, recomputed(family, model, batch.inputs))
    if len(set(sizes)) == 1:
        assert compressor.calls == 0


def test_positions_of_the_callers_own(family: Family, model: Any, compressor: Any) -> None:
    """`position_ids` that the caller passes are gathered like any other column; also M-RoPE's, with three axes."""
    batch = prompt(family, TWO)
    places = torch.arange(batch.ids.shape[1])[None] * 2
    if family.mrope:
        places = torch.stack([places, places + 1, places * 2])
    given = Prompt({**batch.inputs, "position_ids": places}, batch.images)
    with torch.no_grad():
        expected = reference(family, model, given, compressor)
        other = reference(family, model, batch, compressor)
    assert (expected.logits - other.logits).abs().max() > 1e-3
    with tokscale.patch(model, compressor, **family.options()):
        close(forward(model, given.inputs).logits, expected.logits)


def test_outputs_of_other_kinds(family: Family, model: Any, selected: Any) -> None:
    """A tuple, the last logits alone, hidden states: all of the short prompt."""
    batch = prompt(family, TWO)
    whole = forward(model, batch.inputs, output_hidden_states=True)
    width = int(selected.last.keep.sum())
    assert whole.logits.shape[1] == width
    assert all(hidden.shape[1] == width for hidden in whole.hidden_states)
    assert torch.equal(forward(model, batch.inputs, return_dict=False)[0], whole.logits)
    close(forward(model, batch.inputs, logits_to_keep=1).logits, whole.logits[:, -1:], 1e-12)
    keep = selected.last.keep[0]
    text = (batch.ids[0] != IMAGE).nonzero()[:, 0]  # numbered as the caller sees them
    place = (keep.cumsum(0) - 1)[text]
    close(forward(model, batch.inputs, logits_to_keep=text).logits, whole.logits[:, place], 1e-12)


def test_original_positions(family: Family, model: Any, compressor: Any) -> None:
    batch = prompt(family, TWO)
    with torch.no_grad():
        expected = reference(family, model, batch, compressor, original=True)
        compact = reference(family, model, batch, compressor)
    with tokscale.patch(model, compressor, positions="original", **family.options()):
        close(forward(model, batch.inputs).logits, expected.logits)
        ids = generate(model, batch.inputs)
        assert torch.equal(ids, recomputed(family, model, batch.inputs))
    if not family.mrope:
        assert (expected.logits - compact.logits).abs().max() > 1e-3  # the option does something


def test_original_positions_in_a_padded_batch(family: Family, model: Any) -> None:
    batch = prompt(family, RAGGED)
    with tokscale.patch(model, ByNorm(K), positions="original", **family.options()):
        logits, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
        for row in range(2):
            own = alone(family, RAGGED, row)
            single = forward(model, own.inputs).logits[0]
            close(logits[row, -len(single) :], single)
            assert torch.equal(ids[row, -6:], generate(model, own.inputs)[0, -6:])


def test_labels_count_only_kept_columns(family: Family, model: Any, compressor: Any) -> None:
    """Labels on image columns too: those of dropped columns leave, those of kept ones count."""
    batch = prompt(family, TWO)
    labels = batch.ids.clone()
    with torch.no_grad():
        expected = reference(family, model, batch, compressor)
    with tokscale.patch(model, compressor, **family.options()):
        close(forward(model, batch.inputs, labels=labels).loss, expected.loss(labels))


# learning


def test_gradients_equal_the_references(family: Family, model: Any, compressor: Any) -> None:
    batch = prompt(family, TWO)
    labels = labels_of(batch)
    tower = [p for p in module(model, family.tower).parameters() if p.ndim >= 2]
    mine = list(compressor.parameters())

    def gradients(loss: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss, [*tower, *mine], allow_unused=True))

    forget(model)
    expected = gradients(reference(family, model, batch, compressor).loss(labels))
    with tokscale.patch(model, compressor, **family.options()):
        forget(model)
        got = gradients(model(**batch.inputs, labels=labels).loss)
    assert sum(g is not None and bool(g.abs().max() > 0) for g in got[: len(tower)]) >= 3
    for mine_too in got[len(tower) :]:
        assert mine_too is not None
        assert mine_too[:K].abs().max() > 0
    for ours, theirs in zip(got, expected):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert torch.isfinite(ours).all()
            close(ours, theirs, 1e-6)


# masks per layer


def test_a_narrow_window_is_that_of_the_short_prompt() -> None:
    """A sliding layer that does not see the whole prompt: as if the processor had written the short one."""
    family, model, compressor = FAMILIES["gemma3"], build_gemma3_narrow(), ByNorm(K)
    batch = prompt(family, TWO)
    short = short_prompt(family, model, batch, compressor)
    with ready(model, short, batch) as inputs:
        expected = forward(model, inputs).logits
        ids = generate(model, inputs)[:, -6:]
    wide_model = family.model()
    with ready(wide_model, short, batch) as inputs:
        wide = forward(wide_model, inputs).logits
    assert (expected - wide).abs().max() > 1e-3  # the window does something
    with tokscale.patch(model, compressor):
        close(forward(model, batch.inputs).logits, expected)
        assert torch.equal(generate(model, batch.inputs)[:, -6:], ids)
        ragged = prompt(family, RAGGED)
        both = generate(model, ragged.inputs)
        for row in range(2):
            assert torch.equal(both[row, -6:], generate(model, alone(family, RAGGED, row).inputs)[0, -6:])


# what the caller's tensors look like afterwards


def test_nothing_passed_in_is_changed(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, RAGGED)
    copies = {k: v.clone() for k, v in batch.inputs.items()}
    inputs = dict(batch.inputs)
    forward(model, inputs, labels=labels_of(batch))
    generate(model, inputs)
    assert list(inputs) == list(copies)
    for key, value in copies.items():
        assert inputs[key] is batch.inputs[key]
        assert torch.equal(inputs[key], value)


def test_a_trained_mixture_is_used_at_the_budget_asked(family: Family, model: Any) -> None:
    """More queries than the budget: the same model at another number, without patching again."""
    batch, mixer = prompt(family, ONE), Mixer(5)
    with tokscale.patch(model, mixer, **family.options()) as handle:
        for k in (5, 2, 4):
            handle.num_tokens = k
            forward(model, batch.inputs)
            assert kept_placeholders(batch, handle.last.keep) == [[k]]
        assert mixer.num_tokens == 5  # the user's object keeps its own
