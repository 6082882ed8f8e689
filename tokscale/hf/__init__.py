"""Floor 3: any Hugging Face vision-language model at a chosen vision-token budget, on one lent instance.

The one package that imports transformers, and only when it needs it.
"""

from __future__ import annotations

from .check import check_model
from .handle import PatchHandle
from .patch import patch

__all__ = ["PatchHandle", "check_model", "patch"]
