"""Names that differ between versions of transformers, read from what a signature or an output has."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


def cache_of(output: Any) -> Any:
    """The cache that a call returned, under its name of this version of transformers."""
    return output.cache if hasattr(output, "cache") else output.past_key_values


def with_cache(model: Any, cache: Any) -> dict[str, Any]:
    """A cache as an argument of `forward`, under the name that it has there."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT
    return {"cache" if "cache" in inspect.signature(inner.forward).parameters else "past_key_values": cache}


def encodes_first(model: nn.Module) -> bool:
    """Whether forward takes encoder outputs ready made, and generate therefore encodes once before anything else."""
    return "mm_encoder_outputs" in inspect.signature(model.forward).parameters


def checkpointing(model: Any, on: bool) -> None:
    """Switch activation checkpointing, under its name of this version of transformers."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()
