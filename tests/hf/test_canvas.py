"""A model that denoises a block of tokens behind the prompt, which it reads from a cache: diffusion_gemma."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tokscale
from tests.families.case import Case, case
from tests.hf.helpers import close
from tests.tiny_models import Prompt

ROWS: list[list[Any]] = [[2, "image", 5], [3, "image", 4]]
CANVAS = torch.tensor([[50, 60, 70, 80]])


@pytest.fixture(scope="module")
def diffusion() -> Case:
    return case("diffusion_gemma")


def canvas_logits(one: Case, batch: Prompt, **more: Any) -> Tensor:
    with torch.no_grad():
        return one.model(**batch.inputs, decoder_input_ids=CANVAS.expand(len(batch.ids), -1), **more).logits


def test_the_canvas_sees_the_short_prompt_and_no_padding(diffusion: Case) -> None:
    """Rows that keep unlike numbers are padded anew: a mask over prompt and canvas is shortened, or made."""
    batch = diffusion.prompt(ROWS)
    whole = F.pad(batch.inputs["attention_mask"], (0, 4), value=1)
    with diffusion.patch() as handle:
        handle.num_tokens = [2, 5]
        made = canvas_logits(diffusion, batch)
        assert made.shape[1] == 4
        close(canvas_logits(diffusion, batch, decoder_attention_mask=whole), made, 0)
        for row, budget in enumerate((2, 5)):
            handle.num_tokens = budget
            close(made[row], canvas_logits(diffusion, diffusion.alone(ROWS, row))[0])


def test_a_cache_goes_on_under_a_short_mask_alone(diffusion: Case) -> None:
    batch = diffusion.prompt(ROWS)
    mask = batch.inputs["attention_mask"]
    more = {"decoder_input_ids": CANVAS.expand(2, -1)}
    with diffusion.patch() as handle, torch.no_grad():
        first = diffusion.model(**batch.inputs, **more, decoder_attention_mask=F.pad(mask, (0, 4), value=1))
        with pytest.raises(
            tokscale.UnsupportedInputError,
            match=f"decoder_attention_mask has {mask.shape[1] + 4} columns, the cache holds .* and decoder_input_ids 4",
        ):
            diffusion.model(cache=first.cache, **more, decoder_attention_mask=F.pad(mask, (0, 4), value=1))
        short = F.pad(handle.last.shorten(mask), (0, 4), value=1)
        close(diffusion.model(cache=first.cache, **more, decoder_attention_mask=short).logits, first.logits)


def test_what_generate_returns_begins_with_the_callers_prompt(diffusion: Case) -> None:
    batch = diffusion.prompt(ROWS)
    with diffusion.patch():
        ids = diffusion.generate(batch)
    assert ids.shape == (2, batch.ids.shape[1] + 8)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids)


def test_what_cannot_be_done_is_refused(diffusion: Case) -> None:
    batch = diffusion.prompt(ROWS)
    with pytest.raises(tokscale.ArgumentError, match='positions="original": diffusion_gemma passes no position ids'):
        diffusion.patch(positions="original")
    with diffusion.patch(), pytest.raises(tokscale.UnsupportedInputError, match="decoder_attention_mask is a dict"):
        canvas_logits(diffusion, batch, decoder_attention_mask={"full_attention": None})
