"""Floor 3: any Hugging Face vision-language model at a chosen vision-token budget, on one lent instance.

The one package that imports transformers, and only when it needs it.
"""

from __future__ import annotations

from .check import check_model
from .count import vision_token_count
from .handle import PatchHandle
from .native import native_budget
from .patch import patch

__all__ = ["PatchHandle", "check_model", "native_budget", "patch", "vision_token_count"]
