"""`load_model`: a model of a folder, and a mistake that is said at once and in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import FAMILIES
from tokscale.errors import InputError
from tokscale.hf.load import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    FAMILIES["llava"].model().save_pretrained(folder)
    return folder


def test_a_folder_without_a_processor(folder: Path) -> None:
    remedy = f"put it beside the model: processor.save_pretrained({str(folder)!r})"
    with pytest.raises(InputError, match=f"^{re.escape(f'{folder} holds a model but no processor; {remedy}')}$"):
        load_model(folder)
    model, processor = load_model(folder, processor_required=False)
    assert processor is None and not model.training
    same = FAMILIES["llava"].model().state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_a_processor_that_cannot_be_read_says_why(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError) as caught:
        load_model(tmp_path)
    assert re.match(
        rf"{tmp_path} holds a model but no processor that can be loaded \(\w+: .+\); put", str(caught.value)
    )
    assert "\n" not in str(caught.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Be online, with a hub that does not answer; the repositories that it was asked for."""
    import huggingface_hub
    import transformers

    asked: list[str] = []

    def model_info(self: Any, repo_id: str, **keywords: Any) -> None:
        asked.append(repo_id)
        assert keywords["timeout"] <= 5
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    fail = classmethod(lambda *_, **__: pytest.fail("the hub was asked with retries"))
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    return asked


@pytest.mark.parametrize("name", ["modell", "./modell", "out/model/step", "~/modell", "out/", "a b/c", "x\\y"])
def test_a_mistyped_folder_is_never_asked_of_the_hub(asked: list[str], name: str) -> None:
    text = f"{name} does not exist; pass the folder of a saved model, or a hub id such as owner/name"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_model(name)
    assert asked == []


def test_what_may_be_a_hub_id_is_asked_for_once(asked: list[str]) -> None:
    text = "cannot load out/modell: there is no such folder here, and the hub cannot be reached (OSError)"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_model("out/modell")
    assert asked == ["out/modell"]


def test_a_compressor_that_may_be_on_the_hub_too(asked: list[str]) -> None:
    from tokscale import TokenCompressor

    with pytest.raises(InputError, match=r"\(no such folder, and the hub cannot be reached \(OSError\)\)$"):
        TokenCompressor.from_pretrained("out/fuser")
    assert asked == ["out/fuser"]


@pytest.mark.parametrize("known", [True, False])
def test_a_hub_that_answers(monkeypatch: pytest.MonkeyPatch, asked: list[str], known: bool) -> None:
    import huggingface_hub

    from tokscale import _hub

    missed = huggingface_hub.errors.RepositoryNotFoundError

    def missing(self: Any, repo_id: str, **_: Any) -> None:
        if not known:
            raise missed.__new__(missed)  # its own constructor wants an answer of the network library

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", missing)
    said = _hub.not_on_hub("owner/name", "config.json")
    assert said == (None if known else "the hub has no such repository, or shows it to others only")
