"""`tokscale count`: sizes in, tokens and costs out, without weights."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.hf import processors
from tests.tiny_models import FAMILIES
from tokscale import cost, demo
from tokscale.demo.model import make_config

KEYS = ["source", "width", "height", "native_tokens", "num_tokens", "prefill_tflop", "kv_cache_mib"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that is a configuration and a processor alone."""
    path = tmp_path_factory.mktemp("qwen")
    FAMILIES["qwen2_5_vl"].model().config.save_pretrained(path)
    processors.qwen2_vl().save_pretrained(path)
    return path


def test_the_demo_needs_no_weights(tokscale_run, monkeypatch):
    monkeypatch.setattr(demo, "load", lambda **_: pytest.fail("the model was loaded"))
    code, out, err = tokscale_run("count", "--size", "96x96", "--size", "96x96", "--num-tokens", "16", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    config = make_config()
    assert list(said) == ["schema", "images", "total"] and said["schema"] == 1
    one = dict(zip(KEYS, ["96x96", 96, 96, 144, 16, cost.prefill_flops(config, 16) / 1e12, None]))
    one["kv_cache_mib"] = cost.kv_cache_bytes(config, 16, dtype_bytes=4) / 2**20
    assert said["images"] == [one, one] and list(said["images"][0]) == KEYS
    assert said["total"] == {
        "native_tokens": 288,
        "num_tokens": 32,
        "prefill_tflop": cost.prefill_flops(config, 32) / 1e12,
        "kv_cache_mib": 2 * one["kv_cache_mib"],
    }
    code, out, err = tokscale_run("count", "--size", "96x96")
    head, row = [line.split() for line in out.splitlines() if line.strip() and "─" not in line]
    assert head == ["picture", "size", "native_tokens", "prefill_tflop", "kv_cache_mib"]
    assert row[:3] == ["96x96", "96x96", "144"]
    assert err == "prefill and cache of these vision tokens alone, without the text; 4 bytes a number\n"


def test_pictures_and_sizes_of_a_model_in_a_folder(tokscale_run, folder, tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 6  # taken with the camera on its side
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    Image.new("RGB", (1080, 1920)).save(tmp_path / "b.jpg", exif=lying)
    arguments = ("count", tmp_path / "a.png", tmp_path / "b.jpg", "--size", "512X512", "--model", folder)
    code, out, err = tokscale_run(*arguments, "--json")
    assert (code, err) == (0, "")
    images = json.loads(out)["images"]
    assert [(entry["width"], entry["height"]) for entry in images] == [(640, 480), (1920, 1080), (512, 512)]
    assert [entry["native_tokens"] for entry in images] == [391, 1222, 324]
    assert [entry["num_tokens"] for entry in images] == [None] * 3
    images = json.loads(tokscale_run(*arguments, "--json", "--num-tokens", "400")[1])["images"]
    assert [entry["num_tokens"] for entry in images] == [391, 400, 324]
    code, out, _ = tokscale_run(*arguments, "--num-tokens", "64")
    assert code == 0 and "in one prompt" in out and "num_tokens" in out and str(391 + 1222 + 324) in out


def test_a_decoder_without_a_closed_form_is_counted_all_the_same(tokscale_run, folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["layer_types"] = ["linear_attention"] * 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, err = tokscale_run("count", "--size", "640x480", "--model", tmp_path, "--json")
    (image,) = json.loads(out)["images"]
    assert code == 0 and image["native_tokens"] == 391 and image["prefill_tflop"] is image["kv_cache_mib"] is None
    assert "no closed form for layers of linear_attention; measure it with tokscale.profile" in err
    code, out, _ = tokscale_run("count", "--size", "640x480", "--model", tmp_path)
    assert code == 0 and "prefill_tflop" not in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "ArgumentError: count needs pictures, or their sizes: --size 1920x1080"),
        (("--size", "96"), "ArgumentError: --size 96: expected WIDTHxHEIGHT in pixels, such as 1920x1080"),
        (("--size", "0x3"), "ArgumentError: --size 0x3: expected WIDTHxHEIGHT in pixels"),
        (("--size", "96x96", "--num-tokens", "0"), "BudgetError: --num-tokens must be an integer >= 1, got 0"),
        (("no.png",), "InputError: no.png: no such file"),
        ((".",), "InputError: . is a folder; name a picture"),
        ((__file__,), "is no picture that can be read: cannot identify image file"),
        (
            ("--size", "9x9"),
            "InputError: the demo model reads pictures of 96x96 only, got 9x9; name another by --model",
        ),
        (("--size", "9x9", "--model", "modell"), "InputError: modell does not exist; pass the folder of a saved "),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(tokscale_run, arguments, said):
    code, out, err = tokscale_run("count", *arguments)
    assert (code, out) == (2, "") and said in err and err.startswith("tokscale: ") and err.count("\n") == 1


def test_a_model_without_a_processor_and_a_picture_that_it_cannot_read(tokscale_run, folder, tmp_path):
    FAMILIES["qwen2_5_vl"].model().config.save_pretrained(tmp_path)
    code, _, err = tokscale_run("count", "--size", "9x9", "--model", tmp_path)
    assert code == 2 and f"InputError: {tmp_path} holds a model but no processor; put it beside the model" in err
    code, _, err = tokscale_run("count", "--size", "3000x10", "--model", folder)
    assert code == 2 and "cannot process a picture of 3000x10: ValueError: absolute aspect ratio must be" in err
