"""The six-token example of the documentation: every method's positions on it are known by hand."""

from __future__ import annotations

from typing import Any

import torch

X = torch.tensor([[[4.0, 0.0], [5.0, 1.0], [3.0, 2.0], [0.0, 4.0], [-1.0, 6.0], [-3.0, 1.0]]])
TEXT = torch.tensor([[[1.0, 3.0], [2.0, 1.0]]])
IMPORTANCE = torch.tensor([[0.05, 0.30, 0.10, 0.25, 0.20, 0.10]])
SHALLOW = torch.tensor([[0.2, 0.1, 0.3, 0.05, 0.25, 0.1]])


def context() -> dict[str, Any]:
    return {"text_tokens": TEXT, "importance": IMPORTANCE, "shallow_importance": SHALLOW, "keys": X, "grid": (2, 3)}
