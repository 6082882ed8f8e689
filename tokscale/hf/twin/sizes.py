"""Small sizes for any nested configuration: what each name becomes, wherever it stands.

`SIZES` maps a name, wherever it stands in the nested configs, to its small value. What a family needs beside that is a
row of `exceptional.py`, as dotted paths; a value DROP removes the entry.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

IMAGE, VIDEO, PAD = 10, 11, 0
START, END, VIDEO_START, VIDEO_END, AUDIO = 12, 13, 14, 15, 18
TYPES = (  # what marks the columns of an image with 1
    *("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"),
    "image_embeds_position_mask",
)
TEXT = 40  # the first id of ordinary text
VOCAB = 256
DROP = object()

_HEADS, _KV, _HEAD_DIM, _WIDTH, _INNER, _EXPERTS, _LAYERS = 4, 2, 16, 64, 96, 4, 2

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        [
            "hidden_size",
            "d_model",
            "embed_dim",
            "projection_dim",
            "out_hidden_size",
            "text_hidden_size",
            "encoder_hidden_size",
            "word_embed_proj_dim",
            "output_dim",
            "vision_hidden_size",
            "projector_input_dim",
            "projector_output_dim",
            "projector_hidden_size",
            "projection_hidden_size",
            "alignment_intermediate_size",
            "image_token_embed_dim",
            "lru_width",
            "projection_hidden_dim",
            "adapter_in_dim",
            "adapter_out_dim",
            "adapter_input_size",
            "hidden_size_per_layer_input",
            "vision_output_dim",
        ],
        _WIDTH,
    ),
    **dict.fromkeys(
        [
            "intermediate_size",
            "ffn_dim",
            "mlp_dim",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "d_ff",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "dense_intermediate_size",
            "shared_intermediate_size",
            "intermediate_size_mlp",
            "moe_shared_expert_intermediate_size",
            "adapter_intermediate_size",
            "projection_intermediate_size",
            "share_expert_dim",
            "moe_hidden_size",
            "block_ff_dim",
        ],
        _INNER,
    ),
    **dict.fromkeys(
        [
            "num_hidden_layers",
            "num_layers",
            "depth",
            "encoder_layers",
            "decoder_layers",
            "n_layers",
            "num_decoder_layers",
            "conf_num_hidden_layers",
            "decoder_num_layers",
            "resampler_depth",
        ],
        _LAYERS,
    ),
    **dict.fromkeys(
        [
            "num_attention_heads",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "conf_num_attention_heads",
            "num_sliding_attention_heads",
            "resampler_n_heads",
            "resampler_heads",
            "n_heads",
            "linear_num_value_heads",
            "linear_num_heads",
            "mamba_num_heads",
            "swa_num_attention_heads",
        ],
        _HEADS,
    ),
    **dict.fromkeys(
        [
            "num_key_value_heads",
            "linear_num_key_heads",
            "num_global_key_value_heads",
            "num_sliding_key_value_heads",
            "num_attention_groups",
            "swa_num_key_value_heads",
        ],
        _KV,
    ),
    **dict.fromkeys(
        [
            "head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "linear_head_dim",
            "global_head_dim",
            "mamba_head_dim",
            "swa_head_dim resampler_head_dim",
            "resampler_dim_head",
            "v_head_dim",
            "qk_nope_head_dim",
            "d_kv",
            "query_pre_attn_scalar",
        ],
        _HEAD_DIM,
    ),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"], _EXPERTS),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k"], 2),
    **dict.fromkeys(["n_shared_experts", "moe_num_shared_experts", "n_group", "topk_group", "num_expert_group"], 1),
    "merged_hidden_size": 4 * _WIDTH,  # 2 x 2 patches side by side
    "vocab_size": VOCAB,
    "unpadded_vocab_size": VOCAB,
    "rel_extent": 64,
    "n_groups": 2,
    "image_patch_id": IMAGE,
    "vocab_size_per_layer_input": VOCAB,
    "image_size": 48,
    "mm_tokens_per_image": 9,
    "num_position_embeddings": 36,
    "patch_size": 8,
    "max_position_embeddings": 512,
    "image_token_id": IMAGE,
    "image_token_index": IMAGE,
    "video_token_id": VIDEO,
    "video_token_index": VIDEO,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_start_token_id": START,
    "image_start_token_id": START,
    "boi_token_id": START,
    "boi_token_index": START,
    "vision_end_token_id": END,
    "image_end_token_id": END,
    "eoi_token_id": END,
    "eoi_token_index": END,
    "video_start_token_id": VIDEO_START,
    "video_end_token_id": VIDEO_END,
    "audio_token_id": AUDIO,
    "audio_token_index": AUDIO,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_head_dim": 24,
    "index_head_dim": 16,
    "index_n_heads": 4,
    "index_topk": 512,
    "ssm_state_size": 16,
    "first_k_dense_replace": 1,
    "num_query_tokens": 6,
    "laurel_rank": 8,
}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
_COUNTS = ("num_hidden_layers", "num_layers", "depth", "n_layers", "encoder_layers")
_LAYER_NUMBERS = {
    "deepstack_visual_indexes": (0, 1),
    "fullatt_block_indexes": (1,),
    "global_attn_indexes": (1,),
    "vision_feature_layers": (-1, -2),
}
_ATTENTION = "full_attention"
_PLACEHOLDERS = ("image_patch_id", "image_token_id", "image_token_index", "video_token_id", "video_token_index")


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """Return a nested config with every size of `SIZES` small and lists of one value per layer cut to two."""
    layers = next((config[name] for name in _COUNTS if isinstance(config.get(name), int)), None)
    new: dict[str, Any] = {}
    for key, value in config.items():
        if key in _PLACEHOLDERS or (key in SIZES and value and not isinstance(value, (list, tuple, dict, bool))):
            new[key] = SIZES[key]
        elif key in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            new[key] = _rope(value)
        elif key in _LAYER_NUMBERS and value:
            new[key] = list(_LAYER_NUMBERS[key])
        elif key == "window_size" and config.get("fullatt_block_indexes"):
            new[key] = 32
        elif key == "per_layer_config":
            continue
        elif key == "image_grid_pinpoints" and value:
            size = SIZES["image_size"]
            new[key] = [[size, size], [size, 2 * size], [2 * size, size]]
        elif isinstance(value, dict):
            new[key] = shrunk(value)
        elif isinstance(value, (list, tuple)) and layers and len(value) == layers > _LAYERS:
            new[key] = [value[0], value[-1]]
            if key == "layer_types":
                new[key][-1] = _attending(value)
        elif key in ("image_size", "patch_size") and isinstance(value, (list, tuple)) and len(value) == 2:
            new[key] = [SIZES[key]] * len(value)
        else:
            new[key] = copy.copy(value)
    if new.get("kv_lora_rank"):  # latent attention: rotary width and heads of its own
        new["head_dim"] = new["qk_rope_head_dim"]
        new["num_key_value_heads"] = new["num_attention_heads"]
        new["qk_head_dim"] = new["qk_rope_head_dim"] + new["qk_nope_head_dim"]
    return new


def _attending(kinds: Sequence[str]) -> str:
    """Return the kind of the last layer: full attention if there is any, else no linear one: a cache needs lengths."""
    if _ATTENTION in kinds:
        return _ATTENTION
    return kinds[-1] if "linear" not in kinds[-1] else next((k for k in kinds if "linear" not in k), kinds[-1])


def _rope(value: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(each, dict) for each in value.values()):
        return {key: _rope(each) if isinstance(each, dict) else each for key, each in value.items()}
    if "mrope_section" in value:
        return {**value, **ROPE}
    kept = {k: v for k, v in value.items() if k in ("rope_theta", "partial_rotary_factor")}
    return {
        **kept,
        "rope_type": value["rope_type"] if value.get("rope_type") in ("proportional", "axial") else "default",
    }


def assign(config: dict[str, Any], path: str, value: Any) -> None:
    """Set `config[a][b]...` for a dotted path; DROP removes it."""
    *parents, last = path.split(".")
    for name in parents:
        config = config.setdefault(name, {})
    if value is DROP:
        config.pop(last, None)
    else:
        config[last] = value
