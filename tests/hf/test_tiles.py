"""One image of several tiles: joined by a processor's marker ids, or counted run by run with a warning."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tokscale
from tests.hf.helpers import COMPRESSORS, ByNorm, forget, forward, generate, kept_placeholders, reference
from tests.tiny_models import FAMILIES, IMAGE, Prompt, idefics3_processor, prompt

K = 4
TILES = FAMILIES["idefics3_tiles"]  # pictures 0, 1, 2: three tiles, one, three


@pytest.fixture(scope="module")
def model() -> Any:
    return TILES.model()


def runs(batch: Prompt, length: int = 9) -> Prompt:
    """The same batch with each run of placeholders, or each tile in a run, counted as an image."""
    cut = [[c[i : i + length] for c in row for i in range(0, len(c), length)] for row in batch.images]
    return Prompt(batch.inputs, cut)


def test_a_genuine_processor_writes_what_the_tests_write() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    inputs = idefics3_processor()(text=["<image> w50"], images=[[Image.fromarray(noise)]], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == [*TILES.picture(0).ids, 50]
    assert inputs["pixel_values"].shape == TILES.picture(0).pixels["pixel_values"].shape


@pytest.mark.parametrize("kind", list(COMPRESSORS))
def test_a_budget_is_per_image(model: Any, kind: str) -> None:
    batch = prompt(TILES, [[2, "image", 3, "image", "image", 2]])  # three tiles, one, three; the last two touch
    compressor = COMPRESSORS[kind](K)
    with torch.no_grad():
        expected = reference(TILES, model, batch, compressor)
    with tokscale.patch(model, compressor, processor=idefics3_processor()) as handle:
        logits = forward(model, batch.inputs).logits
        assert kept_placeholders(batch, handle.last.keep) == [[K, K, K]]
        assert [image.n for image in handle.last.images] == [27, 9, 27]
        assert bool(handle.last.keep[batch.ids != IMAGE].all())  # markers stay, of emptied tiles too
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=2e-6)


def test_a_processed_picture(model: Any) -> None:
    """From the picture to the ids through the genuine processor, which also gives a pixel mask."""
    from PIL import Image

    noise = np.random.default_rng(1).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    processor = idefics3_processor()
    inputs = dict(processor(text=["w60 <image> w50 w51"], images=[[Image.fromarray(noise)]], return_tensors="pt"))
    with tokscale.patch(model, ByNorm(K), processor=processor) as handle:
        ids = generate(model, inputs)
        assert torch.equal(ids[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
        assert int(handle.last.keep[inputs["input_ids"] == IMAGE].sum()) == K


def test_without_a_processor_each_run_counts_with_one_warning(model: Any) -> None:
    batch = prompt(TILES, [[2, "image", 3, ("image", 1), 2]])
    selector = ByNorm(K)
    with torch.no_grad():
        expected = reference(TILES, model, runs(batch), selector)
    with tokscale.patch(model, selector) as handle:
        with pytest.warns(tokscale.errors.TileWarning, match="processor") as told:
            logits = forward(model, batch.inputs).logits
        assert len(told) == 1
        assert kept_placeholders(batch, handle.last.keep) == [[3 * K, K]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            forward(model, batch.inputs)  # once, not at every call
            generate(model, batch.inputs)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=2e-6)


def test_one_run_in_a_row_is_no_reason_to_warn(model: Any) -> None:
    batch = prompt(TILES, [[2, ("image", 1), 3], [1, ("image", 1), 2]])
    with tokscale.patch(model, ByNorm(K)) as handle:
        forward(model, batch.inputs)
        assert kept_placeholders(batch, handle.last.keep) == [[K], [K]]


@pytest.mark.parametrize("options", [{}, {"processor": idefics3_processor}], ids=["alone", "with a processor"])
def test_asked_for_tiles(model: Any, options: dict[str, Any]) -> None:
    batch = prompt(TILES, [[2, "image", 3, ("image", 1), 2]])
    selector = ByNorm(K)
    with torch.no_grad():
        expected = reference(TILES, model, runs(batch), selector)
    made = {key: make() for key, make in options.items()}
    with tokscale.patch(model, selector, unit="tile", **made) as handle:
        logits = forward(model, batch.inputs).logits
        assert kept_placeholders(runs(batch), handle.last.keep) == [[K, K, K, K]]
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=2e-6)


def test_a_processor_joins_nothing_across_text(model: Any) -> None:
    """Words between two runs: two images, although the first is not closed by a global tile."""
    batch = prompt(TILES, [[2, "image", 2]])
    ids = batch.ids.clone()
    second = batch.images[0][0][9]  # the first placeholder of the second tile; its marker stands before it
    ids[0, second - 2 : second] = torch.tensor([50, 51])
    with tokscale.patch(model, ByNorm(K), processor=idefics3_processor()) as handle:
        forward(model, {**batch.inputs, "input_ids": ids})
        assert [image.n for image in handle.last.images] == [9, 18]


# a family whose tiles are entries of one run


def test_tiles_in_one_run() -> None:
    family = FAMILIES["internvl"]
    model = family.model()
    batch = prompt(family, [[2, "image", 3, "image", 2]])  # one tile; two
    selector = ByNorm(K)
    with torch.no_grad():
        whole = reference(family, model, batch, selector)
        each = reference(family, model, runs(batch), selector)
    with tokscale.patch(model, selector) as handle:  # no processor needed, no warning
        torch.testing.assert_close(forward(model, batch.inputs).logits, whole.logits, rtol=0, atol=2e-6)
        assert [image.n for image in handle.last.images] == [9, 18]
    with tokscale.patch(model, selector, unit="tile") as handle:
        torch.testing.assert_close(forward(model, batch.inputs).logits, each.logits, rtol=0, atol=2e-6)
        assert [image.n for image in handle.last.images] == [9, 9, 9]


@pytest.mark.parametrize(
    ("how", "tiles", "frames"), [("proportional", [K, K, K], [K, K, K]), ("content", [6, 5, 1], [6, 1, 5])]
)
def test_one_budget_shared_by_tiles_and_frames(how: str, tiles: list[int], frames: list[int]) -> None:
    """Units of one row share `K` a unit exactly; those of one colour keep least where content weighs."""
    model, batch = FAMILIES["internvl"].model(), prompt(FAMILIES["internvl"], [[2, "image", 3, "image", 2]])
    batch.inputs["pixel_values"][2] = 0.5
    with tokscale.patch(model, ByNorm(K), unit="tile", allocate=how) as handle:
        forward(model, batch.inputs)
        assert [image.k for image in handle.last.images] == tiles and sum(tiles) == 3 * K
    model, inputs = FAMILIES["qwen2_5_vl"].model(), clip(3)
    inputs["pixel_values_videos"][24:48] = 0.5  # the second of three groups
    with tokscale.patch(model, ByNorm(K), unit="frame", allocate=how) as handle:
        forward(model, inputs)
        assert [image.k for image in handle.last.images] == [K, *frames]  # the picture shares with no frame


# video


def clip(frames: int) -> dict[str, Any]:
    """A qwen2_5_vl row with an image of 12 tokens and a video of `frames` groups of 6, each beside text."""
    generator = torch.Generator().manual_seed(3)
    image, video = [10] * 12, [11] * (6 * frames)
    ids = torch.tensor([[60, 61, 12, *image, 13, 62, 12, *video, 13, 63, 64, 65]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 10).long() + 2 * (ids == 11).long(),
        "pixel_values": torch.randn(48, 384, generator=generator).double(),
        "image_grid_thw": torch.tensor([[1, 6, 8]]),
        "pixel_values_videos": torch.randn(frames * 24, 384, generator=generator).double(),
        "video_grid_thw": torch.tensor([[frames, 4, 6]]),
    }


@pytest.mark.parametrize(("unit", "kept"), [("image", [K, K]), ("frame", [K, K, K, K])])
def test_video(unit: str, kept: list[int]) -> None:
    """A video is one image, or a unit per temporal group; image and video in one row."""
    model = FAMILIES["qwen2_5_vl"].model()
    inputs = clip(3)
    ids = inputs["input_ids"]
    before = forward(model, inputs).logits
    forget(model)
    axes = model.model.get_rope_index(**{k: v for k, v in inputs.items() if "pixel" not in k})[0]
    with tokscale.patch(model, ByNorm(K), unit=unit) as handle:
        handle.num_tokens = 10_000
        assert torch.equal(forward(model, inputs).logits, before)
        handle.num_tokens = K
        seen = {}
        hook = model.model.language_model.register_forward_pre_hook(lambda *a: seen.update(a[2]), with_kwargs=True)
        forward(model, inputs)
        hook.remove()
        keep = handle.last.keep
        assert [image.k for image in handle.last.images] == kept
        assert int(keep[ids == 10].sum()) == K
        assert int(keep[ids == 11].sum()) == sum(kept[1:])
        assert torch.equal(seen["position_ids"][-3:], axes[:, keep].view(3, 1, -1))
        short = generate(model, inputs)
        assert torch.equal(short[:, : ids.shape[1]], ids)
        assert {image.modality for image in handle.last.images} == {"image", "video"}
