"""`cost` against PyTorch's operation counter and against a real cache, on tiny models; its refusals, word for word."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma3TextConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tokscale import cost
from tokscale.errors import ArgumentError, UnsupportedModelError

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llava(vision=CLIPVisionConfig):
    tower = vision(
        hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, image_size=48, patch_size=8
    )
    text = Qwen2Config(vocab_size=59, head_dim=16, bos_token_id=1, eos_token_id=2, pad_token_id=0, **TEXT)
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default" if vision is CLIPVisionConfig else "full",
    )
    config._attn_implementation = "eager"  # PyTorch's counter has no formula for the fused CPU kernel of SDPA
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def run(model, n, words, **kwargs):
    ids = torch.tensor([[1] + [4] * n + [5] * (words - 1)])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model.language_model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=True)
        logits = model.lm_head(out.last_hidden_state[:, -1:] if kwargs.get("last", True) else out.last_hidden_state)
    return counter.get_total_flops(), getattr(out, "cache", None) or out.past_key_values, logits


@pytest.fixture(scope="module")
def model():
    whole = llava()
    whole.language_model = whole.model.language_model
    return whole


@pytest.mark.parametrize("n", [0, 1, 17, 36])
@pytest.mark.parametrize("last", [True, False])
def test_prefill_flops_are_those_of_the_counter(model, n, last):
    counted, _, _ = run(model, n, 5, last=last)
    closed = cost.prefill_flops(model.config, n, text_tokens=5, logits_to_keep=1 if last else None)
    assert counted == closed


def test_kv_cache_bytes_are_those_of_the_cache(model):
    _, cache, _ = run(model, 17, 5)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == cost.kv_cache_bytes(model.config, 17, text_tokens=5, dtype_bytes=4)
    assert cost.kv_cache_bytes(model.config, 17, text_tokens=5, batch_size=3) == 3 * held / 2


def test_a_sliding_window_bounds_the_cache():
    config = Gemma3TextConfig(vocab_size=59, head_dim=16, sliding_window=8, **TEXT)
    config.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    config._attn_implementation = "eager"
    decoder = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        out = decoder(input_ids=torch.arange(3, 23)[None], use_cache=True)
    cache = getattr(out, "cache", None) or out.past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == cost.kv_cache_bytes(config, 20, dtype_bytes=4)


@pytest.mark.parametrize("vision", [CLIPVisionConfig, SiglipVisionConfig])
def test_vision_flops_are_those_of_the_counter(vision):
    model = llava(vision)
    tower = model.model.vision_tower
    if vision is SiglipVisionConfig:
        tower.use_head = False  # the pooling head does not feed the language model, and is not in the formula
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tower(torch.zeros(2, 3, 48, 48))
    assert counter.get_total_flops() == cost.vision_flops(model.config, images=2)


def test_a_dict_and_a_partial_are_taken(model):
    price = functools.partial(cost.prefill_flops, model.config.to_dict(), text_tokens=5)
    assert price(36) == cost.prefill_flops(model.config, 36, text_tokens=5)
    assert isinstance(price(36), int)
    assert price(1) < price(2.5) < price(3)
    assert cost.prefill_flops(model.config, 3, gated_mlp=False) < cost.prefill_flops(model.config, 3)


@pytest.mark.parametrize("n", [-1, float("nan"), float("inf"), True, "3"])
def test_a_wrong_number_of_tokens_is_refused(model, n):
    with pytest.raises(ArgumentError, match="n must be a finite number >= 0, got"):
        cost.prefill_flops(model.config, n)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"num_local_experts": 8}, "only some of its experts run per token (num_local_experts=8)"),
        ({"kv_lora_rank": 512}, "stored as low-rank latents"),
        ({"cross_attention_layers": [1]}, "attend to vision tokens that are not in the prompt"),
        ({"layer_types": ["linear_attention"] * 3}, "no closed form for layers of linear_attention"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"intermediate_size": None}, "the configuration of toy has no intermediate_size"),
    ],
)
def test_another_arithmetic_is_refused(change, text):
    with pytest.raises(UnsupportedModelError) as caught:
        cost.prefill_flops({"model_type": "toy", "vocab_size": 59, **TEXT, **change}, 4)
    assert text in str(caught.value)


def test_an_unknown_tower_is_refused():
    with pytest.raises(UnsupportedModelError, match="no closed form for the vision tower 'swin'; there is one for"):
        cost.vision_flops({"vision_config": {"model_type": "swin"}})


def test_cost_imports_no_torch():
    code = "import sys, tokscale.cost; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
