"""Videos through `get_video_features`: representatives of each way of writing and encoding them, and what is refused.

Every family with videos stands in the slow matrix (`tests/families/video.py`), by the same checks.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokscale
from tests.families import video
from tests.families.case import K, Spread, case
from tests.families.compressed import first_two, subset
from tests.families.generation import batch
from tests.families.prompts import ONE, TWO
from tests.families.unchanged import keep_all
from tests.families.video import VideoCase
from tests.tiny_models import IMAGE, VIDEO
from tokscale import UnsupportedInputError
from tokscale.hf.host import PIXELS
from tokscale.hf.videos import Unit, grids, units

BOXES: dict[str, list[Any]] = {  # grids of two videos, and of their groups
    "qwen2_5_vl": [(2, 3, 4), (4, 2, 3), *[(3, 4)] * 2, *[(2, 3)] * 4],
    "qwen3_vl": [(2, 3, 4), (4, 2, 3), *[(3, 4)] * 2, *[(2, 3)] * 4],
    "glm4v": [(2, 3, 4), (4, 2, 3), *[(3, 4)] * 2, *[(2, 3)] * 4],
    "ernie4_5_vl_moe": [(1, 3, 4), (2, 2, 3), (3, 4), *[(2, 3)] * 2],  # its encoder joins two groups
    "llava_next_video": [*[(3, 3, 3)] * 2, *[(3, 3)] * 6],
    "llava_onevision": [None, None, *[(3, 3), (3, 3), None] * 2],  # a newline behind the last frame
    "video_llava": [None] * 8,  # a class token before each frame
    "perception_lm": [*[(3, 6, 6)] * 2, *[(6, 6)] * 6],
    "molmo2": [(2, 3, 3), (4, 3, 3), *[(3, 3)] * 6],
}
_CASES: dict[str, Any] = {}


def filmed(kind: str) -> Any:
    if kind not in _CASES:
        made = case(kind)
        _CASES[kind] = VideoCase(made.family, made.model, made.batch)
    return _CASES[kind]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "llava_next_video", "video_llava"])
def test_a_video_is_shortened_as_an_image_is(kind: str) -> None:
    of = filmed(kind)
    for check in (subset, first_two, video.onward, video.recorded, video.frames):
        check(of)
    video.both(video.MixedCase(of.family, of.model, of.batch))


@pytest.mark.parametrize("kind", ["qwen3_vl", "llava_onevision"])
def test_a_padded_batch_of_videos_is_the_rows_alone(kind: str) -> None:
    batch(filmed(kind))


@pytest.mark.parametrize("kind", ["glm4v", "video_llama_3", "ernie4_5_vl_moe", "perception_lm"])
def test_placeholders_of_another_kind(kind: str) -> None:
    """Image ids between video markers; a mask that drops features in the model; groups joined by the encoder; the
    method for images, and features handed over ready."""
    for check in (keep_all, subset, video.onward, video.frames):
        check(filmed(kind))


@pytest.mark.parametrize("kind", BOXES)
def test_grids(kind: str) -> None:
    of, found = filmed(kind), []
    for unit in ("image", "frame"):
        with of.patch(unit=unit) as handle:
            of.forward(of.prompt(TWO))
            found += [image.grid for image in handle.last.images]
    assert found == BOXES[kind]


def test_a_mask_of_the_call_may_leave_frames_of_unlike_length() -> None:
    of = filmed("video_llama_3")
    full, mask = of.prompt(ONE), torch.tensor([True] * 12 + [False] * 7 + [True] * 5)
    columns = full.images[0][0]
    kept = columns[:5]  # 22 placeholders become 17
    keep = torch.ones(full.ids.shape[1], dtype=torch.bool)
    keep[kept] = False
    inputs = {k: v[:, keep] if v.shape == full.ids.shape else v for k, v in full.inputs.items()}
    inputs["video_compression_mask"] = mask
    with torch.no_grad():
        before = of.model(**inputs).logits
        with of.patch(unit="frame", num_tokens=7) as handle:
            of.model(**inputs)
            assert [(image.n, image.k, image.grid) for image in handle.last.images] == [(12, 7, None), (5, 5, None)]
            handle.num_tokens = 12
            assert torch.equal(of.model(**inputs).logits, before)
        with of.patch() as handle, pytest.raises(UnsupportedInputError, match="video_compression_mask has 23 entries"):
            of.model(**{**inputs, "video_compression_mask": mask[1:]})


def test_a_video_in_pieces_needs_frames() -> None:
    of = filmed("kimi_k25")
    inputs = of.prompt(TWO)
    with of.patch(unit="image"), pytest.raises(UnsupportedInputError, match=r'in pieces.*pass unit="frame"'):
        of.forward(inputs)
    with of.patch(unit="frame") as handle:
        of.forward(inputs)
        assert [(image.n, image.k, image.grid) for image in handle.last.images] == [(12, K, (3, 4)), (6, K, (2, 3))]


def test_what_cannot_be_shortened_is_refused() -> None:
    video.refused(case("llava"), "it has no method of its own that encodes one (get_video_features)")
    pruning, newline = case("nemotron_h_omni"), case("llava_onevision")
    pruning.model.config.video_pruning_rate = 0.5
    video.refused(pruning, "it drops video tokens itself (video_pruning_rate=0.5)")

    class Older(type(newline.model.model)):  # type: ignore[misc]
        def get_video_features(self, pixel_values: torch.Tensor, **more: Any) -> Any:
            return super().get_video_features(pixel_values, **more)

    newline.model.model.__class__ = Older
    newline.model.__class__ = type("Outer", (type(newline.model),), {"get_video_features": Older.get_video_features})
    video.refused(newline, "its forward itself adds a newline to a video in this version of transformers")


def test_a_video_without_placeholders() -> None:
    of = filmed("qwen2_5_vl")
    inputs = dict(of.prompt(ONE).inputs)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, 60)
    with of.patch(), pytest.raises(UnsupportedInputError, match=r"no video placeholder \(id 11\)"):
        of.model(**inputs)
    inputs["input_ids"][0, :5] = IMAGE  # the image id stands for a video where there is no other: five of them
    with of.patch(), pytest.raises(UnsupportedInputError, match="hold 5 video placeholders, the model made 24 video"):
        of.model(**inputs)


def test_an_image_and_a_video_get_their_own_budgets() -> None:
    of = filmed("qwen3_vl")
    mixed = video.MixedCase(of.family, of.model, of.batch)
    inputs = mixed.prompt([[2, "video", 3, "image", 2]])
    with mixed.patch(num_tokens=[2, 5]) as handle:  # images before videos
        mixed.forward(inputs)
        assert [(image.modality, image.k) for image in handle.last.images] == [("image", 2), ("video", 5)]
        assert int(handle.last.keep[0, inputs.images[0][0]].sum()) == 5


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "perception_lm"])
def test_features_encoded_before_serve_every_budget(kind: str) -> None:
    of = filmed(kind)
    batch = of.prompt(TWO)
    with of.patch() as handle:
        features = handle.encode(**batch.inputs)
        bare = {k: v for k, v in batch.inputs.items() if k != "pixel_values_videos"}
        for budget in (2, 7, 10_000):
            handle.num_tokens = budget
            for inputs in (bare, batch.inputs):  # without and with the pixels
                with torch.no_grad():
                    given = of.model(**inputs, mm_encoder_outputs=features).logits
                assert torch.equal(given, of.forward(batch).logits)


NONE = torch.zeros(1, 0, dtype=torch.bool)


def host(kind: str, **vision: int) -> Any:
    config = SimpleNamespace(vision_config=SimpleNamespace(**vision))
    return SimpleNamespace(model_type=kind, config=config, pixels=PIXELS)


def test_units() -> None:
    grid = {"video_grid_thw": torch.tensor([[3, 2, 4], [1, 2, 4]])}
    runs = torch.tensor([[True, True, True, False, True]])
    assert units(host("video_llava"), "image", {}, [1] * 4, runs) == [Unit(3, 0, 0), Unit(1, 1, 0)]
    assert grids(host("video_llava"), "image", {}, [Unit(4, 0, 0)]) == [None]
    qwen = host("qwen2_5_vl", spatial_merge_size=2)
    assert units(qwen, "image", grid, [6, 2], NONE) == [Unit(6, 0, 3), Unit(2, 1, 1)]
    by_frame = units(qwen, "frame", grid, [6, 2], NONE)
    assert by_frame == [Unit(2, 0, 1)] * 3 + [Unit(2, 1, 1)]
    assert grids(qwen, "frame", grid, by_frame) == [(1, 2)] * 4
    stack = {"pixel_values_videos": torch.zeros(2, 3, 3, 4, 4)}
    assert [unit.n for unit in units(host("llava_onevision"), "frame", stack, [13, 13], NONE)] == [4, 4, 5, 4, 4, 5]
    assert [unit.n for unit in units(host("video_llava"), "image", stack, [4] * 6, NONE)] == [12, 12]
    assert [unit.n for unit in units(host("video_llava"), "frame", stack, [4] * 6, NONE)] == [4] * 6
    with pytest.raises(UnsupportedInputError, match="13 video tokens are no whole number for each of 3 frames"):
        units(host("llava_next_video"), "frame", stack, [13, 12], NONE)
    with pytest.raises(UnsupportedInputError, match='unit="frame" needs video_grid_thw'):
        units(host("llava_next_video"), "frame", {}, [12], NONE)


def test_grids_of_frames_told_one_by_one() -> None:
    told = {"target_sizes_videos": torch.tensor([[4, 6], [4, 6], [4, 6]])}
    minicpm = host("minicpmv4_6")
    assert grids(minicpm, "image", told, [Unit(18, 0, 3)]) == [(3, 2, 3)]
    assert grids(minicpm, "image", told, [Unit(12, 0, 2), Unit(6, 1, 1)]) == [(2, 2, 3), (1, 2, 3)]
    assert grids(minicpm, "frame", told, [Unit(6, i, 1) for i in range(3)]) == [(2, 3)] * 3
    unlike = {"target_sizes_videos": torch.tensor([[4, 6], [6, 4]])}
    assert grids(minicpm, "image", unlike, [Unit(12, 0, 2)]) == [None]
    assert grids(minicpm, "frame", unlike, [Unit(6, 0, 1), Unit(6, 1, 1)]) == [(2, 3), (3, 2)]


def test_the_compressor_is_told_the_box() -> None:
    class Told(Spread):
        uses = frozenset({"grid"})

        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            boxes.append(context.get("grid"))
            return super().compress(vision_tokens)

    boxes: list[Any] = []
    of = filmed("qwen2_5_vl")
    for unit in ("image", "frame"):
        with of.patch(Told(), unit=unit):
            of.forward(of.prompt(ONE))
    assert boxes == [(2, 3, 4), (3, 4)]
