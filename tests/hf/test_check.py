"""`check_model`: the contract on a tiny twin of any architecture, the user's own included."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, LlavaConfig, LlavaForConditionalGeneration, LlavaModel

from tokscale import demo
from tokscale.errors import ArgumentError, UnsupportedModelError
from tokscale.hf import check_model
from tokscale.hf.families import REFUSED
from tokscale.hf.twin import twin_of

NAMES = [
    "seam found", "runs unpatched", "identity at a full budget", "exactly k tokens", "cached = uncached",
    "batch = rows alone",
    "video",
    "text alone untouched", "backward", "restored bit for bit",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "qwen3_vl", "idefics3", "paligemma", "florence2"])
def test_the_contract_on_a_twin(kind: str) -> None:
    said: list[str] = []
    found = check_model(CONFIG_MAPPING[kind](), log=said.append)
    assert found["ok"] and found["model_type"] == kind and found["schema"] == 1 and found["tiny"]
    assert [check["name"] for check in found["checks"]] == NAMES and len(said) == len(NAMES)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("kind", ["git", "pix2struct", "idefics"])
def test_a_refusal_is_the_one_of_patch(kind: str) -> None:
    found = check_model(CONFIG_MAPPING[kind]())
    (check,) = found["checks"]
    assert not found["ok"] and check["status"] == "refused" and REFUSED[kind].split(";")[0] in check["detail"]


def test_a_twin_is_like_the_users_own_configuration() -> None:
    config = CONFIG_MAPPING["llava"](vision_feature_layer=-1, image_seq_length=9)
    twin = twin_of(config).model
    assert twin.config.vision_feature_layer == -1 and twin.num_parameters() < 1_000_000


class OddConfig(LlavaConfig):
    model_type = "odd_vlm"


class OddModel(LlavaModel):
    """Features in a tuple of (1, n, d), which no family of transformers returns for this head."""

    config_class = OddConfig

    def get_image_features(self, pixel_values: Any = None, **kwargs: Any) -> Any:
        output = super().get_image_features(pixel_values, **kwargs)
        output.pooler_output = tuple(part[None] for part in torch.cat(list(output.pooler_output)).view(
            len(pixel_values), -1, output.pooler_output[0].shape[-1]
        ))  # fmt: skip
        return output


class OddForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = OddConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = OddModel(config)
        self.post_init()


class Forgetful(OddForConditionalGeneration):
    """Draws its logits anew in each call: nothing can hold on it."""

    def forward(
        self, input_ids: Any = None, pixel_values: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        output = super().forward(input_ids, pixel_values, attention_mask=attention_mask, **kwargs)
        output.logits = output.logits + torch.rand(())
        return output


@pytest.fixture
def tiny_config() -> Any:
    return OddConfig(**{k: v for k, v in twin_of(CONFIG_MAPPING["llava"]()).model.config.to_dict().items()
                        if k != "model_type"})  # fmt: skip


def test_a_family_that_nobody_has_tested(tiny_config: Any) -> None:
    """A user's own architecture, with a container of its own and no row anywhere, passes by the same mechanism."""
    model = OddForConditionalGeneration(tiny_config)
    for tiny in (True, False):
        found = check_model(model, tiny=tiny)
        assert found["ok"], found
        assert found["model_type"] == "odd_vlm" and found["tiny"] is tiny


def test_a_model_on_which_nothing_holds(tiny_config: Any) -> None:
    found = check_model(Forgetful(tiny_config), tiny=False)
    failed = {check["name"] for check in found["checks"] if check["status"] == "fails"}
    assert not found["ok"] and "identity at a full budget" in failed and "restored bit for bit" in failed


def test_the_model_itself() -> None:
    model, _ = demo.load()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert check_model(model, tiny=False)["ok"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and "forward" not in vars(model)


def test_mistakes() -> None:
    with pytest.raises(ArgumentError, match=r"needs a model or a Hugging Face configuration, got Linear|dict"):
        check_model({"model_type": "llava"})
    with pytest.raises(ArgumentError, match="a configuration has no weights to check"):
        check_model(CONFIG_MAPPING["llava"](), tiny=False)
    with pytest.raises(UnsupportedModelError, match="llama: no tiny model can be built of this configuration"):
        check_model(CONFIG_MAPPING["llama"]())
    with pytest.raises(ArgumentError):
        check_model(nn.Linear(2, 2))
