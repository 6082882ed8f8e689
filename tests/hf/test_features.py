"""Containers of features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tokscale import CompressorError, UnsupportedModelError
from tokscale.hf.cutting import entries_are_images
from tokscale.hf.features import Piece, clone, compressed, entry_lengths, field_of, flatten, refill, repeated

D = 2
FLAT = torch.arange(24.0).view(12, D)  # twelve tokens


def containers() -> dict[str, tuple[Any, list[int]]]:
    a, b, c = FLAT[:4], FLAT[4:8], FLAT[8:]
    return {
        "stacked": (FLAT.view(3, 4, D), [4, 4, 4]),
        "flat": (FLAT, [12]),
        "list": ([a, FLAT[4:9], FLAT[9:]], [4, 5, 3]),
        "tuple": ((a, b, c), [4, 4, 4]),
        "list of batches of one": ([a[None], b[None], c[None]], [4, 4, 4]),
        "four axes": (FLAT.view(1, 3, 4, D), [4, 4, 4]),
    }


@pytest.mark.parametrize("name", list(containers()))
def test_flatten_and_back(name: str) -> None:
    value, lengths = containers()[name]
    flat, found = flatten(value)
    assert torch.equal(flat, FLAT)
    assert found == lengths
    again = refill(value, flat, lengths, [12])
    assert type(again) is type(value)
    assert torch.equal(flatten(again)[0], FLAT)
    if not isinstance(value, Tensor):
        assert [part.shape for part in again] == [part.shape for part in value]


def pick(start: int, end: int, *places: int) -> Piece:
    return Piece(start, end, FLAT[[start + p for p in places]], torch.tensor(places))


def test_entries_keep_what_lies_in_them() -> None:
    assert entry_lengths([4, 4, 4], [pick(0, 4, 1), pick(4, 8, 0, 3), Piece(8, 12)]) == [1, 2, 4]
    assert entry_lengths([4, 4, 4], [pick(0, 12, 0, 4, 5, 11)]) == [1, 2, 1]  # three tiles of one image
    assert entry_lengths([4, 4, 4], [Piece(0, 12)]) == [4, 4, 4]
    assert entry_lengths([12], [pick(0, 5, 2), pick(5, 12, 0, 1)]) == [3]  # images of one row in one entry
    assert entry_lengths([6, 6], [Piece(0, 4), pick(4, 12, 0, 7)]) == [5, 1]


@pytest.mark.parametrize("name", ["stacked", "flat", "list", "tuple", "list of batches of one"])
def test_compressed_output(name: str) -> None:
    value, entries = containers()[name]
    output = BaseModelOutputWithPooling(pooler_output=value, last_hidden_state=torch.ones(1))
    pieces = [pick(0, 4, 1), pick(4, 12, 0, 7)]
    new = compressed(output, entries, pieces, [1, 2], selects=True)
    assert torch.equal(flatten(new.pooler_output)[0], FLAT[[1, 4, 11]])
    assert output.pooler_output is value
    assert new.last_hidden_state is output.last_hidden_state
    assert type(new.pooler_output) is type(value)


def test_stacked_entries_that_differ_end_where_rows_end() -> None:
    """Beam search finds the rows by counting blocks: no block may lie in two of them."""
    value = torch.zeros(4, 4, D)
    new = refill(value, torch.zeros(10, D), [1, 3, 2, 4], [4, 6])
    assert new.shape == (5, 2, D)  # blocks of gcd(4, 6)
    assert refill(value, torch.zeros(8, D), [2, 2, 2, 2], [4, 4]).shape == (4, 2, D)


def test_deepstack_follows_the_selection() -> None:
    layers = [FLAT + 100, [FLAT[:4] + 200, FLAT[4:] + 200]]
    output = SimpleNamespace(pooler_output=[FLAT[:4], FLAT[4:]], deepstack_features=layers)
    new = compressed(output, [4, 8], [pick(0, 4, 3), Piece(4, 12)], [1, 8], selects=True)
    assert torch.equal(new.deepstack_features[0], torch.cat([FLAT[3:4], FLAT[4:]]) + 100)
    assert [len(part) for part in new.deepstack_features[1]] == [1, 8]
    assert torch.equal(torch.cat(new.deepstack_features[1]), torch.cat([FLAT[3:4], FLAT[4:]]) + 200)
    assert len(output.deepstack_features[0]) == 12  # the caller's own


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_deepstack_of_a_mixture_is_mixed_alike(dtype: torch.dtype) -> None:
    mix = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])  # float32, whatever the features are
    piece = Piece(0, 4, mix @ FLAT[:4], torch.tensor([0, 3]), mix)
    output = SimpleNamespace(pooler_output=FLAT[:4], deepstack_features=[(FLAT[:4] * 10).to(dtype)])
    new = compressed(output, [4], [piece], [2], selects=False)
    assert new.deepstack_features[0].dtype == dtype
    assert torch.equal(new.deepstack_features[0], (mix @ (FLAT[:4] * 10)).to(dtype))  # sums of whole numbers: exact
    silent = Piece(0, 4, mix @ FLAT[:4], torch.tensor([0, 3]))
    with pytest.raises(CompressorError, match="assignment"):
        compressed(output, [4], [silent], [2], selects=False)


def test_an_empty_deepstack_stays_empty() -> None:
    output = SimpleNamespace(pooler_output=FLAT[:4], deepstack_features=[])
    assert compressed(output, [4], [pick(0, 4, 1)], [1], selects=True).deepstack_features == []


def test_clone_keeps_attributes_that_are_no_fields() -> None:
    output = BaseModelOutputWithPooling(last_hidden_state=torch.ones(1))
    object.__setattr__(output, "pooler_output_of_old", 5)
    output.pooler_output = [FLAT]  # None at the start: an attribute and no key
    new = clone(output, pooler_output=[FLAT[:1]])
    assert new.pooler_output_of_old == 5
    assert len(new.pooler_output[0]) == 1
    assert len(output.pooler_output[0]) == 12
    new.pooler_output = None
    assert output.pooler_output is not None


def test_the_field_that_holds_the_features() -> None:
    assert field_of(BaseModelOutputWithPooling(pooler_output=FLAT, last_hidden_state=FLAT)) == "pooler_output"
    assert field_of(BaseModelOutputWithPooling(last_hidden_state=FLAT)) == "last_hidden_state"
    with pytest.raises(UnsupportedModelError, match="pooler_output or last_hidden_state"):
        field_of((FLAT,))


@pytest.mark.parametrize("name", ["stacked", "list", "tuple"])
def test_rows_repeated_for_beams(name: str) -> None:
    """Row A has two images, row B one: A, A, B, B."""
    value = containers()["stacked"][0] if name == "stacked" else [FLAT[:4], FLAT[4:8], FLAT[8:]]
    value = tuple(value) if name == "tuple" else value
    new = repeated(clone(SimpleNamespace(pooler_output=value)), [8, 0, 4], 2)
    a, b = FLAT[:8], FLAT[8:]
    assert torch.equal(flatten(new.pooler_output)[0], torch.cat([a, a, b, b]))
    assert flatten(new.pooler_output)[1] == [4] * 6


@pytest.mark.parametrize("shape", [(12, D), (1, 12, D)])
def test_one_entry_of_several_rows_repeated_for_beams(shape: tuple[int, ...]) -> None:
    new = repeated(clone(SimpleNamespace(pooler_output=FLAT.view(shape))), [8, 0, 4], 2).pooler_output
    a, b = FLAT[:8], FLAT[8:]
    assert new.shape == (*shape[:-2], 24, D)
    assert torch.equal(new.view(24, D), torch.cat([a, a, b, b]))


def test_several_images_stacked_as_one_are_cut_at_runs() -> None:
    """The grid tells two images, the container is (1, N, d): hunyuan_vl in some versions of transformers."""
    host, table = SimpleNamespace(model_type="any"), torch.tensor([[1, 2, 4], [1, 2, 2]])
    stack = FLAT.view(1, 12, D)
    assert not entries_are_images(host, "image", stack, {"image_grid_thw": table})
    assert entries_are_images(host, "image", stack, {"image_grid_thw": table[:1]})
    assert entries_are_images(host, "image", stack, {})
    assert entries_are_images(host, "image", [FLAT[:8], FLAT[8:]], {"image_grid_thw": table})
