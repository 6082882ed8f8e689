from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale import AdaptivePooler, Compressed, CrossAttentionFuser, TokenCompressor
from tokscale.compressors import DivPrune, RandomSampler

HOLDS = "a tokscale compressor folder holds config.json and model.safetensors"


def gated(num_tokens: int = 8) -> AdaptivePooler:
    module = AdaptivePooler(num_tokens, mode="gated", dim=6)
    torch.nn.init.normal_(module.gate.weight)
    return module


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(error: type[Exception], text: str, folder: Any, cls: type[TokenCompressor] = TokenCompressor) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        cls.from_pretrained(folder)
    assert isinstance(caught.value, tokscale.TokscaleError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fuser_comes_back_bitwise(tmp_path: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    fuser = CrossAttentionFuser(8, 16, num_queries=12, num_heads=4).to(dtype).train()
    fuser.num_tokens = 5
    assert fuser.save_pretrained(tmp_path) == str(tmp_path)
    state = torch.get_rng_state()
    loaded = TokenCompressor.from_pretrained(tmp_path)
    assert torch.equal(state, torch.get_rng_state())
    assert type(loaded) is CrossAttentionFuser and not loaded.training and loaded.num_tokens == 5
    assert loaded.num_queries == 12 and loaded.config() == fuser.config()
    for (name, one), (other, two) in zip(fuser.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and one.dtype == two.dtype == dtype and torch.equal(one, two)
    assert all(p.requires_grad for p in loaded.parameters())
    assert capsys.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_config_file(tmp_path: Path) -> None:
    module = gated()
    module.trained = {"budgets": [1, 16], "model_type": "llava", "hidden_size": 6, "base": "org/name", "steps": 20}
    module.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "schema": 1,
        "compressor": "adaptive_pool",
        "tokscale": tokscale.__version__,
        "config": {"num_tokens": 8, "mode": "gated", "dim": 6},
        "dtype": "float32",
        "trained": module.trained,
    }
    assert AdaptivePooler.from_pretrained(tmp_path).trained == module.trained
    card = (tmp_path / "README.md").read_text()
    for part in ("library_name: tokscale", "license: apache-2.0", "base_model: org/name", "# adaptive_pool",
                 'tokscale.TokenCompressor.from_pretrained("PATH_OR_HUB_ID")', "budgets: `[1, 16]`"):  # fmt: skip
        assert part in card


def test_without_weights_there_is_no_weight_file(tmp_path: Path) -> None:
    RandomSampler(3, seed=5).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert TokenCompressor.from_pretrained(str(tmp_path)).config() == {"num_tokens": 3, "seed": 5}


def test_keywords_override(tmp_path: Path) -> None:
    gated().save_pretrained(tmp_path)
    assert TokenCompressor.from_pretrained(tmp_path, num_tokens=3).num_tokens == 3
    with pytest.raises(tokscale.KeywordError, match="adaptive_pool has no keyword 'tokens'; it takes num_tokens, mode"):
        TokenCompressor.from_pretrained(tmp_path, tokens=3)


def test_a_loaded_budget_above_the_trained_ones_raises(tmp_path: Path) -> None:
    module = gated()
    module.trained = {"budgets": [1, 16]}
    module.save_pretrained(tmp_path)
    with pytest.raises(tokscale.BudgetError, match="num_tokens=17 exceeds 16"):
        TokenCompressor.from_pretrained(tmp_path, num_tokens=17)


def test_saving_again_replaces_ours_and_keeps_the_card(tmp_path: Path) -> None:
    module = gated()
    module.save_pretrained(tmp_path)
    loaded = AdaptivePooler.from_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    other = gated()
    other.save_pretrained(tmp_path)
    assert torch.equal(loaded.gate.weight, module.gate.weight)  # not mapped from the file that was replaced
    assert torch.equal(AdaptivePooler.from_pretrained(tmp_path).gate.weight, other.gate.weight)
    assert (tmp_path / "README.md").read_text() == "mine"
    DivPrune(4).save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json"]


def test_another_models_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(
        tokscale.InputError, match=r"holds a config.json that is not a compressor's; save into a folder of"
    ):
        DivPrune(4).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llava"}'
    assert (tmp_path / "model.safetensors").read_bytes() == b"theirs"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(tokscale.InputError, match=r"there' is a file; save_pretrained writes a folder$"):
        DivPrune(4).save_pretrained(tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"


class Callback(TokenCompressor):
    """Takes a keyword that no JSON file can hold."""

    def __init__(self, num_tokens: int, rank: Any = len) -> None:
        super().__init__(num_tokens)
        self.rank = rank

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        return Compressed.select(vision_tokens, torch.arange(self.output_length(vision_tokens.shape[1])))


def test_a_keyword_that_is_no_json_value(tmp_path: Path) -> None:
    with pytest.raises(tokscale.ArgumentError, match="Callback cannot be saved: its keyword 'rank' is <built-in"):
        Callback(3).save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_unregistered_class_is_loaded_by_itself(tmp_path: Path) -> None:
    Callback(3, rank=1).save_pretrained(tmp_path)
    assert Callback.from_pretrained(tmp_path).rank == 1
    refused(KeyError, "unknown compressor 'Callback'.", tmp_path)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    refused(tokscale.InputError, f"no config.json in '{missing}'; {HOLDS}", missing)
    refused(ValueError, f"no config.json in '{tmp_path}'; {HOLDS}", tmp_path)
    refused(ValueError, f"no config.json in './here'; {HOLDS}", "./here")
    gated().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(ValueError, f"no model.safetensors in '{tmp_path}'; {HOLDS}", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    refused(ValueError, "Its pytorch_model.bin is a pickle, which is never read", tmp_path)


def test_an_unknown_hub_id_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: Any, **keywords: Any) -> str:
        assert args == ("someone/nothing", "config.json") and keywords == {"revision": "v1"}
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    text = f"no config.json in 'someone/nothing'; {HOLDS} (no such folder; LocalEntryNotFoundError from the hub)"
    with pytest.raises(tokscale.InputError, match=f"^{re.escape(text)}$"):
        TokenCompressor.from_pretrained("someone/nothing", revision="v1")


def test_a_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    module = gated()
    module.save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name, **keywords: str(tmp_path / name))
    assert torch.equal(TokenCompressor.from_pretrained("someone/pooler").gate.weight, module.gate.weight)


def test_push_to_hub_uploads_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.hub_mixin as mixin

    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: Any = None) -> None: ...

        def create_repo(self, repo_id: str, **keywords: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path: Path, repo_id: str, **keywords: Any) -> str:
            sent.update({path.name: path.read_bytes() for path in folder_path.iterdir()}, repo=repo_id)
            return "commit"

    monkeypatch.setattr(mixin, "HfApi", Api)
    assert gated().push_to_hub("me/pooler") == "commit"
    assert sent["repo"] == "me/pooler" and set(sent) == {"repo", "README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"schema": 2}, "has schema 2; this tokscale reads schema 1. Upgrade tokscale"),
        ({"speed": 1}, "has the unknown key 'speed'; it takes schema, compressor, tokscale, config, dtype, trained"),
        (
            {"config": {"num_tokens": 3, "mod": "mean"}},
            "has the unknown key 'mod'; adaptive_pool takes num_tokens, mode, dim. Did you mean 'mode'?",
        ),
        ({"config": [3]}, "must be an object of keywords, got [3]"),
        (
            {"config": {"num_tokens": 3, "mode": "gated", "dim": 5}},
            "gate.weight has shape (1, 6), but this AdaptivePooler needs (1, 5)",
        ),
        (
            {"config": {"num_tokens": 3, "mode": "projected", "dim": 6}},
            "lacks mlp.0.bias, mlp.0.weight, mlp.2.bias, mlp.2.weight",
        ),
    ],
)
def test_a_config_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    gated().save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    refused(tokscale.InputError, text, tmp_path)


def test_malformed_files(tmp_path: Path) -> None:
    gated().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors at all")
    refused(tokscale.InputError, f"model.safetensors in '{tmp_path}' cannot be read: ", tmp_path)
    (tmp_path / "config.json").write_text("{")
    refused(tokscale.InputError, f"config.json in '{tmp_path}' is no JSON: ", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    refused(ValueError, "is not a compressor's: it needs schema, compressor and config", tmp_path)


def test_another_class_in_the_folder(tmp_path: Path) -> None:
    DivPrune(4).save_pretrained(tmp_path)
    text = f"'{tmp_path}' holds the compressor 'divprune' (DivPrune), not 'adaptive_pool'. Use TokenCompressor.from_"
    refused(tokscale.InputError, text, tmp_path, AdaptivePooler)
    edit(tmp_path, compressor="divprun")
    refused(tokscale.UnknownCompressorError, "unknown compressor 'divprun'. Did you mean 'divprune'?", tmp_path)


def test_what_training_wrote_down_must_be_json(tmp_path: Path) -> None:
    module = tokscale.AdaptivePooler(3)
    module.trained = {"budgets": [1, 3], "loss": float("nan")}
    with pytest.raises(tokscale.ArgumentError, match=r"^AdaptivePooler cannot be saved: its attribute 'trained' is "):
        module.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
