"""A model and its processor from a folder or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._hub import model_source, not_on_hub
from ..errors import InputError, UnsupportedModelError

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_model(
    name_or_folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    attn: str = "sdpa",
    processor_required: bool = True,
) -> tuple[Any, Any]:
    """Return (model, processor) of an image-text model, in eval mode on `device`.

    Args:
        name_or_folder: a folder with a saved model, or a repository on the Hugging Face hub.
        device: where the model goes.
        dtype: "auto" (that of the checkpoint), a dtype, or its name, such as "bfloat16".
        attn: attention backend of transformers: "sdpa", "eager", "flash_attention_2".
        processor_required: if False, a model that stands without a processor is returned with None in its place.

    Raises:
        InputError: no such folder or repository, no model in it, or no processor beside it.
        UnsupportedModelError: the model reads no images.
    """
    config = load_config(name_or_folder)
    source, dtype = config._name_or_path, _dtype(dtype)
    from transformers import AutoModelForImageTextToText

    processor = None
    try:  # before the weights, which take longer
        processor = load_processor(source)
    except InputError:
        if processor_required:
            raise
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, attn_implementation=attn)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot load {source}: {_first_line(error)}") from error
    return model.to(device).eval(), processor


def load_processor(source: str | Path) -> Any:
    """Return the processor of a folder or repository in which `load_config` found a model.

    Raises:
        InputError: there is none, or none that can be loaded.
    """
    from transformers import AutoProcessor

    folder = Path(source)
    try:
        return AutoProcessor.from_pretrained(source)
    except Exception as error:  # transformers has many ways to say that there is none
        absent = folder.is_dir() and not any((folder / name).is_file() for name in PROCESSOR_FILES)
        why = "" if absent else f" that can be loaded ({type(error).__name__}: {_first_line(error)})"
        raise InputError(
            f"{source} holds a model but no processor{why}; put it beside the model: "
            f"processor.save_pretrained({str(source)!r})"
        ) from error


def load_config(name_or_folder: str | Path) -> Any:
    """Return the configuration of an image-text model; its `_name_or_path` says where it is.

    Raises:
        InputError: no such folder or repository, or no model in it.
        UnsupportedModelError: the model reads no images.
    """
    source = model_source(name_or_folder)
    folder = Path(source)
    if not folder.is_dir() and (why := not_on_hub(source, "config.json")) is not None:
        raise InputError(f"cannot load {source}: there is no such folder here, and {why}")
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        where = "" if folder.is_dir() else " (no such folder here, so it was asked of the hub)"
        raise InputError(f"cannot load {source}{where}: {_first_line(error)}") from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{source} is a {config.model_type} model, which makes no image features; choose an image-text model"
        )
    config._name_or_path = str(source)
    return config


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f'dtype="{dtype}" is no floating dtype; use auto, float32, bfloat16 or float16')
    return found


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
