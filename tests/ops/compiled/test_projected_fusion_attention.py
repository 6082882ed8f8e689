"""The kernels between the products of the folded path, in machine code for GPUs that are not here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokscale.ops.projected_fusion_attention import torch_path, triton_path

from .ahead_of_time import TARGETS, check, usages

SIZES = [(8, 16, 16, 576, 20, 64), (8, 16, 32, 2880, 64, 64), (1, 4, 1, 64, 0, 128)]  # b h m n t d


def inputs(sizes: tuple[int, ...], every_option: bool, dtype: torch.dtype) -> torch_path.Inputs:
    b, h, m, n, t, d = sizes
    c, inner = 32, h * d  # the products do not see the compiler

    def draw(*shape: int) -> Any:
        return torch.zeros(1, dtype=dtype).expand(*shape)

    biases: tuple[Any, ...] = (None,) * 5
    if every_option:
        mask = torch.ones(b, n + t, dtype=torch.bool)
        biases = draw(inner), draw(inner), mask, torch.zeros(h, m, n, dtype=dtype), torch.zeros(h, dtype=dtype)
    text = (draw(b, h, t, d), draw(b, h, t, d)) if t else (None, None)
    weights = draw(inner, c), draw(inner, c)
    return torch_path.Inputs(draw(b, h, m, d), draw(b, n, c), *weights, *text, *biases, d**-0.5, False)


def cases() -> list[Any]:
    found = []
    for sizes in SIZES:
        for every_option in (True, False):
            for dtype in (torch.bfloat16, torch.float32):
                for target in TARGETS:
                    plain = (sizes, every_option, dtype, target) == (SIZES[0], True, torch.bfloat16, "sm_80")
                    marks = [] if plain else pytest.mark.slow
                    found.append(pytest.param(sizes, every_option, dtype, target, marks=marks))
    return found


@pytest.mark.parametrize(("sizes", "every_option", "dtype", "target"), cases(), ids=str)
def test_no_spills(sizes: tuple[int, ...], every_option: bool, dtype: torch.dtype, target: str) -> None:
    b, h, m, n, t, _ = sizes
    a = inputs(sizes, every_option, dtype)
    p = torch.zeros(b, h * m, n + t + -(n + t) % 16, dtype=dtype)
    q = torch.zeros(b, h, m, a.q.shape[3], dtype=dtype)

    def call() -> None:
        triton_path._softmax(a, q, p, every_option)
        given = torch.empty(b, h, m), torch.empty(b, n + t), torch.empty(b, h, m)
        triton_path._softmax_backward(a, p, p, *(given if every_option else (None, None, None)))

    found = usages(call, target)
    assert [usage.kernel for usage in found] == ["softmax_colsum", "softmax_backward"]
    for usage in found:
        check(usage, tensor_core=False)
