"""Measured time to the first token, throughput, memory and operations: `tokscale.profile(...)` returns a `Profile`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .result import Profile
from .run import profile

__all__ = ["Profile", "profile"]


class _Callable(ModuleType):
    """Lets `tokscale.profile`, a module that holds one function, be called as that function."""

    def __call__(self, *args: Any, **keywords: Any) -> Profile:
        return profile(*args, **keywords)


sys.modules[__name__].__class__ = _Callable
