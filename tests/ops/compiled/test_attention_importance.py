"""`attention_importance`, forward and backward, in machine code for GPUs that are not here."""

from __future__ import annotations

import pytest
import torch

from tokscale.ops._scores import Scores
from tokscale.ops.attention_backward import triton_path as attention_backward
from tokscale.ops.attention_importance import triton_path

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
