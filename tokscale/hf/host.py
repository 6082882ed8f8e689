"""What patch() knows about a model before any call: its feature methods, argument names, placeholder ids and widths."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import ArgumentError, UnsupportedModelError
from . import families

PIXELS = {
    "image": ("pixel_values", "pixel_values_images", "image_patches", "flattened_patches"),
    "video": ("pixel_values_videos",),
}
MASKS = {"image": "image_embeds_position_mask"}  # what says where placeholders are in models without an id for them
SEAMS = (
    *("forward", "generate", "get_image_features", "get_video_features", "get_rope_index", "inputs_merger"),
    "_get_image_nums_and_video_nums",  # of a generate that repeats pixels for beams: counts images in the prompt
)


@dataclass
class FeatureMethod:
    """The innermost method that encodes one modality, and the names it takes."""

    owner: nn.Module
    call: Any
    names: tuple[str, ...]
    required: tuple[str, ...]
    pixels: tuple[str, str] | None = None  # the call's name for the pixels, and the method's where it is another


@dataclass
class Host:
    """A model, seen from the front door. Everything here is found once, at patch()."""

    model: nn.Module
    model_type: str
    features: dict[str, FeatureMethod]
    tokens: dict[str, int]  # modality -> placeholder id
    pixels: dict[str, tuple[str, ...]]  # modality -> names of its pixels
    masks: dict[str, str]  # modality -> argument that marks placeholders, for models without an id
    forward_names: tuple[str, ...]
    generate_names: tuple[str, ...]
    rope: Any  # the original get_rope_index, or None
    dim: int
    text_dim: int
    skip: frozenset[str] = frozenset()  # arguments that never hold columns of the prompt
    special: tuple[int, ...] = ()  # ids that are no text
    reader: nn.Module | None = None  # the language model, where it reads images by cross-attention
    handed: bool = False  # videos are encoded by the method for images, so they are handed over ready
    owners: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))

    @property
    def canvas(self) -> bool:
        """Whether a block of tokens behind the prompt is denoised as a whole, in place of one after the other."""
        return isinstance(getattr(self.config, "canvas_length", None), int)

    def placeholders(self, modality: str, named: dict[str, Any], ids: Tensor) -> Tensor | None:
        """Return (B, S) bool, True at the placeholders of a modality; None where the call does not tell."""
        if modality in self.tokens:
            return ids == self.tokens[modality]
        mask = named.get(self.masks.get(modality, ""))
        if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != len(ids) or mask.shape[1] > ids.shape[1]:
            return None
        return pad(mask.bool(), (0, ids.shape[1] - mask.shape[1]))  # text behind it needs no columns of its own


def modalities(named: dict[str, Any], pixels: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the modalities whose pixels or encoder outputs are among the arguments of a call."""
    given = named.get("mm_encoder_outputs")
    given = given if isinstance(given, dict) else {}
    return [
        m for m, names in pixels.items() if given.get(m) is not None or any(named.get(p) is not None for p in names)
    ]


def unwrap(model: Any) -> nn.Module:
    """Return the transformers model inside PEFT, torch.compile, DataParallel and DDP wrappers."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"patch() needs a model (torch.nn.Module), got {type(model).__name__}")
    while True:
        if callable(getattr(type(model), "get_base_model", None)):
            model = model.get_base_model()
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def examine(model: nn.Module) -> Host:
    """Return what the front door needs to know, or raise `UnsupportedModelError` with the reason."""
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", "") or type(model).__name__)
    if model_type in families.REFUSED:
        raise UnsupportedModelError(f"{model_type}: {families.REFUSED[model_type]}")
    features = {m: f for m in PIXELS if (f := _feature_method(model, f"get_{m}_features")) is not None}
    reader = None if features else _reader(model)
    main = next(iter(features), "image")
    films = main == "video" and "pixel_values" in features[main].names  # it reads nothing but videos
    if config is None or not ("image" in features or films or reader is not None):
        raise UnsupportedModelError(
            f"{type(model).__name__} makes no image features; patch() needs an image-text model"
        )
    forward = _names(model.forward)
    handed = "video" not in features and {"pixel_values_videos", "mm_encoder_outputs"} <= set(forward)
    if handed or ("video" in features and _renamed(features["video"], forward)):
        features["video"] = _for_videos(features["image"] if handed else features["video"])
    tokens = {}
    for modality in features or ("image",):
        for name in (f"{modality}_token_id", f"{modality}_token_index"):
            if isinstance(getattr(config, name, None), int):
                tokens[modality] = getattr(config, name)
                break
    masks = {m: name for m, name in MASKS.items() if m in features and m not in tokens and name in forward}
    if main not in {**tokens, **masks}:
        raise UnsupportedModelError(
            f"{model_type}: its config names no {main}_token_id, so there are no placeholders to shorten; use a model "
            "with placeholders"
        )
    if "input_ids" not in forward:
        raise UnsupportedModelError(f"{model_type}: its forward takes no input_ids, so there is no prompt to shorten")
    owners = [
        (module, name)
        for name in SEAMS[2:]
        for module in model.modules()
        if callable(getattr(type(module), name, None))
    ]
    owners += [  # a generate that inlines the vision path calls this projection alone
        (module.language_projection, "forward")
        for module in model.modules()
        if isinstance(getattr(module, "language_projection", None), nn.Module)
    ]
    rope = next((getattr(m, name) for m, name in reversed(owners) if name == "get_rope_index"), None)
    owners += [] if reader is None else [(reader, "forward")]
    owners = [
        (model, "forward"),
        *([(model, "generate")] if callable(getattr(model, "generate", None)) else []),
        *owners,
    ]
    dim = _width(model, config)
    columns = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids"}
    skip = {name for method in features.values() for name in method.names} | {
        n for names in PIXELS.values() for n in names
    }
    if getattr(config, "is_encoder_decoder", False):
        skip |= {"labels", "decoder_input_ids", "decoder_attention_mask", "decoder_position_ids"}
    return Host(
        model=model,
        model_type=model_type,
        features=features,
        tokens=tokens,
        pixels={"image": (), "video": PIXELS["image"]} if films else PIXELS,
        masks=masks,
        forward_names=forward,
        generate_names=_names(model.generate) if callable(getattr(model, "generate", None)) else (),
        rope=rope,
        dim=dim,
        text_dim=dim,
        skip=frozenset(skip - columns),
        special=_special_ids(config),
        handed=handed,
        owners=owners,
        reader=reader,
    )


def _names(method: Any) -> tuple[str, ...]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return tuple(name for name, p in inspect.signature(method).parameters.items() if p.kind not in kinds)


def _feature_method(model: nn.Module, name: str) -> FeatureMethod | None:
    owners = [module for module in model.modules() if callable(getattr(type(module), name, None))]
    if not owners:
        return None
    call = getattr(owners[-1], name)  # the last is the innermost
    parameters = inspect.signature(call).parameters
    names = _names(call)
    return FeatureMethod(
        owners[-1], call, names, tuple(n for n in names if parameters[n].default is inspect.Parameter.empty)
    )


def _reader(model: nn.Module) -> nn.Module | None:
    """Return the language model that takes the states of images and a mask over them, or None."""
    wanted = {"cross_attention_states", "cross_attention_mask"}
    parts = [part for module in model.modules() if (part := getattr(module, "language_model", None)) is not None]
    return next((part for part in parts if wanted <= set(_names(part.forward))), None)


def _renamed(method: FeatureMethod, forward: tuple[str, ...]) -> bool:
    """Return whether a method for videos calls its pixels by another name than forward (some versions do)."""
    return any(p in forward and p not in method.names for p in PIXELS["video"])


def _for_videos(method: FeatureMethod) -> FeatureMethod:
    """Return a method that names pixels as images have them as one that takes forward's name for those of videos."""
    pixels = next((name for name in PIXELS["image"] if name in method.names), method.names[0])
    new = PIXELS["video"][0]
    names, required = (tuple(new if n == pixels else n for n in each) for each in (method.names, method.required))
    return FeatureMethod(method.owner, method.call, names, required, (new, pixels))


def _width(model: nn.Module, config: Any) -> int:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = getattr(text, "hidden_size", None) or getattr(text, "d_model", None)
    if width is None:
        width = model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]
    return int(width)


def _special_ids(config: Any) -> tuple[int, ...]:
    """Return every id that the config names `*_token_id` or `*_token_index`, its text part included."""
    found: set[int] = set()
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for part in (config, text):
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index")):
                found.update(v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int))
    return tuple(sorted(found))
