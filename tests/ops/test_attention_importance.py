"""`attention_importance`: the definition in float64 over every option, the sum invariant, memory, packed segments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops import _numerics
from tokscale.ops.attention_importance import reference

from .helpers import doubled, error, inner_stride_two

SIZES = [  # b h g m n d
    (1, 1, 1, 1, 1, 16),
    (2, 4, 2, 17, 64, 16),
    (2, 4, 1, 65, 130, 8),
    (1, 4, 4, 257, 576, 72),
    (3, 2, 2, 1, 578, 8),
    (2, 2, 1, 0, 6, 8),
    (2, 2, 2, 5, 0, 8),
    (0, 2, 2, 5, 6, 8),
]
OPTIONS = [
    "plain",
    "causal",
    "offset",
    "last row",
    "slice",
    "neighbours",
    "rows",
    "rows per sample",
    "lse",
    "masks",
    "lengths",
    "all",
]


def options_of(kind: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    b, h, _, m, n, _ = sizes
    some_rows = torch.randint(-m, m, (5,)) if m else None
    rows_per_sample = torch.randint(-m, m, (b, 5)) if m else None
    lse = torch.randn(b, h, m, dtype=torch.float64) + 3
    lse[:, :, ::3] = -torch.inf
    lse.requires_grad_()
    return {
        "plain": {},
        "causal": {"causal": True, "reduce": "none"},
        "offset": {"causal": True, "offset": -2},
        "last row": {"rows": -1 if m else None, "causal": True},
        "slice": {"rows": slice(None, None, -3), "reduce": "mean"},
        "neighbours": {
            "rows": slice(-4, -1),
            "causal": True,
            "lse": lse,
            "row_mask": torch.rand(b, m) < 0.6,
            "attn_mask": torch.rand(b, 1, m, n) < 0.7,
            "reduce": "mean",
        },
        "rows": {"rows": some_rows, "causal": True},
        "rows per sample": {"rows": rows_per_sample, "lse": lse, "attn_mask": torch.rand(h, m, 1) < 0.7},
        "lse": {"lse": lse},
        "masks": {
            "row_mask": torch.rand(b, m) < 0.6,
            "key_mask": torch.rand(b, n) < 0.6,
            "attn_mask": torch.rand(m, n) < 0.7,
            "reduce": "mean",
        },
        "lengths": {"key_lengths": torch.randint(0, n + 1, (b,)), "group_size": 1 if n % 2 else 2},
        "all": {
            "rows": rows_per_sample,
            "row_mask": torch.rand(b, m) < 0.6,
            "key_mask": torch.rand(b, n) < 0.6,
            "attn_mask": torch.rand(b, 1, m, n) < 0.7,
            "causal": True,
            "offset": 1,
            "scale": 0.3,
            "reduce": "mean",
            "group_size": 1 if n % 2 else 2,
        },
    }[kind]


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_value_and_gradients_in_float64(sizes: tuple[int, ...], kind: str) -> None:
    b, h, g, m, n, d = sizes
    q = torch.randn(b, h, m, d, dtype=torch.float64, requires_grad=True)
    k = torch.randn(b, g, n, d, dtype=torch.float64, requires_grad=True)
    options = options_of(kind, sizes)
    got = ops.attention_importance(q, k, **options)
    want = reference.attention_importance(q, k, **options)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
    inputs = [q, k, *([options["lse"]] if "lse" in options else [])]
    weight = torch.randn_like(want)
    for a, w in zip(
        torch.autograd.grad((got * weight).sum(), inputs, allow_unused=True, materialize_grads=True),
        torch.autograd.grad((want * weight).sum(), inputs, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(a, w.nan_to_num(0.0), rtol=0, atol=1e-9)  # the definition's NaN: rows without keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 2, 2, 577, 577, 64), (2, 4, 1, 65, 729, 72)], ids=str)
def test_error_is_within_twice_pytorch_s_own(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    b, h, g, m, n, d = sizes
    q, k = torch.randn(b, h, m, d).to(dtype).requires_grad_(), torch.randn(b, g, n, d).to(dtype).requires_grad_()
    q64, k64 = doubled(q), doubled(k)
    oracle = reference.attention_importance(q64, k64)
    own = eager(q, k)
    got = ops.attention_importance(q, k)
    assert got.dtype == torch.float32
    assert error(got, oracle) <= 2 * error(own, oracle) + 3e-6
    weight = torch.randn_like(oracle)
    eps = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for a, w, o in zip(
        torch.autograd.grad((got.double() * weight).sum(), (q, k)),
        torch.autograd.grad((oracle * weight).sum(), (q64, k64)),
        torch.autograd.grad((own.double() * weight).sum(), (q, k)),
        strict=True,
    ):
        assert error(a, w) <= 3 * error(o, w) + eps


def eager(q: Tensor, k: Tensor) -> Tensor:
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    p = torch.softmax((q @ k.transpose(-1, -2) * q.shape[3] ** -0.5).float(), -1).to(q.dtype)
    return p.float().sum((1, 2))


@pytest.mark.parametrize("n", [1, 63, 577, 729])
@pytest.mark.parametrize("d", [16, 72, 80, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_the_sum_is_heads_times_rows_that_see_a_key(n: int, d: int, causal: bool) -> None:
    q, k = torch.randn(1, 4, 33, d).bfloat16(), torch.randn(1, 2, n, d).bfloat16()
    offset = -3 if causal else None  # rows 0, 1, 2 see nothing
    total = ops.attention_importance(q, k, causal=causal, offset=offset).sum()
    assert float(total) == pytest.approx(4 * (30 if causal else 33), rel=1e-4)


def test_bottom_right_is_the_default_of_causal() -> None:
    q, k = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 5, 8)
    per_row = [ops.attention_importance(q, k, rows=i, causal=True)[0] for i in range(2)]
    assert (per_row[0][:4] > 0).all() and per_row[0][4] == 0 and (per_row[1] > 0).all()


def test_a_repeated_row_votes_twice() -> None:
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 5, 8)
    once, twice = (ops.attention_importance(q, k, rows=torch.tensor(r)) for r in ([2], [2, -2]))
    torch.testing.assert_close(twice, 2 * once)


def test_no_voter_gives_zero_not_nan() -> None:
    q, k = torch.randn(2, 2, 4, 8), torch.randn(2, 2, 5, 8)
    votes = torch.tensor([[False] * 4, [True] * 4])
    mean = ops.attention_importance(q, k, row_mask=votes, reduce="mean")
    assert (mean[0] == 0).all() and float(mean[1].sum()) == pytest.approx(1)


def test_groups_of_consecutive_keys() -> None:
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 12, 8)
    single = ops.attention_importance(q, k, reduce="none")
    torch.testing.assert_close(
        ops.attention_importance(q, k, reduce="none", group_size=4), single.view(1, 2, 3, 4).sum(-1)
    )


@pytest.mark.parametrize("room", [1, 400, 2500])
def test_blocks_of_any_size_give_the_same(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (3, 4, 2, 300, 21, 8)
    q = torch.randn(3, 4, 300, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(3, 2, 21, 8, dtype=torch.float64, requires_grad=True)
    for kind in ("plain", "all", "lse", "causal"):
        options = options_of(kind, sizes) | ({"group_size": 3} if kind == "all" else {})
        results = []
        for elements in (room, 1 << 18):
            monkeypatch.setattr(_numerics, "BLOCK_ELEMENTS", elements)
            value = ops.attention_importance(q, k, **options)
            results.append([value, *torch.autograd.grad(value.square().sum(), (q, k))])
        for small, large in zip(*results, strict=True):
            torch.testing.assert_close(small, large, rtol=0, atol=1e-12)


@pytest.mark.parametrize("junk", [1e4, 3e38])  # the products of the larger one overflow, to NaN too
def test_masked_keys_change_nothing_bitwise(junk: float) -> None:
    q, k = 10 * torch.randn(2, 2, 9, 8), torch.randn(2, 2, 33, 8)
    keep = torch.rand(2, 33) < 0.5
    sign = torch.where(torch.rand(8) < 0.5, -1.0, 1.0)
    other = torch.where(keep[:, None, :, None], k, junk * sign)
    assert torch.equal(ops.attention_importance(q, k, key_mask=keep), ops.attention_importance(q, other, key_mask=keep))


def test_strides_and_two_runs() -> None:
    q, k = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 33, 8)
    want = ops.attention_importance(q, k)
    assert torch.equal(ops.attention_importance(q, k), want)
    assert torch.equal(ops.attention_importance(inner_stride_two(q), inner_stride_two(k)), want)
    by_length = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k)]
    assert torch.equal(ops.attention_importance(*by_length), want)


def test_repeated_rows_add_up_in_a_fixed_order() -> None:
    q = torch.randn(2, 4, 64, 32, requires_grad=True)
    k, rows = torch.randn(2, 4, 33, 32), torch.randint(0, 64, (2, 500))
    first, second = (
        torch.autograd.grad(ops.attention_importance(q, k, rows=rows).square().sum(), q)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("kind", ["plain", "causal", "rows per sample", "lse"])
def test_gradcheck(kind: str) -> None:
    sizes = (2, 4, 2, 3, 4, 4)
    q = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    options = options_of(kind, sizes)
    lse = options.pop("lse", None)
    if lse is None:
        assert torch.autograd.gradcheck(lambda q, k: ops.attention_importance(q, k, **options), (q, k))
    else:
        lse = lse.detach().nan_to_num(neginf=2.0).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda q, k, lse: ops.attention_importance(q, k, lse=lse, **options), (q, k, lse)
        )


@pytest.mark.parametrize(
    "options", [{}, {"causal": True, "reduce": "mean"}, {"reduce": "none", "group_size": 2}], ids=str
)
@pytest.mark.parametrize("own_keys", [False, True])
def test_packed_segments_equal_the_segments_alone(options: dict[str, Any], own_keys: bool) -> None:
    ends_q = torch.tensor([0, 4, 8, 12, 12, 20, 22], dtype=torch.int32)
    ends_k = torch.tensor([0, 2, 4, 6, 10, 10, 16]) if own_keys else ends_q
    q = torch.randn(22, 4, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(int(ends_k[-1]), 2, 8, dtype=torch.float64, requires_grad=True)
    packed = ops.attention_importance_varlen(q, k, ends_q, ends_k if own_keys else None, **options)
    segments = zip(ends_q, ends_q[1:], ends_k, ends_k[1:])
    alone = [
        ops.attention_importance(q[a:b].transpose(0, 1)[None], k[c:d].transpose(0, 1)[None], **options)[0]
        for a, b, c, d in segments
    ]
    want = torch.cat(alone, -1)
    torch.testing.assert_close(packed, want, rtol=0, atol=1e-12)
    weight = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad((packed * weight).sum(), (q, k)),
        torch.autograd.grad((want * weight).sum(), (q, k)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_packed_gradcheck() -> None:
    q = torch.randn(7, 2, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(7, 1, 4, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([0, 2, 4, 7])
    assert torch.autograd.gradcheck(lambda q, k: ops.attention_importance_varlen(q, k, ends, causal=True), (q, k))


MEMORY = """
import torch
from tests.ops.helpers import peak_mib
from tokscale import ops
torch.set_num_threads(1)
q = torch.randn(1, 8, 3000, 32)
ops.attention_importance(q[:, :, :200], q[:, :, :200])
before = peak_mib()
ops.attention_importance(q, q)
print(peak_mib() - before)
"""


def test_memory_is_far_below_the_matrix() -> None:
    """3000 x 3000 x 8 heads: the matrix would be 275 MiB. In its own process, since a peak never goes down."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=root)
    assert 0 < float(done.stdout) < 30
