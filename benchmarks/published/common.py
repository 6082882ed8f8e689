"""What the loops share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Kept = tuple[Tensor, Tensor]


def cosine(x: Tensor) -> Tensor:
    x = F.normalize(x.float(), dim=-1)
    return x @ x.T


def select(x: Tensor, chosen: Any) -> Kept:
    index = torch.as_tensor(chosen).sort().values
    return index, x[index]


def ordered(x: Tensor, index: Tensor, tokens: Tensor) -> Kept:
    order = index.argsort()
    return index[order], tokens[order]
