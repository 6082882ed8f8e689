"""Importance and keys under flash attention: the stock function is called as it is, the scores are computed beside it.

No kernel is needed: the stock flash function of transformers runs here over kernels written with matrix products.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers import modeling_flash_attention_utils as flash
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask

import tokscale
from tests.hf.helpers import forward
from tests.hf.notes import Notes
from tests.tiny_models import FAMILIES, prompt
from tokscale.hf.attention import _towers
from tokscale.hf.features import field_of, flatten
from tokscale.hf.host import examine
from tokscale.hf.twin import Twin
from tokscale.hf.twin.build import build

# packed by cu_seqlens: in windows too, with rows that are no patches; padded; pictures of a batch
KINDS = ["qwen2_vl", "qwen2_5_vl", "kimi_k25", "mistral3", "inkling2", "nemotron_h_omni", "lfm2_vl", "gemma4", "llava"]
NAME = "tests_flash"


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax attention of (n, heads, d), flash layout."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    weights = (torch.einsum("qhd,khd->hqk", q, k) * scale).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def whole(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool, dropout_p: float) -> Tensor:
    assert not causal and not dropout_p
    return torch.stack([attend(*each, softmax_scale) for each in zip(q, k, v)])


def packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool,
    dropout_p: float,
) -> Tensor:
    assert not causal and not dropout_p and torch.equal(cu_seqlens_q, cu_seqlens_k)
    parts = zip(*[each.tensor_split(cu_seqlens_q[1:-1].tolist()) for each in (q, k, v)])
    return torch.cat([attend(*each, softmax_scale) for each in parts])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The stock flash function over the kernels above; the names under which kernels were loaded."""
    names: set[str] = set()

    def load(name: str, *_: Any, **__: Any) -> Any:
        names.add(name)
        return whole, packed, None, flash._pad_input, flash._unpad_input

    monkeypatch.setattr(flash, "_lazy_imports", load)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    AttentionInterface.register(NAME, flash_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    return names


def noted(twin: Twin, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.no_grad(), tokscale.patch(twin.model, Notes({"importance", "shallow_importance", "keys"})) as handle:
        encoded = handle.encode(**inputs)
    flat, _ = flatten(getattr(encoded["image"], field_of(encoded["image"])))
    return flat, {what: found["image"] for what, found in encoded.noted.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_flash(kind: str, asked: set[str]) -> None:
    """The same as under SDPA, and features bitwise those that the flash function gives untapped."""
    twin = Twin(build(kind), kind)
    inputs = twin.prompt([2])
    (tower, *_) = _towers(examine(twin.model))
    _, theirs = noted(twin, inputs)
    tower.set_attn_implementation(NAME)
    configs = {id(module): module.config for module in tower.modules() if hasattr(module, "config")}
    features, ours = noted(twin, inputs)
    assert asked == {NAME}  # the stock function reads its own name, tapped too
    assert tower.config._attn_implementation == NAME
    assert all(module.config is configs[id(module)] for module in tower.modules() if hasattr(module, "config"))
    for what, value in theirs.items():
        assert value.std() > 0
        torch.testing.assert_close(ours[what], value, rtol=1e-4, atol=1e-6)
    with torch.no_grad(), tokscale.patch(twin.model, Notes()) as handle:
        plain = handle.encode(**inputs)["image"]
    assert torch.equal(features, flatten(getattr(plain, field_of(plain)))[0])


def test_positions_that_start_again() -> None:
    """Sequences packed without bounds: their positions say where each begins."""
    from tokscale.hf.tap import _ends

    query = torch.zeros(1, 2, 7, 4)
    places = torch.tensor([[0, 1, 2, 0, 1, 0, 1]])
    assert _ends(query, {"position_ids": places}, flash=True) == [3, 5, 7]
    assert _ends(query, {"position_ids": torch.arange(7)[None]}, flash=True) == []
    assert _ends(query, {"position_ids": places}, flash=False) == []


def test_other_backends_are_refused() -> None:
    family = FAMILIES["llava"]
    model = family.model()
    AttentionInterface.register("tests_other", lambda *a, **k: None)
    model.model.vision_tower.set_attn_implementation("tests_other")
    text = "llava: importance is not collected under tests_other attention; load the model with attn_implementation="
    with tokscale.patch(model, Notes({"importance"})), pytest.raises(tokscale.errors.UnsupportedModelError) as told:
        forward(model, prompt(family, [[3, "image", 4]]).inputs)
    assert str(told.value) == text + '"sdpa"'
