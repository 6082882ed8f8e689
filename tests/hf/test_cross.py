"""Models that read images by cross-attention: mllama. The whole matrix of its checks is in tests/families."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.families.case import Case, Mixer, Spread, case
from tests.families.crossed import expected, tokens_of
from tests.hf.helpers import ByNorm, close, continued, own_loop, pick
from tests.tiny_models import START, Prompt
from tokscale import Compressed, TokenCompressor

PER_TILE = 37  # 6 x 6 patches and a class token
TILES = (2, 1, 3)  # of pictures 0, 1, 2
ONE: list[list[Any]] = [[3, "image", 4]]
TWO: list[list[Any]] = [[2, "image", 3, "image", 2]]
RAGGED: list[list[Any]] = [[2, "image", 5, "image", 2], [3, "image", 4]]


@pytest.fixture(scope="module")
def built() -> Case:
    return case("mllama")


@pytest.fixture
def mllama(built: Case) -> Iterator[Case]:
    yield built
    assert not any("forward" in vars(module) for module in built.model.modules())  # every test takes its patch away


def sizes(handle: Any) -> list[tuple[int, int, int]]:
    return [(image.row, image.n, image.k) for image in handle.last.images]


def test_an_image_is_all_its_tiles_and_the_prompt_keeps_its_columns(mllama: Case) -> None:
    batch = mllama.prompt(RAGGED)
    with mllama.patch(num_tokens=5) as handle:
        logits = mllama.forward(batch).logits
        assert logits.shape[1] == batch.ids.shape[1]
        assert sizes(handle) == [(0, 2 * PER_TILE, 5), (0, PER_TILE, 5), (1, 3 * PER_TILE, 5)]
        assert handle.last.index is None and bool(handle.last.keep.all())
        assert handle.last.is_image.sum(1).tolist() == [2, 1]
        assert handle.last.images[0].grid is None and len(handle.last.images[0].positions) == 5


def test_per_tile(mllama: Case) -> None:
    with mllama.patch(num_tokens=4, unit="tile") as handle:
        mllama.forward(mllama.prompt(RAGGED))
        assert sizes(handle) == [(0, PER_TILE, 4)] * 3 + [(1, PER_TILE, 4)] * 3


def test_budgets_of_every_kind(mllama: Case) -> None:
    batch = mllama.prompt(RAGGED)
    with mllama.patch() as handle:
        for budget, kept in (
            ([7, 3, 200], [7, 3, 111]),
            (lambda n, grid: n // PER_TILE, [2, 1, 3]),
        ):
            handle.num_tokens = budget
            mllama.forward(batch)
            assert [image.k for image in handle.last.images] == kept
        handle.retention_ratio = 0.1
        mllama.forward(batch)
        assert [image.k for image in handle.last.images] == [7, 4, 11]
        handle.num_tokens = 20
        handle.allocate = "proportional"
        mllama.forward(batch)
        assert [image.k for image in handle.last.images] == [27, 13, 20]


@pytest.mark.parametrize("budget", [111, 10_000])
def test_a_full_budget_changes_no_bit(mllama: Case, budget: int) -> None:
    batch, compressor = mllama.prompt(RAGGED), Spread()
    logits, ids = mllama.forward(batch).logits, mllama.generate(batch)
    with mllama.patch(compressor, num_tokens=budget) as handle:
        assert torch.equal(mllama.forward(batch).logits, logits)
        assert torch.equal(mllama.generate(batch), ids)
        assert all(image.k == image.n for image in handle.last.images)
    assert compressor.calls == 0


@pytest.mark.parametrize("rows", [ONE, TWO])
def test_the_language_model_sees_the_kept_states_under_their_mask(mllama: Case, rows: Any) -> None:
    batch = mllama.prompt(rows)
    logits, _ = expected(mllama, batch, Spread())
    with mllama.patch():
        close(mllama.forward(batch).logits, logits)
    with mllama.patch(num_tokens=4):
        assert (mllama.forward(batch).logits - logits).abs().max() > 1e-4  # the reference can tell


def test_one_image_whole_beside_one_that_is_cut(mllama: Case) -> None:
    batch = mllama.prompt(TWO)
    logits, _ = expected(mllama, batch, Spread(PER_TILE))
    with mllama.patch(Spread(PER_TILE)) as handle:
        close(mllama.forward(batch).logits, logits)
        assert [image.k for image in handle.last.images] == [PER_TILE, PER_TILE]


def test_a_row_without_an_image_reads_as_text_alone(mllama: Case) -> None:
    batch = mllama.prompt([[2, "image", 3], [6]])
    text = Prompt({k: v[1:] for k, v in batch.inputs.items() if k in ("input_ids", "attention_mask")}, [[]])
    with mllama.patch():
        together = mllama.forward(batch).logits
    close(together[1], mllama.forward(text).logits[0])


def test_images_that_only_fill_up_a_batch_are_none(mllama: Case) -> None:
    """The processor gives a missing image the id 0 and one tile."""
    batch = mllama.prompt(RAGGED)
    filled = dict(batch.inputs)
    filled["aspect_ratio_mask"] = filled["aspect_ratio_mask"].clone()
    assert filled["aspect_ratio_ids"][1].tolist() == [3, 0]
    filled["aspect_ratio_mask"][1, 1, 0] = 1
    with mllama.patch() as handle:
        plain = mllama.forward(batch).logits
        close(mllama.forward(Prompt(filled, batch.images)).logits, plain)
        assert len(handle.last.images) == 3


def test_what_a_real_image_processor_writes() -> None:
    """Ids count from 1, a missing image has id 0 and its first tile set: `cross` goes by both."""
    from PIL import Image
    from transformers import MllamaImageProcessor

    processor = MllamaImageProcessor(size={"height": 48, "width": 48}, max_image_tiles=4)
    wide, small = Image.new("RGB", (96, 40)), Image.new("RGB", (40, 40))
    made = processor([[small, wide], [wide]], return_tensors="pt")
    assert made["aspect_ratio_ids"][1, 1] == 0 and made["aspect_ratio_mask"][1, 1].tolist() == [1, 0, 0, 0]
    assert made["aspect_ratio_mask"].sum(-1).tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize("kind", ["selector", "mixture"])
def test_rows_of_a_batch_are_the_rows_alone(mllama: Case, kind: str) -> None:
    batch = mllama.prompt(RAGGED)
    with mllama.patch(ByNorm() if kind == "selector" else mllama.mixer()):
        logits, ids = mllama.forward(batch).logits, mllama.generate(batch)
        for row in range(2):
            single = mllama.alone(RAGGED, row)
            close(logits[row, -3:], mllama.forward(single).logits[0, -3:])
            assert torch.equal(ids[row, -6:], mllama.generate(single)[0, -6:])


def test_states_the_caller_made_are_compressed_too(mllama: Case) -> None:
    batch, held = mllama.prompt(TWO), {}
    hook = mllama.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: held.update(kwargs), with_kwargs=True
    )
    mllama.forward(batch)
    hook.remove()
    states = {**batch.inputs, "cross_attention_states": held["cross_attention_states"]}
    del states["pixel_values"]
    with mllama.patch() as handle:
        assert torch.equal(mllama.forward(Prompt(states, [])).logits, mllama.forward(batch).logits)
        del states["aspect_ratio_mask"]
        with pytest.raises(tokscale.UnsupportedInputError, match="which of them are one image"):
            mllama.forward(Prompt(states, []))
        assert len(handle.last.images) == 2


# decoding


def test_the_callers_own_loop_with_and_without_a_mask(mllama: Case) -> None:
    batch = mllama.prompt(RAGGED)
    with mllama.patch(ByNorm()):
        ids = mllama.generate(batch)[:, -6:]
        mask, tokens = batch.inputs["cross_attention_mask"], []
        with torch.no_grad():
            output = mllama.model(**batch.inputs, use_cache=True)
            for step in range(6):
                tokens.append(pick(output.logits))
                real = torch.cat([batch.inputs["attention_mask"], torch.ones(2, step + 1, dtype=torch.long)], 1)
                more = {"cross_attention_mask": mask[:, -1:], "attention_mask": real}
                output = mllama.model(input_ids=tokens[-1], cache=output.cache, use_cache=True, **more)
        assert torch.equal(torch.cat(tokens, 1), ids)
        bare = {k: v for k, v in batch.inputs.items() if k != "cross_attention_mask"}
        together = own_loop(mllama.model, bare, lambda _: batch.inputs["attention_mask"])
        for row in range(2):  # each column sees all images of its row, and nothing that fills up the batch
            single = {k: v for k, v in mllama.alone(RAGGED, row).inputs.items() if k != "cross_attention_mask"}
            assert torch.equal(together[row], own_loop(mllama.model, single)[0])


def test_a_copied_cache_goes_on_as_the_first(mllama: Case) -> None:
    batch = mllama.prompt(TWO)
    more = {"cross_attention_mask": batch.inputs["cross_attention_mask"][:, -1:]}
    with mllama.patch(ByNorm()), torch.no_grad():
        output = mllama.model(**batch.inputs, use_cache=True)
        token, again = pick(output.logits), copy.deepcopy(output.cache)
        first = mllama.model(input_ids=token, cache=output.cache, **more).logits
        assert torch.equal(mllama.model(input_ids=token, cache=again, **more).logits, first)
        whole = mllama.model(**continued(mllama.family, batch.inputs, token), use_cache=False).logits
        close(first[:, -1], whole[:, -1])


def test_a_cache_that_is_used_again_at_a_full_budget(mllama: Case) -> None:
    from transformers import DynamicCache

    batch, cache = mllama.prompt(ONE), DynamicCache(config=mllama.model.config.get_text_config())
    more = {"cross_attention_mask": batch.inputs["cross_attention_mask"][:, -1:]}
    with mllama.patch() as handle, torch.no_grad():
        mllama.model(**batch.inputs, cache=cache, use_cache=True)
        cache.reset()
        handle.num_tokens = 10_000
        token = pick(mllama.model(**batch.inputs, cache=cache, use_cache=True).logits)
        ours = mllama.model(input_ids=token, cache=cache, **more).logits
        whole = mllama.model(**continued(mllama.family, batch.inputs, token), use_cache=False).logits
        close(ours[:, -1], whole[:, -1])


def test_beams_compress_each_image_once(mllama: Case) -> None:
    batch, compressor = mllama.prompt(RAGGED), ByNorm()
    with mllama.patch(compressor):
        ids = mllama.generate(batch, num_beams=3)
        assert compressor.calls == 3
        mllama.generate(batch, use_cache=False)
        assert compressor.calls == 6  # not again at each step
        for row in range(2):
            assert torch.equal(ids[row, -6:], mllama.generate(mllama.alone(RAGGED, row), num_beams=3)[0, -6:])


def test_text_that_may_see_dropped_states_alone_sees_no_image(mllama: Case) -> None:
    """A mask of the caller's own that shows one tile, of which nothing is left: as the model does without an image."""
    batch = mllama.prompt(ONE)
    seen = batch.inputs["cross_attention_mask"].clone()
    seen[..., 1] = 0  # the second of two tiles
    hidden = Prompt({**batch.inputs, "cross_attention_mask": seen}, batch.images)
    blind = Prompt({**batch.inputs, "cross_attention_mask": torch.zeros_like(seen)}, batch.images)
    with mllama.patch(_Last(4)):
        close(mllama.forward(hidden).logits, mllama.forward(blind).logits)


class _Last(TokenCompressor):
    """Keeps the last tokens."""

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        b, n, _ = vision_tokens.shape
        return Compressed.select(vision_tokens, torch.arange(n - self.output_length(n), n).expand(b, -1))


# context, learning, life


class _Listening(Spread):
    needs = frozenset({"text"})

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.heard += context["text_mask"].sum(1).tolist()
        return super().compress(vision_tokens, **context)


class _Ranking(Spread):
    needs = frozenset({"importance"})


@pytest.mark.parametrize("unit", ["image", "tile"])
def test_the_question_is_the_text_after_the_image(mllama: Case, unit: str) -> None:
    compressor = _Listening()
    with mllama.patch(compressor, unit=unit):
        mllama.forward(mllama.prompt(TWO))
        assert sorted(compressor.heard) == ([2, 5] if unit == "image" else [2, 5, 5])
        batch = mllama.prompt(TWO)
        ids = batch.ids.clone()
        ids[batch.ids == 10] = torch.tensor([10, START])
        with pytest.raises(tokscale.UnsupportedInputError, match="hold 1 image placeholders, the call holds 2 images"):
            mllama.forward(Prompt({**batch.inputs, "input_ids": ids}, batch.images))


def test_the_loss_reaches_compressor_and_tower(mllama: Case) -> None:
    batch, mixer = mllama.prompt(TWO), Mixer(64, torch.float64)
    tower = mllama.model.model.vision_model.patch_embedding.weight
    with mllama.patch(mixer) as handle:
        loss = mllama.model(**batch.inputs, labels=batch.ids).loss
        first, second = torch.autograd.grad(loss, [mixer.queries, tower])
        assert not handle.last.images[0].assignment.requires_grad
    assert first[:3].abs().max() > 0 and second.abs().max() > 0
    assert torch.isfinite(first).all() and torch.isfinite(second).all()


def test_two_copies_two_budgets(mllama: Case) -> None:
    batch = mllama.prompt(TWO)
    with mllama.patch(num_tokens=3) as handle:
        twin = copy.deepcopy(mllama.model)
        theirs = twin.__dict__["forward"].state
        theirs.num_tokens = 9
        with torch.no_grad():
            twin(**batch.inputs)
        assert handle.last is None and [image.k for image in theirs.last.images] == [9, 9]
        with handle.paused():
            close(mllama.forward(batch).logits, mllama.forward(batch).logits, 0)
        assert handle.last is None


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"positions": "original"}, 'positions="original": mllama reads images by cross-attention'),
    ({"positions": "compact"}, 'positions="compact": mllama reads images by cross-attention'),
    ({"unit": "frame"}, 'unit="frame": mllama takes no videos of its own'),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_what_has_no_meaning_is_refused(mllama: Case, options: dict[str, Any], message: str) -> None:
    with pytest.raises(tokscale.ArgumentError, match=message):
        mllama.patch(**options)


def test_what_cannot_be_done_is_refused(mllama: Case) -> None:
    batch = mllama.prompt(TWO)
    with pytest.raises(tokscale.UnsupportedModelError, match="importance cannot be mapped to its tokens"):
        mllama.patch(_Ranking())
    with mllama.patch() as handle:
        with pytest.raises(tokscale.ArgumentError, match="mllama takes no mm_encoder_outputs"):
            handle.encode(**batch.inputs)
        with pytest.raises(tokscale.UnsupportedInputError, match="mllama takes no mm_encoder_outputs"):
            mllama.forward(batch, mm_encoder_outputs={"image": 1})
        cache = mllama.forward(batch, use_cache=True).cache
        with pytest.raises(tokscale.UnsupportedInputError, match="a cache of 9 tokens and images in one call"):
            mllama.forward(batch, cache=cache)
        embeds = {k: v for k, v in batch.inputs.items() if k != "input_ids"}
        embeds["inputs_embeds"] = mllama.model.get_input_embeddings()(batch.ids)
        with pytest.raises(tokscale.UnsupportedInputError, match="pass input_ids"):
            mllama.model(**embeds)
        handle.num_tokens = [3]
        with pytest.raises(tokscale.BudgetError, match="holds 1 budgets, the call holds 2 images"):
            mllama.forward(batch)
    assert tokens_of(batch.inputs["aspect_ratio_mask"][0], PER_TILE)[1][0] == 4 * PER_TILE  # tiles that fill up count


def test_profile_times_the_tower_and_the_compressor_apart(mllama: Case) -> None:
    inputs = mllama.prompt(TWO).inputs
    found = tokscale.profile(mllama.model, ["uniform"], inputs, budgets=[3], repeats=2, warmup=1, new_tokens=0)
    plain, short = found.rows
    assert plain["vision_ms"] > 0 and short["compress_ms"] > 0 and short["prefill_ms"] > 0
    assert plain["prompt_tokens"] == short["prompt_tokens"] == inputs["input_ids"].shape[1]
    assert short["native_tokens"] == 1.5 * PER_TILE and short["num_tokens_kept"] == 3
    assert short["kv_cache_mib"] < plain["kv_cache_mib"] and short["prefill_tflop"] < plain["prefill_tflop"]
    assert plain.get("prefill_tflop_closed_form") is None
