"""From patches to tokens in every family of the table: a feature depends on the patches that the map gives it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

import tokscale
from tests.families.tiny import model_types
from tests.hf.derivative import PROBES, Tower, by_definition, observe, supports
from tests.hf.helpers import forget
from tests.hf.notes import Notes
from tokscale.hf import families
from tokscale.hf.attention import _layers, _towers
from tokscale.hf.features import field_of, flatten
from tokscale.hf.host import examine
from tokscale.hf.shapes import TABLES
from tokscale.hf.twin import Twin
from tokscale.hf.twin.build import build, features, written

BROKEN = {"llama4"}  # of these the tower alone runs in this version of transformers
MERGED_INSIDE = {"minicpmv4_6", "minicpmv4_7"}  # after a layer that a tiny tower does not have


def tiny(kind: str) -> Any:
    return build(kind, CONFIG_MAPPING[kind](insert_layer_id=0) if kind in MERGED_INSIDE else None)


@pytest.mark.parametrize("kind", families.IMPORTANCE)
def test_map(kind: str) -> None:
    """Two pictures, of two shapes where the family takes them: what is noted, and the grid, against the derivative."""
    check_map(kind, tiny(kind))


@pytest.mark.parametrize("tower", ["pixtral", "siglip_vision_model"])
def test_map_of_another_tower(tower: str) -> None:
    """The map belongs to the family, [CLS] and packing to the tower."""
    whole = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    check_map("llava", build("llava", CONFIG_MAPPING["llava"](vision_config=CONFIG_MAPPING[tower](), **whole)))


def check_map(kind: str, model: Any) -> None:
    twin = Twin(model, kind)
    inputs, compressor = twin.prompt([2]), Notes({"importance", "keys"}, {"grid"})
    pixels = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    unit = "tile" if families.has_markers(kind) else "image"
    with torch.no_grad(), tokscale.patch(twin.model, compressor, unit=unit) as handle:
        encoded = handle.encode(**inputs)
        if kind not in BROKEN:
            twin.model(**{**inputs, **_decoder(twin)}, mm_encoder_outputs=encoded)
            record = handle.last.images
    flat, _ = flatten(getattr(encoded["image"], field_of(encoded["image"])))
    assert torch.equal(flat, torch.cat(features(twin.model, pixels)))  # bitwise what is encoded without a tap
    seen = check_noted(twin.model, pixels, "image", encoded)
    if kind not in BROKEN | families.NO_GRID:
        check_grid(kind, twin, inputs, record, seen)


def check_noted(model: Any, pixels: dict[str, Tensor], modality: str, encoded: Any, cls: int | None = None) -> Tower:
    """What was noted of a few tokens is what the definition says; returns what the definition saw."""
    for tower in _towers(examine(model)):
        seen = observe(model, _layers(tower), tower, pixels, modality)
        if any(seen.hidden):
            break
    probes = sorted({round(i * (len(seen.features) - 1) / (PROBES - 1)) for i in range(PROBES)} | {1, 2})
    for what, theirs in by_definition(seen, probes, cls=cls).items():
        ours = encoded.noted[what][modality]
        assert ours.dtype == torch.float32 and len(ours) == len(seen.features) and theirs.std() > 0
        torch.testing.assert_close(ours[probes].double(), theirs.double(), rtol=1e-4, atol=1e-6)
    return seen


def _decoder(twin: Twin) -> dict[str, Tensor]:
    return {"decoder_input_ids": torch.full((1, 2), 50)} if twin.encoder_decoder else {}


def check_grid(kind: str, twin: Twin, inputs: dict[str, Any], record: Any, seen: Tower) -> None:
    """Rows are rows: the next token of a row reads the next patches, the next row those below; so do positions."""
    (h, w), n = record[0].grid, record[0].n
    assert h * w == n and all(image.grid is not None for image in record)
    told = any(name in inputs for name in ("image_grid_thw", "image_position_ids", *TABLES["image"]))
    side = 1 if families.IMPORTANCE[kind] == "same" else 2
    shapes = [(6 // side, 8 // side), (4 // side, 6 // side)]
    assert [image.grid for image in record] == (shapes if told else [(h, h), (h, h)])
    if families.IMPORTANCE[kind] in ("same", "raster"):
        first = [rows.nonzero()[:, 0] for rows in supports(seen, seen.read, list(range(n)))]
        side = round(len(first[0]) ** 0.5)
        for token, patches in enumerate(first):
            r, c = divmod(token, w)
            block = torch.arange(side)[:, None] * w * side + torch.arange(side)
            assert torch.equal(patches - first[0][0], block.flatten() + (r * w * side + c) * side)
    elif (rope := examine(twin.model).rope) is not None:
        forget(twin.model)
        names = ("attention_mask", "image_grid_thw", "mm_token_type_ids", "moe_mm_token_type_ids")
        axes = rope(inputs["input_ids"], **{k: v for k, v in inputs.items() if k in names})[0]
        here = axes[-2:, 0, (inputs["input_ids"][0] == 10).nonzero()[:n, 0]]
        places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
        assert torch.equal(here - here.min(), places)


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_padding_that_makes_tokens(kind: str) -> None:
    """A picture that fills half of its square: the other half makes tokens too, and receives nothing."""
    model = build(kind)
    pixels = {**written(model, kind, 0).pixels, "pixel_attention_mask": torch.ones(1, 1, 48, 48, dtype=torch.bool)}
    pixels["pixel_attention_mask"][..., 32:, :] = False
    with torch.no_grad(), tokscale.patch(model, Notes({"importance", "keys"})) as handle:
        encoded = handle.encode(**pixels)
    received = encoded.noted["importance"]["image"]
    assert (received[:6] > 0).all() and not received[6:].any()
    check_noted(model, pixels, "image", encoded)


def video_of(kind: str, model: Any, frames: int) -> dict[str, Tensor]:
    """A video of frames of 4 x 6 patches where the family takes any shape."""
    pictures = [written(model, kind, 1 + 3 * i).pixels for i in range(frames)]
    axis = -1 if kind == "minicpm_ocr" else 0
    pixels = torch.cat([next(iter(picture.values())) for picture in pictures], axis)
    if kind == "video_llava":
        return {"pixel_values_videos": pixels[None]}
    if kind == "nemotron_h_omni":  # pairs of frames stand one behind the other
        return {"pixel_values_videos": torch.randn(1, frames, 6, 32, 48, dtype=torch.float64)}
    names = {
        "gemma4": ("image_position_ids", "video_position_ids"),
        "minicpm_ocr": ("target_sizes", "target_sizes_videos"),
    }
    if kind not in names:
        return {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([[frames, 4, 6]])}
    old, new = names[kind]
    video = {"pixel_values_videos": pixels, new: torch.cat([picture[old] for picture in pictures])}
    return {**video, "num_frames_per_video": torch.tensor([frames])} if kind == "gemma4" else video


# a sequence per frame; windows in each; one per video; blocks of 2 x 2; frames told one by one; by their pixels alone;
# another tower, of whose [CLS] a token is made
@pytest.mark.parametrize(
    "kind",
    [
        "qwen3_vl",
        "qwen2_5_vl",
        "minimax_m3_vl",
        "muse_glimmer",
        "gemma4",
        "minicpm_ocr",
        "nemotron_h_omni",
        "video_llava",
    ],
)
def test_map_of_a_video(kind: str) -> None:
    model = build(kind)
    video = video_of(kind, model, 3)
    with torch.no_grad(), tokscale.patch(model, Notes({"importance", "keys"})) as handle:
        encoded = handle.encode(**video)
    check_noted(model, video, "video", encoded, cls=0 if kind == "video_llava" else None)


def test_two_towers_that_attend_in_two_ways() -> None:
    model = build("video_llava")
    model.model.video_tower.set_attn_implementation("eager")
    pixels = {"pixel_values_images": written(model, "video_llava", 0).pixels["pixel_values_images"]}
    video = video_of("video_llava", model, 2)
    with torch.no_grad(), tokscale.patch(model, Notes({"importance"})) as handle:
        noted = handle.encode(**pixels, **video).noted["importance"]
    assert len(noted["image"]) == 36 and len(noted["video"]) == 2 * 37


@pytest.mark.parametrize(("kind", "tokens"), [("kimi_k25", 6), ("ernie4_5_vl_moe", 12)])
def test_tokens_of_several_frames_are_refused(kind: str, tokens: int) -> None:
    """A token of all frames, or of two: its patches are not next to one another, and no map is made up."""
    model = build(kind)
    says = pytest.raises(tokscale.errors.UnsupportedModelError, match=rf"\(96 patches, {tokens} tokens\)")
    with tokscale.patch(model, Notes({"importance"})) as handle, says:
        handle.encode(**video_of(kind, model, 4))


def test_every_model_type_has_a_map_or_a_reason() -> None:
    known = [set(families.IMPORTANCE), set(families.NO_IMPORTANCE), set(families.REFUSED)]
    assert sum(map(len, known)) == len(set().union(*known))
    assert set(model_types()) <= set().union(*known)
    queries = {kind for kind, why in families.NO_IMPORTANCE.items() if "queries" in why}
    assert queries <= families.NO_GRID  # a square number of queries is no square


@pytest.mark.parametrize("kind", ["llava_next", "aria", "perception_lm", "fuyu", "hy_v4_vl"])
def test_a_family_without_a_map_says_why(kind: str) -> None:
    text = f"{kind}: importance cannot be mapped to its tokens ({families.NO_IMPORTANCE[kind]}); choose a method that"
    with pytest.raises(tokscale.errors.UnsupportedModelError) as told:
        tokscale.patch(build(kind), Notes({"importance"}))
    assert str(told.value) == f"{text} needs none"
