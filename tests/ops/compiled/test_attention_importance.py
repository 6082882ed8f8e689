"""`attention_importance`, forward and backward, in machine code for GPUs that are not here."""

from __future__ import annotations

import pytest
import torch

from tokscale.ops._scores import Scores
from tokscale.ops.attention_backward import triton_path as attention_backward
from tokscale.ops.attention_importance import triton_packed, triton_path

from .ahead_of_time import TARGETS, check, usages

SIZES = [  # b h g m n d
    (8, 16, 16, 577, 577, 64),
    (8, 16, 16, 729, 729, 72),
    (1, 28, 4, 1, 2880, 128),  # the last row of a decoder
    (4, 16, 16, 64, 577, 128),
    (2, 16, 16, 576, 576, 128),
    (2, 8, 8, 64, 576, 256),
]


@pytest.mark.parametrize("target", [t if t == "sm_90" else pytest.param(t, marks=pytest.mark.slow) for t in TARGETS])
@pytest.mark.parametrize("sizes", [SIZES[0], *(pytest.param(s, marks=pytest.mark.slow) for s in SIZES[1:])], ids=str)
def test_no_spills_and_tensor_cores(sizes: tuple[int, ...], target: str) -> None:
    b, h, g, m, n, d = sizes
    q, k = torch.empty(b, m, h, d, dtype=torch.bfloat16), torch.empty(b, n, g, d, dtype=torch.bfloat16)
    a = Scores(q.transpose(1, 2), k.transpose(1, 2), d**-0.5, offset=n - m)

    def call() -> None:
        lse = triton_path.log_sum_exp(a)
        triton_path.column_sums(a, lse, False)
        c = attention_backward.Cotangents(lse, torch.empty(b, 1, n), delta=lse)
        attention_backward.received_sums(a, c)
        attention_backward.query_gradient(a, c)
        attention_backward.key_gradient(a, c)

    found = usages(call, target)
    assert [usage.kernel for usage in found] == [
        "row_lse",
        "column_sum",
        "received_sum",
        "query_gradient",
        "key_gradient",
    ]
    for usage in found:
        check(usage)


WINDOWS = [(64, 80), (16, 64), (32, 72), (128, 64), (128, 128), (64, 256)]  # longest, d


@pytest.mark.parametrize("target", [t if t == "sm_80" else pytest.param(t, marks=pytest.mark.slow) for t in TARGETS])
@pytest.mark.parametrize(
    "sizes", [WINDOWS[0], *(pytest.param(w, marks=pytest.mark.slow) for w in WINDOWS[1:])], ids=str
)
@pytest.mark.parametrize("causal", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_window_in_one_tile(causal: bool, sizes: tuple[int, int], target: str) -> None:
    longest, d = sizes
    q, k = torch.empty(2, 64 * longest, 16, d, dtype=torch.bfloat16).unbind()
    ends = torch.arange(0, 64 * longest + 1, longest, dtype=torch.int32)
    s = triton_packed.Packed(q, k, ends, ends, (longest, longest)).scores(causal, d**-0.5)
    (usage,) = usages(lambda: triton_packed._column_sums(s, False), target)
    assert usage.kernel == "column_sum_tile"
    check(usage)
