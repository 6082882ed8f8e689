"""Budgets of every kind, prompts cut by a collator, features encoded before, and what the handle tells."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import tokscale
from tests.hf.helpers import GREEDY, ROWS, ByNorm, K, forget, forward, generate, kept_placeholders, own_loop, reference
from tests.hf.together import run_together
from tests.hf.versions import encodes_first
from tests.tiny_models import FAMILIES, IMAGE, Family, Prompt, labels_of, module, prompt
from tokscale.compressors import allocate, content_weights
from tokscale.hf.features import field_of, flatten


def test_budget_between_calls(family: Family, model: Any) -> None:
    batch, selector, budgets = prompt(family, ROWS), ByNorm(K), (K, 1, 5, 10_000, 2)
    with torch.no_grad():
        expected = [reference(family, model, batch, ByNorm(k)).logits for k in budgets]
    with tokscale.patch(model, selector, **family.options()) as handle:
        for k, logits in zip(budgets, expected):
            handle.num_tokens = k
            assert handle.num_tokens == k
            torch.testing.assert_close(forward(model, batch.inputs).logits, logits, rtol=0, atol=2e-6)
    assert selector.num_tokens == K


def test_budget_kinds(family: Family, model: Any) -> None:
    batch = prompt(family, ROWS)
    sizes = [len(c) for c in batch.images[0]]
    grids: list[Any] = []

    def half(n: int, grid: Any) -> int:
        grids.append(grid)
        return n // 2

    for asked, expected in [
        ({"num_tokens": 4}, [4, 4]),
        ({"num_tokens": [2, 5]}, [2, 5]),
        ({"num_tokens": half}, [n // 2 for n in sizes]),
        ({"retention_ratio": 0.3}, [max(1, round(0.3 * n)) for n in sizes]),
        ({"retention_ratio": 0.001}, [1, 1]),
        ({"retention_ratio": 1.0}, sizes),
    ]:
        with tokscale.patch(model, ByNorm(K), **asked, **family.options()) as handle:
            forward(model, batch.inputs)
            assert kept_placeholders(batch, handle.last.keep) == [expected], asked
            ids = generate(model, batch.inputs)
            assert torch.equal(ids[:, -6:], own_loop(model, batch.inputs)), asked
    assert len(grids) >= 2
    if family.name == "qwen2_5_vl":
        flat = [tuple(int(x) for x in grid)[-2:] for grid in grids[:2]]
        assert flat == [(3, 4), (2, 3)]


@pytest.mark.parametrize("how", ["uniform", "proportional", "content"])
def test_one_budget_shared_by_the_images_of_a_row(family: Family, model: Any, how: str) -> None:
    """The row as a whole keeps k per image; within it `allocate` of the sizes, as a list of these budgets would."""
    batch = prompt(family, ROWS)
    sizes = [len(c) for c in batch.images[0]]
    with torch.no_grad():
        encoded = tokscale.patch(model, ByNorm(K), **family.options())
        features = encoded.encode(**batch.inputs)["image"]
        encoded.remove()
    flat, _ = flatten(getattr(features, field_of(features)))
    weights = content_weights(list(flat.split(sizes))) if how == "content" else None
    for asked, total in (({"num_tokens": 4}, 8), ({"retention_ratio": 0.3}, round(0.3 * sum(sizes)))):
        expected = allocate(sizes, total, how=how, weights=weights)
        with tokscale.patch(model, ByNorm(K), num_tokens=expected, **family.options()):
            logits = forward(model, batch.inputs).logits
        with tokscale.patch(model, ByNorm(K), allocate=how, **asked, **family.options()) as handle:
            assert torch.equal(forward(model, batch.inputs).logits, logits)
            assert [image.k for image in handle.last.images] == expected and handle.allocate == how
            handle.num_tokens = max(sizes)
            forward(model, batch.inputs)
            assert [image.k for image in handle.last.images] == sizes
            handle.allocate = None
            handle.num_tokens = 4
            forward(model, batch.inputs)
            assert [image.k for image in handle.last.images] == [4, 4]


def test_allocate_needs_one_budget_to_share(llava: Any) -> None:
    with pytest.raises(tokscale.ArgumentError, match=r'allocate="uniform" shares one budget .* num_tokens is a list'):
        tokscale.patch(llava, ByNorm(K), num_tokens=[1, 2], allocate="uniform")
    with pytest.raises(tokscale.ArgumentError, match=r"allocate=\"even\" is unknown; choose from content, "):
        tokscale.patch(llava, ByNorm(K), num_tokens=4, allocate="even")
    with tokscale.patch(llava, ByNorm(K), num_tokens=4, allocate="content") as handle:
        with pytest.raises(tokscale.ArgumentError, match="num_tokens is a function"):
            handle.num_tokens = lambda n, grid: 3
        assert handle.num_tokens == 4
    assert "forward" not in vars(llava)


def test_unequal_budgets_equal_the_reference(family: Family, model: Any) -> None:
    """A list of budgets: features of unlike length in one container, and each image its own number."""
    batch = prompt(family, ROWS)

    class InTurn:
        """For the reference alone: another budget for each image, in order."""

        budgets = iter([2, 5])

        def compress(self, vision_tokens: torch.Tensor) -> tokscale.Compressed:
            return ByNorm(next(self.budgets)).compress(vision_tokens)

    with torch.no_grad():
        expected = reference(family, model, batch, InTurn())
    with tokscale.patch(model, ByNorm(K), num_tokens=[2, 5], **family.options()) as handle:
        logits = forward(model, batch.inputs).logits
        assert torch.equal(handle.last.keep, expected.keep)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=2e-6)


def shortened(batch: Prompt, keep: torch.Tensor) -> dict[str, Any]:
    """The inputs as a collator cuts them, for one row."""
    return {k: v[keep].view(1, -1) if v.shape == batch.ids.shape else v for k, v in batch.inputs.items()}


def test_a_short_prompt_passes(family: Family, model: Any) -> None:
    """A prompt that a collator cut to k placeholders per image: the features are compressed, no column leaves."""
    first, second = {"internvl": (0, 2), "idefics3_tiles": (1, 4)}.get(family.name, (0, 1))  # one tile each
    batch, selector = prompt(family, [[2, ("image", first), 3, ("image", second), 2]]), ByNorm(K)
    with tokscale.patch(model, selector, **family.options()) as handle:
        expected = forward(model, batch.inputs).logits
        ids = generate(model, batch.inputs)[:, -6:]
        keep = handle.last.keep
        short = shortened(batch, keep)
        if family.mrope:
            forget(model)
            handle.remove()
            axes = model.model.get_rope_index(
                batch.ids, batch.inputs["mm_token_type_ids"], image_grid_thw=batch.inputs["image_grid_thw"]
            )[0]
            handle = tokscale.patch(model, selector)
            short["position_ids"] = axes[:, keep].view(3, 1, -1)
        got = forward(model, short).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
        assert int((short["input_ids"] == IMAGE).sum()) == 2 * K
        if not family.mrope:
            told = generate(model, short)
            assert torch.equal(told[:, : short["input_ids"].shape[1]], short["input_ids"])
            assert torch.equal(told[:, -6:], ids)
        handle.remove()


@pytest.mark.parametrize("name", ["internvl", "idefics3_tiles"])
def test_a_short_prompt_that_hides_its_tiles_is_refused(name: str) -> None:
    """Three tiles for two short runs: which tile belongs to which image can no longer be told."""
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, ROWS)
    with tokscale.patch(model, ByNorm(K), **family.options()) as handle:
        forward(model, batch.inputs)
        with pytest.raises(tokscale.UnsupportedInputError, match="input_ids hold 6 image placeholders"):
            forward(model, shortened(batch, handle.last.keep))


def test_ready_features(family: Family, model: Any) -> None:
    """`mm_encoder_outputs` from an earlier encoding: the same at every budget; what was passed is not changed."""
    batch = prompt(family, ROWS)
    pixels = {k: v for k, v in batch.inputs.items() if k in ("pixel_values", "image_sizes", "image_grid_thw")}
    with torch.no_grad():
        encoded = model.get_image_features(**pixels, return_dict=True)
    field = encoded.pooler_output
    stored = [f.clone() for f in field]
    rest = {k: v for k, v in batch.inputs.items() if k != "pixel_values"}
    with tokscale.patch(model, ByNorm(K), **family.options()) as handle:
        if not encodes_first(model):
            for call in (forward, generate):
                with pytest.raises(tokscale.UnsupportedInputError, match="takes no mm_encoder_outputs in this version"):
                    call(model, rest, mm_encoder_outputs={"image": encoded})
            rest = batch.inputs  # their features are not made again
        for k in (K, 10_000, 1):
            handle.num_tokens = k
            expected, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
            given = {"image": encoded}
            assert torch.equal(forward(model, rest, mm_encoder_outputs=given).logits, expected)
            assert given == {"image": encoded}
            assert torch.equal(generate(model, rest, mm_encoder_outputs={"image": encoded}), ids)
    assert encoded.pooler_output is field
    assert all(torch.equal(a, b) for a, b in zip(encoded.pooler_output, stored))


def test_paused(family: Family, model: Any) -> None:
    """Inside the block the model runs as lent, also after an exception in it, and for this thread alone."""
    batch = prompt(family, ROWS)
    bare, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
    with tokscale.patch(model, ByNorm(K), **family.options()) as handle:
        short = forward(model, batch.inputs).logits
        with handle.paused():
            assert torch.equal(forward(model, batch.inputs).logits, bare)
            with handle.paused():
                assert torch.equal(generate(model, batch.inputs), ids)
            assert torch.equal(forward(model, batch.inputs).logits, bare)
            (other,) = run_together(lambda: forward(model, batch.inputs).logits)
            assert torch.equal(other, short)
        assert torch.equal(forward(model, batch.inputs).logits, short)
        with pytest.raises(KeyboardInterrupt), handle.paused():
            raise KeyboardInterrupt
        assert torch.equal(forward(model, batch.inputs).logits, short)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_the_last_call_tells(family: Family, model: Any, side: str) -> None:
    """`shorten` maps a tensor of the caller's columns to those that the model saw; `is_image` marks placeholders."""
    batch = prompt(family, [[2, "image", 5, "image", 2], [3, "image", 4]], side=side)
    labels, seen = labels_of(batch), {}
    with tokscale.patch(model, ByNorm(K), **family.options()) as handle:
        names = list(inspect.signature(type(model.model).forward).parameters)[1:]
        hook = model.model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.update({**dict(zip(names, args)), **kwargs}), with_kwargs=True
        )
        output = forward(model, batch.inputs, labels=labels)
        hook.remove()
        last = handle.last
    assert torch.equal(last.is_image, batch.ids == IMAGE)
    assert torch.equal(last.shorten(batch.ids, 0), seen["input_ids"])
    assert torch.equal(last.shorten(batch.inputs["attention_mask"], 0), seen["attention_mask"])
    short = last.shorten(labels, -100)
    assert short.shape == output.logits.shape[:2]
    loss = nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1).float(), short[:, 1:].flatten())
    torch.testing.assert_close(output.loss, loss)
    for row in range(2):
        kept = batch.ids[row][last.keep[row] & batch.inputs["attention_mask"][row].bool()]
        assert torch.equal(last.shorten(batch.ids, 0)[row][seen["attention_mask"][row].bool()], kept)


def test_encoded_once(family: Family, model: Any) -> None:
    """`handle.encode` for many budgets: equal to encoding at each, importance included, pixels passed or left out."""

    class Wants(ByNorm):
        needs = frozenset({"importance"} if family.name != "llava_next" else set())

    batch, calls = prompt(family, ROWS), []
    rest = {k: v for k, v in batch.inputs.items() if k != "pixel_values" or not encodes_first(model)}
    with tokscale.patch(model, Wants(K), **family.options()) as handle:
        expected = {}
        for k in (K, 1, 10_000):
            handle.num_tokens = k
            expected[k] = forward(model, batch.inputs).logits
        encoded = handle.encode(**batch.inputs)
        hook = module(model, family.tower).register_forward_hook(lambda *_: calls.append(1))
        try:
            for k, logits in expected.items():
                handle.num_tokens = k
                assert torch.equal(forward(model, rest, mm_encoder_outputs=encoded).logits, logits)
                assert torch.equal(forward(model, batch.inputs, mm_encoder_outputs=encoded).logits, logits)
                generate(model, rest, mm_encoder_outputs=encoded)
        finally:
            hook.remove()
        assert not calls
        with pytest.raises(tokscale.ArgumentError, match="pixels"):
            handle.encode(input_ids=batch.ids)


def test_handle_shows_itself(llava: Any) -> None:
    with tokscale.patch(llava, ByNorm(K)) as handle:
        assert isinstance(handle, tokscale.PatchHandle)
        assert handle.last is None
        assert "ByNorm" in repr(handle)
        assert isinstance(handle.compressor, ByNorm)
        batch = prompt(FAMILIES["llava"], ROWS)
        generate(llava, batch.inputs, **{k: v for k, v in GREEDY.items() if k == "max_new_tokens"})
        assert handle.last is not None
        (first, second) = handle.last.images
        assert (first.row, first.modality, first.n, first.k) == (0, "image", 16, K)
        assert tuple(first.grid) == (4, 4)
        assert first.layer is None or first.layer == 0
        assert second.assignment is None
