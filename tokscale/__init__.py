"""Run any Hugging Face vision-language model at a chosen vision-token budget, and know which budget to choose.

Importing this package patches nothing and imports neither torch, transformers nor triton: every public name is loaded
on first use.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import (
    ArgumentError,
    BackendError,
    BudgetError,
    CompressorError,
    DtypeError,
    FitError,
    InputError,
    KeywordError,
    MissingContextError,
    MissingDependencyError,
    NonFiniteError,
    PatchError,
    RegistryError,
    ShapeError,
    TokscaleError,
    UnknownCompressorError,
    UnsupportedInputError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from . import cost, ops, plotting, profile, scaling, training
    from .compressors import (
        AdaptivePooler,
        Compressed,
        CrossAttentionFuser,
        TokenCompressor,
        TopKSelector,
        create_compressor,
        list_compressors,
        register_compressor,
    )
    from .hf.patch import PatchHandle, patch
    from .scaling import ScalingFit, compare_laws, fit_power_law
    from .sweep import SweepResult, sweep

__version__ = "0.1.0.dev0"

_HOME = {  # public name -> the module that holds it
    "AdaptivePooler": "compressors",
    "Compressed": "compressors",
    "CrossAttentionFuser": "compressors",
    "PatchHandle": "hf",
    "ScalingFit": "scaling",
    "SweepResult": "sweep",
    "TokenCompressor": "compressors",
    "TopKSelector": "compressors",
    "compare_laws": "scaling",
    "create_compressor": "compressors",
    "fit_power_law": "scaling",
    "list_compressors": "compressors",
    "patch": "hf",
    "register_compressor": "compressors",
    "sweep": "sweep",
}
_SUBMODULES = ("cost", "demo", "ops", "plotting", "profile", "scaling", "training")

__all__ = [
    "AdaptivePooler",
    "ArgumentError",
    "BackendError",
    "BudgetError",
    "Compressed",
    "CompressorError",
    "CrossAttentionFuser",
    "DtypeError",
    "FitError",
    "InputError",
    "KeywordError",
    "MissingContextError",
    "MissingDependencyError",
    "NonFiniteError",
    "PatchError",
    "PatchHandle",
    "RegistryError",
    "ScalingFit",
    "ShapeError",
    "SweepResult",
    "TokenCompressor",
    "TokscaleError",
    "TopKSelector",
    "UnknownCompressorError",
    "UnsupportedInputError",
    "UnsupportedModelError",
    "compare_laws",
    "cost",
    "create_compressor",
    "errors",
    "fit_power_law",
    "list_compressors",
    "ops",
    "patch",
    "plotting",
    "profile",
    "register_compressor",
    "scaling",
    "sweep",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    from ._checks import suggestion

    hint = suggestion(name, __dir__()).rstrip()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{'.' * bool(hint)}{hint}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, "__version__"})


class _Package(ModuleType):
    """Keeps `tokscale.sweep` the function: importing a submodule binds it on its package and would shadow the name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
