"""One self-contained HTML page from a sweep: `render` returns it, `write` saves it."""

from .page import render, write

__all__ = ["render", "write"]
