"""Thirty shapes for each method, and random inputs of them: float64, so that no rounding decides a near-tie."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

_draw = random.Random(0)


def _shape() -> tuple[int, int, int]:
    n = _draw.randint(2, 24)
    return n, _draw.randint(1, 12), _draw.randint(1, n - 1)


def _clip() -> tuple[tuple[int, int, int], int, int]:
    t, h, w = _draw.randint(1, 7), _draw.randint(1, 4), _draw.randint(2, 4)
    return (t, h, w), _draw.randint(1, 8), _draw.randint(1, t * h * w - 1)


SHAPES = [_shape() for _ in range(30)]  # tokens, width, budget
CLIPS = [_clip() for _ in range(30)]  # grid, width, budget


def tokens(n: int, d: int, seed: int = 0, b: int = 2) -> Tensor:
    """(b, n, d) random tokens, with a zero one in the last sample; copies, whose ties a product may round, apart."""
    x = torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if n > 6:
        x[-1, 2] = 0
    return x


def scores(n: int, seed: int = 1, b: int = 2) -> Tensor:
    """(b, n) positive scores; those of the last sample have ties."""
    a = torch.rand(b, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a[-1] = (8 * a[-1]).ceil() / 8
    return a


def question(d: int, seed: int = 2) -> dict[str, Tensor]:
    """Two questions of 5 and 2 tokens, the second among masked junk."""
    text = torch.randn(2, 6, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.tensor([[True] * 5 + [False], [False, True, False, False, True, False]])
    text[~mask] = 1e3
    return {"text_tokens": text, "text_mask": mask}


def words(given: dict[str, Tensor], i: int) -> Tensor:
    """The unmasked tokens of question i."""
    return given["text_tokens"][i][given["text_mask"][i]]


def agree(module: Any, x: Tensor, context: dict[str, Any], expected: list[list[int]]) -> None:
    result = module.compress(x, **context)
    assert result.positions.tolist() == expected
    rows = x.gather(1, result.positions[..., None].expand(-1, -1, x.shape[-1]))
    assert torch.equal(result.tokens, rows)


def order_of(module: Any, x: Tensor, context: dict[str, Any]) -> list[list[int]]:
    """The positions of each sample in the order of choice, of a method that adds one token when k grows by one."""
    k, order = module.num_tokens, [[] for _ in x]
    for module.num_tokens in range(1, k + 1):
        for chosen, positions in zip(order, module.compress(x, **context).positions.tolist()):
            (new,) = set(positions) - set(chosen)
            chosen.append(new)
    return order
