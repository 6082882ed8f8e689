"""A model and its processor from a folder or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, UnsupportedModelError


def load_model(
    name_or_folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    attn: str = "sdpa",
) -> tuple[Any, Any]:
    """Return (model, processor) of an image-text model, in eval mode on `device`.

    Args:
        name_or_folder: a folder with a saved model, or a repository on the Hugging Face hub.
        device: where the model goes.
        dtype: "auto" (that of the checkpoint), a dtype, or its name, such as "bfloat16".
        attn: attention backend of transformers: "sdpa", "eager", "flash_attention_2".

    Raises:
        InputError: no such folder or repository, or no model in it.
        UnsupportedModelError: the model reads no images.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    source = str(name_or_folder)
    folder = Path(source).expanduser()
    if folder.is_dir():
        source = str(folder)
        if not (folder / "config.json").is_file():
            raise InputError(f"{source} holds no config.json; pass the folder that save_pretrained wrote, or a hub id")
    elif _is_path(source):
        raise InputError(f"{source} does not exist; pass the folder of a saved model, or a hub id such as owner/name")
    dtype = _dtype(dtype)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        where = "" if folder.is_dir() else " (no such folder here, so it was asked of the hub)"
        raise InputError(f"cannot load {source}{where}: {_first_line(error)}") from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{source} is a {config.model_type} model, which makes no image features; choose an image-text model"
        )
    try:
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, attn_implementation=attn)
        processor = AutoProcessor.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"cannot load {source}: {_first_line(error)}") from error
    return model.to(device).eval(), processor


def _is_path(source: str) -> bool:
    """Return whether a string can only be meant as a path: a hub id is `name` or `owner/name`."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f'dtype="{dtype}" is no floating dtype; use auto, float32, bfloat16 or float16')
    return found


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
