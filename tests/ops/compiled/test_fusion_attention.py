"""`fusion_attention`, forward and backward, in machine code for GPUs that are not here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokscale.ops.fusion_attention import torch_path, triton_path

from .ahead_of_time import SHARED, TARGETS, check, usages

SIZES = [  # b h g m n t d
    (8, 16, 16, 64, 2880, 64, 64),
    (8, 16, 16, 16, 576, 20, 64),
    (1, 16, 2, 32, 729, 13, 72),
    (2, 16, 16, 64, 2880, 64, 128),
    (2, 8, 8, 16, 576, 8, 256),
]


def inputs(sizes: tuple[int, ...], every_option: bool, dtype: torch.dtype = torch.bfloat16) -> torch_path.Inputs:
    b, h, g, m, n, t, d = sizes

    def draw(heads: int, length: int) -> Any:
        return torch.empty(b, length, heads, d, dtype=dtype).transpose(1, 2)

    seen: tuple[Any, Any] = (None, None)
    bias, text_bias = None, None
    if every_option:
        seen = torch.ones(b, n, dtype=torch.bool), torch.ones(b, t, dtype=torch.bool)
        bias, text_bias = torch.empty(h, m, n, dtype=dtype), torch.empty(h, dtype=dtype)
    text = (draw(g, t), draw(g, t))
    return torch_path.Inputs(draw(h, m), draw(g, n), draw(g, n), *text, None, bias, text_bias, d**-0.5, True, seen)


@pytest.mark.parametrize("target", [t if t == "gfx942" else pytest.param(t, marks=pytest.mark.slow) for t in TARGETS])
@pytest.mark.parametrize("every_option", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [SIZES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SIZES[1:])], ids=str)
def test_no_spills_and_tensor_cores(sizes: tuple[int, ...], every_option: bool, target: str) -> None:
    x = inputs(sizes, every_option)

    def call() -> None:
        out, lse, vision, text = triton_path.forward(x, True, True)
        triton_path.backward(x, out, lse, out, lse, vision, text)

    found = usages(call, target, processors=132)
    names = {"forward", "column_sum", "received_sum", "query_gradient", "key_gradient"}
    names |= {"bias_gradient"} if every_option else set()
    assert {usage.kernel for usage in found} - {"combine"} == names  # combine: where keys are split
    for usage in found:
        check(usage, tensor_core=usage.kernel != "combine")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sizes", SIZES[1:], ids=str)
def test_fp32_fits_every_card(sizes: tuple[int, ...], target: str) -> None:
    """Products that stay fp32 run without tensor cores: small tiles, whose backward spills a little."""
    x = inputs(sizes, True, torch.float32)

    def call() -> None:
        out, lse, vision, text = triton_path.forward(x, True, True)
        triton_path.backward(x, out, lse, out, lse, vision, text)

    for usage in usages(call, target, processors=132):
        assert usage.shared <= SHARED[target], usage
        assert usage.spills <= (250 if usage.kernel == "query_gradient" and sizes[-1] == 256 else 10), usage
