"""`tokscale doctor`: what is here, and whether the contract holds on a model."""

from __future__ import annotations

import json

from transformers import CONFIG_MAPPING


def test_the_environment(tokscale_run):
    code, out, _ = tokscale_run("doctor", "--json")
    document = json.loads(out)
    assert code == 0 and document["ok"] and document["schema"] == 1
    rows = {row["name"]: row["status"] for row in document["checks"]}
    assert rows["torch"] == rows["transformers"] == rows["device"] == "ok" and "triton kernels" in rows
    assert "torch" in tokscale_run("doctor")[1]


def test_the_demo_model(tokscale_run):
    for options in ((), ("--tiny",)):
        code, out, err = tokscale_run("doctor", "--model", "demo", *options, "--json")
        rows = {row["name"]: row["status"] for row in json.loads(out)["checks"]}
        assert code == 0 and rows["restored bit for bit"] == rows["seam found"] == "ok"
        assert "identity at a full budget: ok" in err


def test_a_folder_with_a_configuration_alone(tokscale_run, tmp_path):
    CONFIG_MAPPING["qwen2_5_vl"]().save_pretrained(tmp_path / "qwen")
    code, out, _ = tokscale_run("doctor", "--model", tmp_path / "qwen", "--tiny", "--json")
    assert code == 0 and json.loads(out)["ok"]
    CONFIG_MAPPING["git"]().save_pretrained(tmp_path / "git")
    code, out, _ = tokscale_run("doctor", "--model", tmp_path / "git", "--tiny", "--json")
    assert code == 1 and not json.loads(out)["ok"]
    assert json.loads(out)["checks"][-1]["status"] == "refused"
    code, _, err = tokscale_run("doctor", "--model", tmp_path / "nothing", "--tiny")
    assert code == 2 and "InputError" in err
