"""A tiny random twin of any image-text architecture, with prompts that fit it: what contracts are checked on."""

from __future__ import annotations

from .twin import Twin, config_of, twin_of

__all__ = ["Twin", "config_of", "twin_of"]
