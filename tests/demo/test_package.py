"""What lies in the package: safetensors and JSON, small, with the numbers that were measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from tokscale import demo
from tokscale.demo.model import FOLDER
from tokscale.scaling import wilson_interval


def test_files():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 5e6
    own = {"config.json", "generation_config.json", "model.safetensors", "processor_config.json"}
    assert own | {"tokenizer.json", "tokenizer_config.json", "recipe.json"} == {
        p.name for p in FOLDER.iterdir() if p.is_file()
    }
    for name in ("fuser_question", "fuser_blind"):
        assert {path.name for path in (FOLDER / name).iterdir()} == {"config.json", "model.safetensors"}
        assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) < 1e6
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F32"}  # noqa: SIM118


def test_no_path_of_the_machine_is_in_the_json():
    for path in FOLDER.rglob("*.json"):
        assert "/tmp/" not in path.read_text() and "/home/" not in path.read_text()


def test_recorded_accuracies():
    recipe = json.loads((FOLDER / "recipe.json").read_text())["model"]
    assert recipe["recipe"]["seed"] == 0 and recipe["parameters"] == 281_984
    measured = recipe["measured"]
    assert measured["split"] == "test"
    for kind in ("cell", "row", "count", "most"):
        score = measured[kind]
        assert score["n"] >= 2048 and score["accuracy"] == pytest.approx(score["correct"] / score["n"], abs=1e-4)
        assert score["wilson95"] == pytest.approx(wilson_interval(score["correct"] / score["n"], score["n"]), abs=1e-4)
    assert measured["cell"]["accuracy"] >= 0.95
    assert max(measured["cell_black_picture"]["accuracy"], measured["cell_foreign_picture"]["accuracy"]) < 0.25


def test_the_recorded_accuracy_is_that_of_the_packaged_weights(packaged):
    """The first questions of the recorded draw, whose whole accuracy stands in the recipe: four standard errors."""
    measured = json.loads((FOLDER / "recipe.json").read_text())["model"]["measured"]
    score, n = measured["cell"]["accuracy"], 384
    again = demo.evaluate(*packaged, demo.samples(n, seed=measured["seed"]))
    assert abs(again.accuracy - score) <= 4 * (score * (1 - score) / n) ** 0.5 + 1 / n


def test_importing_the_demo_imports_neither_torch_nor_transformers():
    code = "import sys, tokscale.demo; print(sorted({'torch', 'transformers', 'sklearn', 'PIL'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_public_names():
    assert demo.__all__ == sorted(demo.__all__)
    assert all(callable(getattr(demo, name)) for name in demo.__all__)
    assert set(demo.__all__) <= set(dir(demo))
    with pytest.raises(AttributeError, match="no attribute 'question'"):
        demo.question  # noqa: B018
