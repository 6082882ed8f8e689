"""Methods as their papers' code runs them: one image at a time, a loop where there is a loop. For times beside ours.

Written from the formulas of the docstrings in `tokscale.compressors`, with plain PyTorch operations, no batch axis and
no work shared between images. Each takes tokens x (n, d), a budget k and the context of one image, and returns the
positions that it keeps, ascending, and the tokens that it makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import merging, selection
from .choices import choices

__all__ = ["choices", "loop_of"]


def loop_of(name: str) -> Callable[..., Any] | None:
    """Return the loop of a registered method, or None where there is none."""
    return getattr(selection, name, None) or getattr(merging, name, None)
