"""The demo: a small trained Hugging Face vision-language model in the package, its pictures and its questions.

`load` gives the model and its processor, `samples` questions about real handwritten digits, `evaluate` the accuracy.
What the library claims about a working model is measured on it, offline. It knows its four kinds of question and
nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Sample, samples, scans
    from .evaluation import Evaluation, collate, evaluate
    from .model import load, load_fuser

_HOME = {
    "Evaluation": "evaluation",
    "Sample": "data",
    "collate": "evaluation",
    "evaluate": "evaluation",
    "load": "model",
    "load_fuser": "model",
    "samples": "data",
    "scans": "data",
}

__all__ = ["Evaluation", "Sample", "collate", "evaluate", "load", "load_fuser", "samples", "scans"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
