"""A patched model under SDPA that ranks by attention: no n x n tensor is allocated, and the ranking is eager's.

Towers of 48 x 48 patches, so that a matrix of patches by patches, be it of one byte an element and of one head, is
larger than anything else in the model: of a [CLS] tower (one row counts), of one without (all rows), and of a packed
one with windows, whose layers call the attention function once per segment.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

import tokscale
from tests.hf.helpers import forward
from tests.tiny_models import END, IMAGE, START, VIDEO, _config, _pixels
from tokscale.hf.patches import window_order

SIDE, PATCH, KEPT = 48, 4, 64
N = SIDE * SIDE  # patches
TOKENS = {"llava": N, "gemma3": N // 4, "qwen2_5_vl": N // 4}  # the latter two make one token of 2 x 2 patches
HEADS = 4  # of each tower


def build(kind: str) -> Any:
    """A model with random weights under SDPA."""
    square = {"image_size": SIDE * PATCH, "patch_size": PATCH}
    text: dict[str, Any]
    vision: dict[str, Any]
    more: dict[str, Any]
    if kind == "llava":
        text, more = {"model_type": "llama"}, {}
        vision = {"model_type": "clip_vision_model", "projection_dim": 32, **square}
    elif kind == "gemma3":
        text = {"model_type": "gemma3_text", "query_pre_attn_scalar": 16}
        vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **square}
        more = {"mm_tokens_per_image": N // 4, "boi_token_id": START, "eoi_token_id": END}
    else:
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
        text = {"model_type": "qwen2_5_vl_text", "rope_parameters": rope}
        sizes = {"depth": 2, "num_heads": HEADS, "out_hidden_size": 64, "patch_size": PATCH, "spatial_merge_size": 2}
        windows = {"temporal_patch_size": 2, "window_size": 8 * PATCH, "fullatt_block_indexes": [1]}
        vision = sizes | windows
        more = {"video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}
    config = _config(kind, text=text, vision=vision, **more)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15, generator=generator)
    return model


def inputs_of(kind: str) -> dict[str, Tensor]:
    """One picture and a few words."""
    ids = torch.tensor([[50, START, *[IMAGE] * TOKENS[kind], END, 60, 61]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "qwen2_5_vl":
        pixels = _pixels(0, N, 3 * 2 * PATCH * PATCH)
        given |= {"image_grid_thw": torch.tensor([[1, SIDE, SIDE]]), "mm_token_type_ids": (ids == IMAGE).long()}
    else:
        pixels = _pixels(0, 1, 3, SIDE * PATCH, SIDE * PATCH)
    if kind == "gemma3":
        given["token_type_ids"] = (ids == IMAGE).long()
    return {**given, "pixel_values": pixels.float()}


def eager_scores(model: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """(tokens,) mean attention that each token's patches receive, from the weights that eager attention returns."""
    inputs = inputs_of(kind)
    model.set_attn_implementation("eager")
    if kind == "qwen2_5_vl":  # the tower drops the weights: they are taken from its own eager function
        held: list[Tensor] = []
        eager = modeling_qwen2_5_vl.eager_attention_forward

        def kept(*args: Any, **kwargs: Any) -> Any:
            out, weights = eager(*args, **kwargs)
            held.append(weights)
            return out, weights

        monkeypatch.setattr(modeling_qwen2_5_vl, "eager_attention_forward", kept)
        with torch.no_grad():
            model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        received = held[-1].mean((0, 1, 2))  # the last layer attends over the whole picture, in one call
        order = window_order([(1, SIDE // 2, SIDE // 2)], model.config.vision_config)
        return received.view(-1, 4).mean(1)[order.argsort()]
    with torch.no_grad():
        weights = model.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions
    if kind == "llava":  # read before the last layer; row 0 is [CLS]
        return weights[-2][0, :, 0, 1:].mean(0)
    received = weights[-1][0].mean((0, 1))
    return received.view(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3)).flatten()


def largest_allocation(call: Callable[[], Any]) -> int:
    """Bytes of the largest piece of memory that was asked for, inside operators too."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    return max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


@pytest.mark.parametrize("kind", TOKENS)
def test_no_matrix_and_the_ranking_of_eager(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build(kind), inputs_of(kind)
    with tokscale.patch(model, "attention_topk", num_tokens=KEPT) as handle:
        assert largest_allocation(lambda: forward(model, inputs)) < N * N
        (image,) = handle.last.images
    scores = eager_scores(model, kind, monkeypatch)
    assert image.n == len(scores) == TOKENS[kind]
    ranked = scores.argsort(descending=True, stable=True)
    gap = scores[ranked[KEPT - 1]] - scores[ranked[KEPT]]
    assert gap > 1e-5 * scores[ranked[KEPT]]  # the choice is no matter of rounding
    assert torch.equal(image.positions.flatten(), ranked[:KEPT].sort().values)


@pytest.mark.parametrize("kind", TOKENS)
def test_eager_allocates_it(kind: str) -> None:
    """So that the bound above says something."""
    model, inputs = build(kind), inputs_of(kind)
    model.set_attn_implementation("eager")
    given = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
    with torch.no_grad():
        assert largest_allocation(lambda: model.get_image_features(**given)) >= HEADS * N * N * 4


PEAK = """
import torch, tokscale
from tests.hf.test_no_matrix import build, forward, inputs_of
from tests.ops.helpers import peak_mib
torch.set_num_threads(1)
model, inputs = build("llava"), inputs_of("llava")
def run(name):
    with tokscale.patch(model, name, num_tokens=64):
        forward(model, inputs)
    return peak_mib()
before, after = run("uniform"), run("attention_topk")
model.model.vision_tower.set_attn_implementation("eager")
print(after - before, run("attention_topk") - after)
"""


def test_peak_memory_of_the_process() -> None:
    """4 heads x 2305 x 2305 are 81 MiB. In its own process, since a peak never goes down."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, cwd=root)
    ours, eager = map(float, done.stdout.split())
    assert ours < 20 and eager > 81
