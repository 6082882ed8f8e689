"""A processor's own settings, turned for the time of a `with` block and put back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from .._checks import unknown_keyword

MODEL_READS = ("image_grid_pinpoints",)  # settings that the model's configuration repeats: both must say the same
_ABSENT = object()


def image_processor_of(processor: Any) -> Any:
    """Return the part of a processor that makes pixels; an image processor is its own."""
    return getattr(processor, "image_processor", None) or processor


@contextlib.contextmanager
def turned(processor: Any, keywords: Mapping[str, Any], model: Any = None) -> Iterator[Any]:
    """Give the processor with `keywords` as the defaults of its image processor, and restore it bit for bit.

    The settings are changed where the processor keeps them, not in a call: some processors count their placeholders by
    their attributes and forget what the call said.

    Args:
        processor: a Hugging Face processor, or an image processor.
        keywords: settings of the image processor, such as `size`.
        model: the model that reads its pixels; where its configuration repeats a setting, that is turned too.

    Raises:
        KeywordError: the image processor has no such setting.
    """
    images = image_processor_of(processor)
    for key in keywords:
        if not hasattr(images, key):
            known = getattr(getattr(images, "valid_kwargs", None), "__annotations__", {})
            raise unknown_keyword(type(images).__name__, key, sorted(name for name in known if hasattr(images, name)))
    changes = [(images, key, _like(getattr(images, key), value)) for key, value in keywords.items()]
    defaults = getattr(processor, "images_kwargs", None)  # go before the image processor's own
    if isinstance(defaults, dict) and defaults.keys() & keywords.keys():
        changes.append(
            (processor, "images_kwargs", {**defaults, **{k: keywords[k] for k in defaults.keys() & keywords}})
        )
    for key in keywords.keys() & set(MODEL_READS):
        changes += [(config, key, keywords[key]) for config in _configs(model) if hasattr(config, key)]
    before = [(owner, key, vars(owner).get(key, _ABSENT)) for owner, key, _ in changes]
    try:
        for owner, key, value in changes:
            setattr(owner, key, value)
        yield processor
    finally:
        for owner, key, value in before:
            if value is _ABSENT:
                vars(owner).pop(key, None)
            else:
                vars(owner)[key] = value


def _configs(model: Any) -> list[Any]:
    """Return every configuration that the modules of a model hold, each once."""
    modules = getattr(model, "modules", None)
    held = [vars(module).get("config") for module in modules()] if callable(modules) else []
    return list({id(config): config for config in held if config is not None}.values())


def _like(current: Any, value: Any) -> Any:
    """Return a dict in the type that the image processor keeps its sizes in."""
    kind = type(current)
    return kind(**value) if isinstance(value, dict) and current is not None and kind is not dict else value
