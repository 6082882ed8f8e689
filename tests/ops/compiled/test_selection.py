"""The kernels of `topk_gather` and `greedy_select` in machine code for GPUs that are not here, up to their largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale.ops import _backend
from tokscale.ops.greedy_select import triton_path as greedy_select
from tokscale.ops.topk_gather import triton_path as topk_gather

from .ahead_of_time import TARGETS, check, usages


def huge(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix as a compiler sees it: sizes and strides, one row in memory."""
    return torch.empty(n, dtype=dtype).as_strided((8, n, n), (0, 0, 1))


def mask(n: int) -> Tensor:
    return torch.ones(8, n, dtype=torch.bool)


def relevance(n: int) -> Tensor:
    return torch.empty(8, n)


CALLS: dict[str, Callable[[int], Any]] = {
    "topk_positions": lambda n: topk_gather.topk_positions(torch.empty(8, n), n // 9, mask(n)),
    "max_min": lambda n: greedy_select.greedy(huge(n), n // 9, "max_min", None, relevance(n), None, mask(n)),
    "nearest": lambda n: greedy_select.nearest(huge(n), mask(n)),
    "dpp": lambda n: greedy_select.greedy(huge(n), 64, "dpp", None, None, huge(n), mask(n)),
}
LARGEST = {"topk_positions": "topk_gather", "max_min": "max_min", "nearest": "max_min", "dpp": "dpp"}


def cases() -> list[Any]:
    plain = {("topk_positions", 2880, "sm_90"), ("dpp", 2880, "gfx942"), ("max_min", 2880, "sm_80")}
    found = []
    for name in CALLS:
        for target in TARGETS:
            limits = _backend.MAX_TOKENS_HIP if target == "gfx942" else _backend.MAX_TOKENS
            for n in (576, 1024, 2880, limits[LARGEST[name]]):
                marks = [] if (name, n, target) in plain else pytest.mark.slow
                found.append(pytest.param(name, n, target, marks=marks))
    return found


@pytest.mark.parametrize(("name", "n", "target"), cases())
def test_no_spills(name: str, n: int, target: str) -> None:
    found = usages(lambda: CALLS[name](n), target)
    assert name in {usage.kernel for usage in found}
    for usage in found:
        check(usage, tensor_core=False)


GATHERED = [(torch.bfloat16, (1024,)), (torch.float32, (1024,)), (torch.int64, ()), (torch.bfloat16, (3, 7))]
GATHERED += [(torch.bfloat16, (16, 64)), (torch.float64, (16, 72))]  # the last two: keys by head


@pytest.mark.parametrize("target", [t if t == "gfx942" else pytest.param(t, marks=pytest.mark.slow) for t in TARGETS])
@pytest.mark.parametrize(
    "case", [GATHERED[0], *(pytest.param(g, marks=pytest.mark.slow) for g in GATHERED[1:])], ids=str
)
def test_the_copy_of_rows(case: tuple[torch.dtype, tuple[int, ...]], target: str) -> None:
    dtype, trailing = case
    x = torch.zeros(8, 2880, *trailing, dtype=dtype)
    if len(trailing) == 2:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    (usage,) = usages(lambda: topk_gather.gather_tokens(x, torch.zeros(8, 320, dtype=torch.int64)), target)
    assert usage.kernel == "gather"
    check(usage, tensor_core=False)
