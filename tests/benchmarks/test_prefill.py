"""`benchmarks.prefill`: the models run, and what was not measured is a row that says why."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch

import tokscale
from benchmarks import prefill
from benchmarks.kernels.table import read


@pytest.mark.parametrize("name", prefill.MODELS)
def test_a_tiny_model_runs_at_a_budget(name: str) -> None:
    make, _ = prefill.MODELS[name]
    model, inputs = prefill.build(make, torch.device("cpu"), torch.float32, tiny=True)
    batch = inputs(2)
    with torch.no_grad(), tokscale.patch(model, "uniform", num_tokens=36) as handle:
        logits = model(**batch).logits
    placeholders = int((batch["input_ids"][0] == model.config.image_token_id).sum())
    assert [image.k for image in handle.last.images] == [36, 36]
    assert logits.shape[:2] == (2, batch["input_ids"].shape[1] - placeholders + 36)


def run(path: pathlib.Path, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    status = prefill.main(["--tiny", "--dtype", "float32", "--only", "llava-1.5-7b", "--out", str(path), *arguments])
    return status, read(path)


def test_what_there_was_no_time_for(tmp_path: pathlib.Path) -> None:
    status, rows = run(tmp_path / "prefill.csv", "--limit", "-1")
    assert status == 0 and [row["error"] for row in rows] == ["not run: time limit"] * 2


def test_what_fails(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr(tokscale, "profile", fail)
    status, rows = run(tmp_path / "prefill.csv")
    assert status == 1 and [row["error"] for row in rows] == ["RuntimeError: no room"] * 2
