"""The prompts of the matrix: rows of text lengths and images, for `tests.tiny_models.prompt`.

Pictures are numbered over a batch and their sizes differ from number to number where the family allows, so the two rows
of `RAGGED` hold three pictures of three sizes and need padding.
"""

from __future__ import annotations

from typing import Any

ONE: list[list[Any]] = [[3, "image", 4]]
TWO: list[list[Any]] = [[2, "image", 3, "image", 2]]
RAGGED: list[list[Any]] = [[2, "image", 5, "image", 2], [3, "image", 4]]
SINGLE: list[list[Any]] = [[2, "image", 5], [3, "image", 4]]
