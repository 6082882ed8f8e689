"""What single families need beside the generic rules of `sizes.py` and `pictures.py`: one short row each.

`config` overrides by dotted path, `dtype` where the family takes no float64, `attention` where it has no SDPA, `write`
the name of a picture writer of `pictures.py`, `around` ids that its processor writes around a run of placeholders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .sizes import END, IMAGE, START


@dataclass(frozen=True)
class Exceptional:
    """How one family differs from what is done for any model type."""

    config: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float64"
    attention: str = "sdpa"
    write: str = ""
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((START,), (END,))
    batch: bool = True  # unpatched, the rows of a batch equal the rows alone
    touching: bool = False
    size: int | None = None  # side of the pictures, where the config does not say it
    alike: bool = False  # every picture has the size of the first
    offset: dict[str, str] = field(default_factory=dict)  # indices into the patches of another argument, all pictures
    join: dict[str, int] = field(default_factory=dict)  # arguments whose pictures are joined along another axis than 0
    std: float = 0.08  # of the weights; more where the attention of learned queries would be flat
    by_row: bool = False  # axis 0 counts rows of the batch and axis 1 their pictures


_BART = {
    "vision_config.embed_dim": [32, 32, 32, 64],
    "vision_config.depths": [1, 1, 1, 1],
    "vision_config.num_heads": [2, 2, 2, 2],
    "vision_config.num_groups": [2, 2, 2, 2],
    "vision_config.patch_stride": [2, 2, 2, 1],
    "vision_config.window_size": 4,
    "vision_config.drop_path_rate": 0.0,
    "vision_config.projection_dim": 64,
}
_VQ = {
    "vq_config.base_channels": 32,
    "vq_config.channel_multiplier": [1, 1, 1, 1],
    "vq_config.num_res_blocks": 1,
    "vq_config.resolution": 32,
    "vq_config.attn_resolutions": None,
}
_VOCABULARY = {"<image>": 10, "<|image token|>": 10, "<|extra_200|>": 16}
_SAM = {"output_channels": 32, "num_pos_feats": 16, "window_size": 2, "global_attn_indexes": [1]}

_KOSMOS = {"text_config.layers": 2, "text_config.attention_heads": 4}

TABLE: dict[str, Exceptional] = {
    "apertus1p5": Exceptional(
        attention="eager",
        dtype="float32",
        config={
            "audio_config.codebook_dim": 64,
            "audio_config.num_filters": 4,
            "audio_config.decoder_hidden_size": 32,
            "vision_config.base_channels": 32,
            "vision_config.channel_multiplier": [1, 1, 1, 1],
            "vision_config.num_res_blocks": 1,
            "vision_config.codebook_size": 64,
            "audio_config.codebook_size": 16,
            "image_token_offset": 60,
            "audio_token_offset": 124,
            "vision_config.attn_resolutions": [],
            "audio_config.decoder_attention_num_groups": 4,
            "vision_config.embed_dim": 32,
            "vision_config.latent_channels": 32,
            "vision_config.spatial_scale_factor": 8,
        },
    ),
    "blip": Exceptional(attention="eager"),
    "git": Exceptional(attention="eager"),
    "got_ocr2": Exceptional(
        {"vision_config.image_size": 96, **{"vision_config." + k: v for k, v in _SAM.items()}},
        attention="eager",
        dtype="float32",
    ),
    "pp_chart2table": Exceptional(
        {"vision_config.image_size": 96, **{"vision_config." + k: v for k, v in _SAM.items()}},
        attention="eager",
        dtype="float32",
    ),
    "inkling2": Exceptional(attention="eager", write="inkling2", dtype="float32"),
    "inkling2_loop": Exceptional(
        {
            "text_config.num_hidden_layers": 3,
            "text_config.layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding"],
            "text_config.n_layers_per_attn_res_block": 1,
            "text_config.loop_layer_index_start": 1,
            "text_config.loop_layer_index_end": 2,
        },
        attention="eager",
        write="inkling2",
        dtype="float32",
    ),
    "chameleon": Exceptional(
        {
            **_VQ,
            "vq_config.embed_dim": 16,
            "vq_config.latent_channels": 16,
            "vq_config.num_embeddings": 64,
            "vocabulary_map": {
                **_VOCABULARY,
                **{f"IMGIMG{chr(65 + i // 10)}{chr(65 + i % 10)}Z": 100 + i for i in range(64)},
            },
        }
    ),
    "emu3": Exceptional(
        {
            **_VQ,
            "vq_config.codebook_size": 64,
            "vq_config.hidden_size": 32,
            "vq_config.attn_resolutions": [3],
            "vocabulary_map": {**_VOCABULARY, **{f"<|visual token {i:06d}|>": 100 + i for i in range(64)}},
        },
        alike=True,
    ),
    "cohere_compass": Exceptional(
        {
            "text_config.rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
            },
            "vision_config.deepstack_visual_indexes": [0, 1],
            "vision_config.num_position_embeddings": 36,
        }
    ),
    "deepseek_ocr2": Exceptional(
        {
            "text_config.mlp_layer_types": ["dense", "sparse"],
            "text_config.num_experts_per_tok": 2,
            **{"vision_config.sam_config." + k: v for k, v in {**_SAM, "downsample_channels": [32, 64]}.items()},
        }
    ),
    "deepseek_vl_hybrid": Exceptional({"high_res_vision_config." + k: v for k, v in _SAM.items()}),
    "dots3_note": Exceptional({"audio_config.conv_output_size": 64}),
    "ernie4_5_vl_moe": Exceptional(
        {
            "text_config.moe_intermediate_size": [32, 32],
            "text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]},
        }
    ),
    "florence2": Exceptional(_BART),
    "gemma3n": Exceptional(
        {
            "vision_config.model_args": {"channel_multiplier": 0.1, "msfa_output_resolution": 3},
            "vision_config.hidden_size": 2048,
            "vision_soft_tokens_per_image": 9,
            "text_config.num_kv_shared_layers": 0,
            "text_config.intermediate_size": [96, 96],
        },
        dtype="float32",
    ),
    "granite4_vision": Exceptional(
        {
            "text_config": "default:granite4_vision_text",  # the default of a version may be llama and siglip,
            "vision_config": "default:clip_vision_model",  # without the multipliers and the class token it needs
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[0, 0]],
            "spatial_target_layers": [1],
        }
    ),
    "hunyuan_vl": Exceptional(
        {
            "text_config.head_dim": 16,
            "text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2, 2]},
            "vision_config.max_image_size": 64,
        },
        batch=False,
    ),
    "hy_v4_vl": Exceptional(
        {"text_config.qk_rope_head_dim": 16, "text_config.head_dim": 16, "text_config.qk_head_dim": 32},
        attention="eager",
    ),
    "instructblipvideo": Exceptional({"video_token_index": IMAGE}, write="instructblipvideo"),
    "janus": Exceptional({"vq_config.base_channels": 32, "vq_config.channel_multiplier": [1, 1]}),
    "mistral_large4": Exceptional({"text_config.kv_source_layers": [0, 1]}, batch=False),
    "mllama": Exceptional(
        {
            "vision_config.attention_heads": 4,
            "vision_config.num_global_layers": 1,
            "vision_config.intermediate_layers_indices": [0, 1],
            "vision_config.vision_output_dim": 192,
            "text_config.cross_attention_layers": [1],
        },
        write="mllama",
        around=((), ()),
        by_row=True,
    ),
    "molmo2": Exceptional(
        {"adapter_config.vision_feature_layer": [1, 0]},
        write="molmo2",
        offset={"image_token_pooling": "pixel_values", "video_token_pooling": "pixel_values_videos"},
    ),
    "perception_lm": Exceptional(
        {
            "vision_config.architecture": "vit_pe_core_tiny_patch16_384",
            "vision_config.model_args": {
                "embed_dim": 64,
                "depth": 2,
                "num_heads": 4,
                "img_size": [48, 48],
                "patch_size": 8,
                "global_pool": "",
                "use_post_transformer_norm": False,
                "ref_feat_shape": [6, 6],
            },
        },
        dtype="float32",
    ),
    "qwen4_exp": Exceptional(
        {
            "text_config.indexer_n_heads": 4,
            "text_config.indexer_kv_heads": 1,
            "text_config.indexer_head_dim": 16,
            "text_config.indexer_budget": 512,
            "text_config.indexer_compress_ratio": 4,
        }
    ),
    "nemotron_h_omni": Exceptional({"image_token_id": 10, "video_token_id": 11, "vision_config.max_img_size": 64}),
    "unlimited_ocr": Exceptional(
        {"vision_config.sam_config." + k: v for k, v in {**_SAM, "downsample_channels": [32, 64]}.items()}
    ),
    "fast_vlm": Exceptional(
        {
            "vision_config.model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 1, 1],
                "embed_dims": [8, 8, 16, 32, 32],
            }
        },
        dtype="float32",
        size=192,
    ),
    "aria": Exceptional({"projector_patch_to_query_dict": {36: 9}, "max_value_projector_patch_to_query_dict": 9}),
    "gemma4": Exceptional({"vision_config": "default:gemma4_vision", "vision_config.pooling_kernel_size": 2}),
    "gemma4_unified": Exceptional({"vision_config": "default:gemma4_unified_vision"}),
    "glm4v_moe": Exceptional({"text_config.rope_parameters.mrope_section": [1, 1, 2]}),
    "granite_docling": Exceptional({"vision_config.scale_factor": 2, "vision_config.deepstack_visual_indexes": [0]}),
    "kosmos-2": Exceptional({**_KOSMOS, "latent_query_num": 6}, dtype="float32", std=0.3),
    "kosmos-2.5": Exceptional(
        {**_KOSMOS, "latent_query_num": 6, "vision_config.patch_embed_hidden_size": 48}, write="kosmos2_5"
    ),
    "llama4": Exceptional({"vision_config.intermediate_size": 256}),
    "minicpmv4_6": Exceptional(write="minicpm", batch=False, join={"pixel_values": -1, "pixel_values_videos": -1}),
    "minicpmv4_7": Exceptional(write="minicpm", batch=False, join={"pixel_values": -1, "pixel_values_videos": -1}),
    "muse_glimmer": Exceptional({"out_hidden_size": 256}),
    "muse_spark": Exceptional(
        {"out_hidden_size": 256, "audio_config.hidden_sizes": [8, 16], "audio_config.depths": [1, 1]}
    ),
    "qwen2_5_omni_thinker": Exceptional(
        {"vision_start_token_id": 12, "vision_end_token_id": 13, "audio_start_token_id": 19}
    ),
    "qwen3_omni_moe_thinker": Exceptional(
        {"vision_start_token_id": 12, "vision_end_token_id": 13, "audio_config.downsample_hidden_size": 16}
    ),
    "step3p7": Exceptional({"vision_config.image_size": 96, "text_config.sliding_window": 64}),
    "vipllava": Exceptional({"vision_feature_layer": [-1, -2]}, touching=True),
    "fuyu": Exceptional(alike=True),
    "inkling_mm_model": Exceptional(write="inkling"),
    "minicpm_ocr": Exceptional(join={"pixel_values": -1, "pixel_values_videos": -1}),
    "diffusion_gemma": Exceptional(
        {
            "text_config.num_experts": 4,
            "text_config.top_k_experts": 2,
            "text_config.moe_intermediate_size": 32,
            "text_config.sliding_window": 64,
            "vision_config.pooling_kernel_size": 2,
            "canvas_length": 4,
        }
    ),
}


def exceptional(model_type: str) -> Exceptional:
    """Return the row of a model type, an empty one for those that need none."""
    return TABLE.get(model_type, Exceptional())
