"""A tiny random model of any image-text architecture, and images written for it, offline."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..cutting import encode
from ..features import field_of, flatten
from ..host import PIXELS, Host, examine
from .exceptional import exceptional
from .pictures import pictures
from .sizes import IMAGE, PAD, ROPE, TEXT, assign, shrunk


class Picture(NamedTuple):
    """One image: `ids` as a processor writes it, the pixels that the model is given, and its vision tokens."""

    ids: list[int]
    pixels: dict[str, Tensor]
    tokens: int


def tiny_config(model_type: str, config: Any = None) -> Any:
    """Return a configuration of `model_type`, or one like `config`, with every size small."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type] if config is None else type(config)
    small = shrunk((kind() if config is None else config).to_dict())
    text = small.get("text_config")
    if _has_rope_index(model_type) and isinstance(text, dict) and "rope_theta" in (text.get("rope_parameters") or {}):
        text["rope_parameters"] = {**text["rope_parameters"], **ROPE}
    for path, value in exceptional(model_type).config.items():
        if isinstance(value, str) and value.startswith("default:"):
            value = shrunk(CONFIG_MAPPING[value.removeprefix("default:")]().to_dict())
        assign(small, path, value)
    for name in ("model_type", "_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"):
        small.pop(name, None)
    return kind(**small)


def _model_class(model_type: str) -> Any:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    return None if name is None else getattr(transformers, name)


def _has_rope_index(model_type: str) -> bool:
    """Whether any class of this family computes positions of several axes."""
    if (found := _model_class(model_type)) is None:
        return False
    classes = vars(inspect.getmodule(found)).values()
    return any(inspect.isclass(each) and callable(getattr(each, "get_rope_index", None)) for each in classes)


def build(model_type: str, config: Any = None, cls: Any = None) -> nn.Module:
    """Return a random model of this type, float64 where the family takes it: seconds at most, no download.

    Args:
        model_type: of transformers, or of the user's own configuration.
        config: a configuration to be like; None for the default one of the type.
        cls: the class of the model; None for the one of transformers.
    """
    from transformers import GenerationConfig

    row = exceptional(model_type)
    small = tiny_config(model_type, config)
    kind = cls or _model_class(model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind._from_config(small, attn_implementation=row.attention, experts_implementation="eager")
        model = model.to(getattr(torch, row.dtype)).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 or not torch.isfinite(parameter).all() or parameter.abs().max() > 1e4:
                std = (
                    row.std if parameter.ndim < 4 else 2 * parameter[0].numel() ** -0.5
                )  # deep convolutions would fade
                parameter.normal_(0, std, generator=draw)
            elif parameter.numel() == 1 and not parameter.any():
                parameter.fill_(0.5)  # a closed gate would hide the image
    if hasattr(model, "generation_config"):
        own = getattr(kind, "generation_config_class", None)  # with settings that others have not, and without some
        model.generation_config = (own or GenerationConfig)(pad_token_id=PAD, bos_token_id=1)
        model.generation_config.use_cache = True
        if getattr(small, "is_encoder_decoder", False):
            start = getattr(small, "decoder_start_token_id", None)
            model.generation_config.decoder_start_token_id = 1 if start is None else start
    return model


def names_of(method: Any) -> tuple[str, ...]:
    """Return the names of a method's arguments."""
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return tuple(name for name, p in inspect.signature(method).parameters.items() if p.kind not in several)


def features(
    model: nn.Module, pixels: dict[str, Tensor], *, grad: bool = False, modality: str | None = None
) -> list[Tensor]:
    """Return what the model makes of the pixels, entry by entry, each (n, d): as the front door encodes them."""
    host = examine(model)
    with torch.set_grad_enabled(grad):
        if host.reader is not None:
            return _read(model, host, pixels)
        output = encode(host, modality or next(iter(host.features)), pixels)
    flat, lengths = flatten(getattr(output, field_of(output)))
    return list(flat.split(lengths))


def _read(model: Any, host: Host, pixels: dict[str, Tensor]) -> list[Tensor]:
    """Return the states of each image that the language model is called with, without those that only fill up."""
    held: dict[str, Any] = {}
    hook = host.reader.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, args, kwargs: held.update(kwargs), with_kwargs=True
    )
    try:
        model(input_ids=torch.full((len(pixels["pixel_values"]), 1), TEXT), **pixels)
    finally:
        hook.remove()
    states, tiles = held["cross_attention_states"], pixels["aspect_ratio_mask"]
    images = states.view(*tiles.shape, *states.shape[1:])
    return [image[used.bool()].flatten(0, 1) for row, mask in zip(images, tiles) for image, used in zip(row, mask)]


def written(model: Any, model_type: str, number: int) -> Picture:
    """Return one image: pixels that the model encodes, and as many placeholders as it makes features of them.

    Raises:
        RuntimeError: none of the known kinds of pixels fits.
    """
    row, weight = exceptional(model_type), next(p for p in model.parameters() if p.is_floating_point())
    own = names_of(model.forward)
    encoder = next(iter(examine(model).features.values()), None)
    failures, names = [], (*(encoder.names if encoder else ()), *own)
    pixel = next((name for name in PIXELS["image"] if name in own), "pixel_values")
    number = 3 * number if row.alike else number  # sizes repeat after three
    for pixels in pictures(names, model.config, number, row.write, row.size):
        fitting = {
            pixel if k == "pixel_values" else k: v.to(weight.device, weight.dtype if v.is_floating_point() else v.dtype)
            for k, v in pixels.items()
        }
        try:
            count = sum(map(len, features(model, fitting)))
        except Exception as error:  # whatever a model says to pixels that are not its own
            shapes = {name: tuple(value.shape) for name, value in fitting.items()}
            failures.append(f"{shapes}: {type(error).__name__}: {str(error)[:120]}")
            continue
        before, after = row.around
        written = count if encoder else 1  # read by cross-attention: a placeholder stands for the image
        return Picture([*before, *[IMAGE] * written, *after], fitting, count)
    raise RuntimeError("no pixels fit; " + " | ".join(failures))


def collate(rows: Sequence[Sequence[Any]], model_type: str = "") -> dict[str, Tensor]:
    """Return the pixels of a batch of pictures, or of clips; tensors of unlike shapes are padded with zeros behind."""
    every, how = [picture for row in rows for picture in row], exceptional(model_type)
    batch = {}
    if how.by_row:
        for key in every[0].pixels:
            none = every[0].pixels[key][0, :0]
            joined = [torch.cat([none, *(picture.pixels[key][0] for picture in row)]) for row in rows]
            batch[key] = nn.utils.rnn.pad_sequence(joined, batch_first=True)
        return batch
    for key in every[0].pixels:
        parts = [picture.pixels[key] for picture in every]
        if key in how.offset:
            sizes = [0, *(picture.pixels[how.offset[key]].shape[:2].numel() for picture in every[:-1])]
            parts = [part + before for part, before in zip(parts, torch.tensor(sizes).cumsum(0))]
        if key in how.join:
            batch[key] = torch.cat(parts, how.join[key])
            continue
        most = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
        wide = []
        for part in parts:
            pads = [x for axis in range(part.ndim - 1, 0, -1) for x in (0, most[axis - 1] - part.shape[axis])]
            fill = -1 if key in ("image_position_ids", "video_position_ids") else 0
            wide.append(nn.functional.pad(part, pads, value=fill) if any(pads) else part)
        batch[key] = torch.cat(wide)
    return batch


def cross_mask(ids: Tensor, image: int, tiles: Tensor) -> Tensor:
    """Return (B, S, images, tiles): a column sees the image whose placeholder came last, in all its tiles."""
    number = (ids == image).cumsum(1)[..., None]
    return (number == torch.arange(1, tiles.shape[1] + 1))[..., None] * tiles[:, None]
