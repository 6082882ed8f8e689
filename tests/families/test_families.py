"""Every model type of transformers' image-text mapping: the short contract always, the whole matrix in `make slow`."""

from __future__ import annotations

import inspect
import pathlib
import re
import warnings

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

import tokscale
from tests.families.case import K, case
from tests.families.compressed import subset
from tests.families.generation import own_loop
from tests.families.matrix import run
from tests.families.prompts import TWO
from tests.families.tiny import model_types
from tokscale.hf import check_model
from tokscale.hf.families import REFUSED
from tokscale.hf.host import PIXELS

BROKEN = {"llama4": "no attribute 'image_outputs'"}  # unpatched, every forward raises in some versions of transformers
SUPPORTED = [kind for kind in model_types() if kind not in REFUSED and kind not in BROKEN]


def test_eighty_of_a_hundred() -> None:
    assert len(SUPPORTED) >= 0.8 * len(model_types())


@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_contract_holds(kind: str) -> None:
    found = check_model(CONFIG_MAPPING[kind]())
    assert found["ok"], [check for check in found["checks"] if check["status"] not in ("ok", "skipped")]
    statuses = {check["name"]: check["status"] for check in found["checks"]}
    for name in ("seam found", "runs unpatched", "identity at a full budget", "exactly k tokens", "backward"):
        assert statuses[name] == "ok"


@pytest.mark.parametrize("kind", sorted(set(REFUSED) & set(model_types())))
def test_a_refusal_says_why(kind: str) -> None:
    config = PreTrainedConfig()
    config.model_type = kind  # not every type has a configuration without arguments
    (check,) = check_model(config)["checks"]
    assert check["status"] == "refused" and check["detail"].startswith(f"{kind}: ")


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_what_does_not_run_unpatched_is_said_to(kind: str) -> None:
    """Where it runs, the contract holds."""
    found = check_model(CONFIG_MAPPING[kind]())
    if not found["ok"]:
        assert found["checks"][-1]["name"] == "runs unpatched"
        assert BROKEN[kind] in found["checks"][-1]["detail"]


def test_the_page_names_every_family() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:\| |- )([\w.-]+)(?= \||: )", page, flags=re.M))
    assert set(model_types()) <= named


def test_a_loop_of_the_callers_own_where_forward_forgets_its_delta() -> None:
    """hunyuan_vl counts columns once it has a cache: the positions of a shortened prompt go on from where they were."""
    own_loop(case("hunyuan_vl"))


@pytest.mark.parametrize("kind", sorted({"exaone4_5", "hyperclovax_vision_v2"} & set(model_types())))
def test_original_positions_are_refused_where_generate_drops_them(kind: str) -> None:
    with pytest.raises(tokscale.ArgumentError, match=f'positions="original": {kind} passes no position ids'):
        tokscale.patch(case(kind).model, "uniform", num_tokens=3, positions="original")


def test_pixels_by_every_name_that_forward_has() -> None:
    """fuyu: `get_image_features` takes pixel_values, `forward` image_patches, and in some versions both."""
    one = case("fuyu")
    batch = one.prompt(TWO)
    (given,) = set(batch.inputs) & set(PIXELS["image"])
    logits = []
    for name in set(PIXELS["image"]) & set(inspect.signature(one.model.forward).parameters):
        inputs = {name if k == given else k: v for k, v in batch.inputs.items()}
        with one.patch() as handle, torch.no_grad():
            logits.append(one.model(**inputs).logits)
            assert [image.k for image in handle.last.images] == [K, K]
    assert all(torch.equal(each, logits[0]) for each in logits)


def test_deepstack_in_pairs_of_layer_and_container() -> None:
    subset(case("granite4_vision"))


def test_an_entry_per_token_is_no_image() -> None:
    one = case("inkling_mm_model")
    with one.patch() as handle:
        one.forward(one.prompt(TWO))
        assert [image.k for image in handle.last.images] == [K, K]


@pytest.mark.parametrize(("unit", "kept"), [("image", [K]), ("frame", [K, K])])
def test_a_model_that_reads_videos_alone(unit: str, kept: list[int]) -> None:
    """instructblipvideo calls its frames pixel_values: a video is all of them, or each frame is one."""
    one = case("instructblipvideo")
    batch = one.prompt([[3, "image", 4]])
    with one.patch(unit=unit) as handle:
        logits = one.forward(batch).logits
        assert [(image.modality, image.k) for image in handle.last.images] == [("video", k) for k in kept]
        assert handle.last.images[0].grid is None and sum(image.n for image in handle.last.images) == 12
        ready = {"video": handle.encode(**batch.inputs)["video"]}
        assert torch.equal(one.forward(batch, mm_encoder_outputs=ready).logits, logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_whole_matrix(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run(kind)
    assert found["build"].startswith("ok")
    assert not [f"{name}: {value}" for name, value in found.items() if str(value).startswith("FAIL")]
