"""Comparison of a mixture with its formula, written naively."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokscale import TokenCompressor

from .naive_merging import Result


def close(module: TokenCompressor, x: Tensor, context: dict[str, Any], expected: list[Result]) -> None:
    """The module's outputs are those of each sample's formula, and `assignment` says how they were mixed."""
    tokens, positions, assignment, _ = module.compress(x, **context)
    assert positions.tolist() == [anchors for anchors, _ in expected]
    torch.testing.assert_close(tokens, torch.stack([mixed for _, mixed in expected]), rtol=0, atol=1e-9)
    if module.mixture:
        assert assignment is not None
        torch.testing.assert_close(assignment.double() @ x, tokens, rtol=0, atol=1e-5)  # it is kept in float32
    else:
        assert assignment is None


def distinct(n: int, d: int, seed: int = 0) -> Tensor:
    """(2, n, d) random tokens in float64, one of the last sample zero, no two alike.

    Where two copies are equally like a third token, the last bit of a product decides: no formula fixes that.
    """
    x = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[-1, n // 3] = 0
    return x
