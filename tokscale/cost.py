"""Closed-form prefill FLOPs and key/value-cache bytes of a model at n vision tokens, from its configuration alone.

Nothing is run and nothing heavy is imported: the figures follow from the sizes in the configuration, so they can be had
for a model that does not fit on this machine. `tokscale.profile` counts the same figures on the running model.

Notation, for one decoder: d `hidden_size`, L layers, h heads of size e, g key/value heads, f `intermediate_size`,
V `vocab_size`, T = n + text_tokens. A multiplication with its addition counts as two operations.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

from .errors import ArgumentError, UnsupportedModelError

__all__ = ["DecoderSizes", "decoder_sizes", "kv_cache_bytes", "prefill_flops", "vision_flops"]

# Decoders whose feed-forward layer is two matrices; nearly all others have a gate as well, hence three.
_PLAIN_MLP = frozenset({"falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "nemotron", "opt", "phi", "starcoder2"})
_CLASS_TOKEN = {"clip_vision_model": 1, "siglip_vision_model": 0}  # towers that `vision_flops` knows
_OTHER_ARITHMETIC = {  # a field of the configuration -> why the formulas here would be wrong
    "kv_lora_rank": "its keys and values are stored as low-rank latents",
    "num_kv_shared_layers": "some of its layers share their keys and values",
    "num_experts": "only some of its experts run per token",
    "num_local_experts": "only some of its experts run per token",
    "n_routed_experts": "only some of its experts run per token",
    "cross_attention_layers": "some of its layers attend to vision tokens that are not in the prompt",
}
_INSTEAD = "measure it with tokscale.profile"
_ATTENTION_LAYERS = frozenset({"attention", "full_attention", "sliding_attention"})


class DecoderSizes(NamedTuple):
    """The sizes of a decoder that its cost depends on."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    gated_mlp: bool
    windows: tuple[int | None, ...]  # per layer: how many tokens its cache holds at most, None = all


def decoder_sizes(config: Any) -> DecoderSizes:
    """Return the sizes of the language model in `config`.

    Args:
        config: a Hugging Face configuration of a vision-language or language model, or the dict its `to_dict()` gives.

    Raises:
        UnsupportedModelError: a size is missing, or the decoder does another arithmetic than the formulas here
            (mixture of experts, latent or shared keys and values, linear attention, encoder-decoder).

    Example:
        >>> config = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192,
        ...               vocab_size=59)
        >>> decoder_sizes(config).head_dim
        32
    """
    text = _text_config(config)
    name = _get(text, "model_type") or type(config).__name__
    if _get(config, "is_encoder_decoder") or _get(text, "is_encoder_decoder"):
        raise UnsupportedModelError(f"{name}: no closed form for an encoder-decoder model; {_INSTEAD}")
    for field, reason in _OTHER_ARITHMETIC.items():
        if _get(text, field):
            raise UnsupportedModelError(
                f"{name}: no closed form, because {reason} ({field}={_get(text, field)}); {_INSTEAD}"
            )
    hidden = _size(text, name, "hidden_size", "n_embd")
    layers = _size(text, name, "num_hidden_layers", "n_layer")
    heads = _size(text, name, "num_attention_heads", "n_head")
    kinds = _get(text, "layer_types") or ["full_attention"] * layers
    strange = sorted(set(kinds) - _ATTENTION_LAYERS)
    if strange:
        raise UnsupportedModelError(f"{name}: no closed form for layers of {', '.join(strange)}; {_INSTEAD}")
    window = _get(text, "sliding_window")
    return DecoderSizes(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=int(_get(text, "num_key_value_heads") or heads),
        head_dim=int(_get(text, "head_dim") or hidden // heads),
        intermediate_size=_size(text, name, "intermediate_size", "ffn_dim"),
        vocab_size=_size(text, name, "vocab_size"),
        gated_mlp=name not in _PLAIN_MLP,
        windows=tuple(window - 1 if kind == "sliding_attention" and window else None for kind in kinds),
    )


def prefill_flops(
    config: Any,
    n: float,
    *,
    text_tokens: float = 0,
    batch_size: int = 1,
    logits_to_keep: int | None = 1,
    gated_mlp: bool | None = None,
) -> float:
    """Return the floating-point operations of one prefill of the language model over n vision and other tokens.

    ```
    layer  = T (2 d h e + 4 d g e + 2 h e d + 2 m d f) + 4 h e T^2          m = 3 matrices with a gate, else 2
    flops  = batch_size (L layer + 2 d V logits_to_keep)
    ```

    The last term of a layer is the full T x T square of scores and mixtures, as PyTorch's own counter has it: kernels
    that skip the masked half do half of it. Norms, activations, rotary positions and the look-up of embeddings are left
    out; so is the vision tower (`vision_flops`), which a budget does not change.

    Args:
        config: as in `decoder_sizes`.
        n: vision tokens that the language model sees, per sequence. A mean over layers or images may be a fraction.
        text_tokens: all other tokens of the prompt, per sequence.
        batch_size: sequences.
        logits_to_keep: positions for which logits are made: 1 in `generate`, None for all of them.
        gated_mlp: whether the feed-forward layer has a gate; None asks the model type.

    Raises:
        ArgumentError: a negative or non-finite number of tokens.
        UnsupportedModelError: as in `decoder_sizes`.

    Example:
        >>> config = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192,
        ...               vocab_size=59)
        >>> round(prefill_flops(config, 144, text_tokens=5) / prefill_flops(config, 36, text_tokens=5), 2)
        4.49

        As the price of a budget:
        `fit.optimal_budget(functools.partial(cost.prefill_flops, config, text_tokens=20), max_cost=2e12)`.
    """
    s = decoder_sizes(config)
    total = _tokens("n", n) + _tokens("text_tokens", text_tokens)
    matrices = 3 if (s.gated_mlp if gated_mlp is None else gated_mlp) else 2
    width, kv_width = s.num_heads * s.head_dim, s.num_kv_heads * s.head_dim
    per_token = 4 * s.hidden_size * (width + kv_width) + 2 * matrices * s.hidden_size * s.intermediate_size
    layer = total * per_token + 4 * width * total * total
    kept = total if logits_to_keep is None else min(logits_to_keep, total)
    return batch_size * (s.num_layers * layer + 2 * s.hidden_size * s.vocab_size * kept)


def kv_cache_bytes(
    config: Any, n: float, *, text_tokens: float = 0, batch_size: int = 1, dtype_bytes: int = 2
) -> float:
    """Return the bytes of keys and values that the language model keeps for n vision and `text_tokens` other tokens.

    ```
    bytes = 2 batch_size g e dtype_bytes sum_layers min(T, window - 1)         (T in a layer without a window)
    ```

    Args:
        config, n, text_tokens, batch_size: as in `prefill_flops`.
        dtype_bytes: bytes per number: 2 in fp16 and bf16, 4 in fp32.

    Raises:
        ArgumentError, UnsupportedModelError: as in `prefill_flops`.

    Example:
        >>> config = dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=192,
        ...               vocab_size=59)
        >>> kv_cache_bytes(config, 36, text_tokens=5, dtype_bytes=4)
        62976
    """
    s = decoder_sizes(config)
    total = _tokens("n", n) + _tokens("text_tokens", text_tokens)
    held = sum(total if window is None else min(total, window) for window in s.windows)
    return 2 * batch_size * s.num_kv_heads * s.head_dim * dtype_bytes * held


def vision_flops(config: Any, *, images: float = 1) -> float:
    """Return the floating-point operations of the vision tower over `images` images of its configured size.

    ```
    p = (image_size / patch_size)^2 patches, T = p + class token, d, f: sizes of the tower
    flops = images (2 p channels patch_size^2 d + L (T (8 d^2 + 4 d f) + 4 d T^2))
    ```

    CLIP and SigLIP towers, whose input size is fixed; neither the projector nor SigLIP's pooling head is counted. A
    token budget does not change this figure: compression behind the tower cannot save it.

    Raises:
        UnsupportedModelError: another tower; `tokscale.profile` counts it on the running model.

    Example:
        >>> tower = dict(model_type="clip_vision_model", hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        ...              image_size=96, patch_size=8, num_channels=3)
        >>> vision_flops(dict(vision_config=tower))
        38060544
    """
    tower = _get(config, "vision_config")
    kind = _get(tower, "model_type") if tower is not None else None
    if kind not in _CLASS_TOKEN:
        known = ", ".join(sorted(_CLASS_TOKEN))
        raise UnsupportedModelError(f"no closed form for the vision tower {kind!r}; there is one for {known}")
    d, f = _size(tower, kind, "hidden_size"), _size(tower, kind, "intermediate_size")
    side, patch = _size(tower, kind, "image_size"), _size(tower, kind, "patch_size")
    patches = (side // patch) ** 2
    tokens = patches + _CLASS_TOKEN[kind]
    layer = tokens * (8 * d * d + 4 * d * f) + 4 * d * tokens * tokens
    embed = 2 * patches * int(_get(tower, "num_channels") or 3) * patch * patch * d
    return _tokens("images", images) * (embed + _size(tower, kind, "num_hidden_layers") * layer)


def _text_config(config: Any) -> Any:
    if isinstance(config, Mapping):
        for key in ("text_config", "llm_config", "language_config"):
            if config.get(key):
                return config[key]
        return config
    getter = getattr(config, "get_text_config", None)
    return getter() if getter is not None else getattr(config, "text_config", config)


def _get(config: Any, field: str) -> Any:
    return config.get(field) if isinstance(config, Mapping) else getattr(config, field, None)


def _size(config: Any, name: Any, *fields: str) -> int:
    for field in fields:
        if _get(config, field):
            return int(_get(config, field))
    raise UnsupportedModelError(f"the configuration of {name} has no {fields[0]}; its cost cannot be computed from it")


def _tokens(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or value < 0:
        raise ArgumentError(f"{name} must be a finite number >= 0, got {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)
