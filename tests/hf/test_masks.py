"""Models whose placeholders are marked by an argument and have no id: kosmos-2, kosmos-2.5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.families.case import Case, Spread, case
from tests.hf.helpers import pick
from tests.tiny_models import Prompt
from tokscale import Compressed

MASK = "image_embeds_position_mask"
KINDS = ("kosmos-2", "kosmos-2.5")
ONE: list[list[Any]] = [[3, "image", 4]]
PAIR: list[list[Any]] = [[2, "image", 5], [3, "image", 4]]


@pytest.fixture(params=KINDS, scope="module")
def kosmos(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def with_ids_of_text(batch: Prompt) -> Prompt:
    """Placeholders with ids such as text has: only the mask says where they are."""
    ids = torch.where(batch.inputs[MASK].bool(), torch.arange(batch.ids.shape[1]) + 60, batch.ids)
    return Prompt({**batch.inputs, "input_ids": ids}, batch.images)


def test_the_mask_says_where_the_placeholders_are(kosmos: Case) -> None:
    batch = with_ids_of_text(kosmos.prompt(PAIR))
    with kosmos.patch() as handle:
        logits = kosmos.forward(batch).logits
        assert torch.equal(handle.last.is_image, batch.inputs[MASK].bool())
        assert [(image.row, image.n, image.k) for image in handle.last.images] == [(0, 6, 3), (1, 6, 3)]
        assert logits.shape[1] == batch.ids.shape[1] - 3
        ids = kosmos.generate(batch)
        assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids)


def test_a_mask_that_ends_where_text_goes_on(kosmos: Case) -> None:
    batch = kosmos.prompt(ONE)
    ends = int(batch.inputs[MASK][0].nonzero().max()) + 1
    short = Prompt({**batch.inputs, MASK: batch.inputs[MASK][:, :ends]}, batch.images)
    with kosmos.patch():
        assert torch.equal(kosmos.generate(short), kosmos.generate(batch))


class _Listening(Spread):
    needs = frozenset({"text"})

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.heard = context["text_mask"].sum(1).tolist()
        return super().compress(vision_tokens, **context)


def test_placeholders_are_no_part_of_the_question(kosmos: Case) -> None:
    compressor = _Listening()
    with kosmos.patch(compressor):
        kosmos.forward(with_ids_of_text(kosmos.prompt([[1, "image", 2, "image", 3]])))
    assert compressor.heard == [
        8,
        4,
    ]  # 2 + 3 ids of text, and what stands around an image: the config names no such ids


def test_what_cannot_be_done_is_refused(kosmos: Case) -> None:
    batch = kosmos.prompt(ONE)
    with pytest.raises(tokscale.ArgumentError, match=f'positions="original": {kosmos.model.config.model_type} passes'):
        kosmos.patch(positions="original")
    bare = {k: v for k, v in batch.inputs.items() if k not in ("pixel_values", "flattened_patches")}
    with kosmos.patch(), pytest.raises(tokscale.UnsupportedInputError, match="image_embeds are features already"):
        kosmos.model(**bare, image_embeds=torch.zeros(1, 6, 64))


def test_the_pixels_as_the_first_argument_of_generate() -> None:
    kosmos = case("kosmos-2")
    batch = kosmos.prompt(ONE)
    more = {k: v for k, v in batch.inputs.items() if k != "pixel_values"}
    with kosmos.patch():
        ids = kosmos.generate(batch)
        assert torch.equal(kosmos.generate(Prompt({**more, "inputs": batch.inputs["pixel_values"]}, [])), ids)


def test_beams_over_rows_that_keep_unlike_numbers() -> None:
    """kosmos-2 hands features to another generate, which repeats them along their first axis."""
    kosmos = case("kosmos-2")
    batch = kosmos.prompt(PAIR)
    with kosmos.patch() as handle:
        handle.num_tokens = [2, 4]
        kosmos.generate(batch)
        for name in ("num_beams", "num_return_sequences"):
            more = {"do_sample": True} if name != "num_beams" else {}
            with pytest.raises(tokscale.UnsupportedInputError, match=rf"rows keep \[2, 4\] .*under {name}"):
                kosmos.generate(batch, **{name: 2}, **more)


def test_a_cache_does_not_go_on_with_long_ids() -> None:
    kosmos = case("kosmos-2.5")
    batch = kosmos.prompt(ONE)
    with kosmos.patch():
        output = kosmos.forward(batch, use_cache=True)
        token = pick(output.logits)
        kosmos.model(input_ids=token, cache=output.cache)
        bare = {k: batch.inputs[k] for k in ("input_ids", MASK)}
        with pytest.raises(tokscale.UnsupportedInputError, match="Pass the whole conversation without a cache"):
            kosmos.model(**bare, cache=output.cache)
