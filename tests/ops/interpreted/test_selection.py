"""`topk_gather` and `greedy_select` by their Triton kernels: every tie rule on exact values, as PyTorch has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops

from ..helpers import inner_stride_two, lattice
from ..test_greedy_select import GOLDEN


def both(function: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    return tuple(function(*args, backend=backend, **options) for backend in ("triton", "torch"))  # type: ignore[return-value]


def same(got: ops.GreedySelection, want: ops.GreedySelection) -> None:
    assert torch.equal(got.positions, want.positions)
    torch.testing.assert_close(got.gains, want.gains.float(), rtol=1e-5, atol=1e-6)


def scores(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    x = torch.randn(3, n)
    if kind == "ties":
        x = torch.randint(-2, 3, (3, n)).float() * 0.0 if n % 2 else torch.randint(-2, 3, (3, n)).float()
    if kind == "special":
        odd = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40])
        x = odd[torch.randint(0, 8, (3, n))]
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["random", "ties", "special"])
@pytest.mark.parametrize("n", [1, 17, 65])
def test_top_k(n: int, kind: str, dtype: torch.dtype) -> None:
    x, s = torch.randn(3, n, 2, 3), scores(kind, n, dtype)
    mask = (torch.rand(3, n) < 0.6).index_fill_(1, torch.tensor([n - 1]), True)
    for k, allowed in (((n + 1) // 2, None), (n, None), (int(mask.sum(1).min()), mask)):
        got, want = both(ops.topk_gather, (x, s), s, k, mask=allowed)
        assert torch.equal(got.positions, want.positions)
        assert torch.equal(got.tokens[0], want.tokens[0])


def test_top_k_of_strided_scores_and_no_samples() -> None:
    s = torch.randn(2, 40)
    got = ops.topk_gather(s, inner_stride_two(s), 7, backend="triton")
    assert torch.equal(got.positions, ops.topk_gather(s, s, 7, backend="torch").positions)
    assert ops.topk_gather(s[:0], s[:0], 7, backend="triton").positions.shape == (0, 7)


COPIED = [torch.bool, torch.uint8, torch.int16, torch.bfloat16, torch.float32, torch.int64, torch.float64]
COPIED += [torch.float8_e4m3fn, torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", COPIED, ids=str)
def test_kept_rows_are_bitwise_copies_in_every_dtype(dtype: torch.dtype) -> None:
    """Random bits: NaN with payloads, numbers below the smallest normal one, -0.0."""
    item = torch.empty(0, dtype=dtype).element_size()
    x = torch.randint(0, 2 if dtype == torch.bool else 256, (2, 11, 5 * item), dtype=torch.uint8).view(dtype)
    s = torch.rand(2, 11)
    got, want = both(ops.topk_gather, x, s, 9)
    assert got.tokens.dtype == dtype and got.tokens.shape == (2, 9, 5)
    assert torch.equal(got.tokens.view(torch.uint8), want.tokens.view(torch.uint8))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "one number": lambda x: x[..., 0, 0, 0],
    "all in one axis": lambda x: x,
    "every other": lambda x: inner_stride_two(x),
    "keys by head": lambda x: x.flatten(3).transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1, -1),
    "heads repeated": lambda x: x[:, :, :1].expand(-1, -1, 3, -1, -1),
    "three axes": lambda x: x.transpose(2, 4),
    "part of a wider row": lambda x: torch.cat([x.new_full(x.shape, torch.nan), x], 3)[:, :, :, 7:],
    "empty": lambda x: x[..., :0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_rows_are_read_by_strides(layout: str) -> None:
    x = LAYOUTS[layout](torch.randn(2, 19, 3, 7, 5)).requires_grad_()
    got, want = both(ops.topk_gather, x, torch.rand(2, 19), 11)
    assert torch.equal(got.tokens, want.tokens) and got.tokens.is_contiguous()
    weight = torch.randn_like(want.tokens)
    grads = [torch.autograd.grad((tokens * weight).sum(), x)[0] for tokens in (got.tokens, want.tokens)]
    assert torch.equal(*grads) and grads[0].count_nonzero() == weight.count_nonzero()


def test_a_row_of_several_blocks() -> None:
    x = (torch.randn(1, 9, 600), torch.randn(1, 9, 300, 2).transpose(2, 3))
    got, want = both(ops.topk_gather, x, torch.rand(1, 9), 4)
    assert all(torch.equal(one, two) for one, two in zip(got.tokens, want.tokens, strict=True))


@pytest.mark.parametrize("n", [1, 2, 13, 65])
@pytest.mark.parametrize("option", ["none", "relevance", "start", "mask", "relevance and mask"])
def test_max_min_on_a_lattice(n: int, option: str) -> None:
    distances, options = lattice(3, n), {}
    if "relevance" in option:
        options["relevance"] = torch.randint(0, 5, (3, n)).float()
    if "start" in option:
        options["start"] = torch.randint(0, n, (3,))
    if "mask" in option:
        options["mask"] = (torch.rand(3, n) < 0.7).index_fill_(1, torch.tensor([n - 1]), True)
    most = int(options["mask"].sum(1).min()) if "mask" in options else n
    for k in sorted({1, (most + 1) // 2, most}) if n < 65 else (20,):
        got, want = both(ops.greedy_select, distances, k, **options)
        assert torch.equal(got.positions, want.positions) and torch.equal(got.gains, want.gains)


@pytest.mark.parametrize("value", [0.0, 1.0, -math.inf])
def test_all_equal_takes_the_lowest_indices(value: float) -> None:
    got = ops.greedy_select(torch.full((2, 7, 7), value), 7, backend="triton")
    assert got.positions.tolist() == [list(range(7))] * 2


def test_an_asymmetric_matrix_in_half_precision_by_strides_is_never_changed() -> None:
    distances = torch.randint(0, 9, (2, 33, 33)).bfloat16()
    before = distances.clone()
    same(*both(ops.greedy_select, distances, 9))
    same(*both(ops.greedy_select, distances.transpose(1, 2), 9))
    assert torch.equal(distances, before)


def test_dpp_golden() -> None:
    got = ops.greedy_select(GOLDEN, 4, method="dpp", backend="triton")
    assert got.positions.tolist() == [[1, 0, 3, 2]]
    torch.testing.assert_close(got.gains, torch.tensor([[0.9, 0.7, 0.5492, 0.1295]]), rtol=0, atol=5e-5)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_fallback", [False, True])
def test_dpp_beyond_its_rank(with_fallback: bool, with_mask: bool) -> None:
    x = torch.randn(2, 33, 6, generator=torch.Generator().manual_seed(1))
    kernel = x @ x.transpose(1, 2)
    options: dict[str, Any] = {"fallback": lattice(2, 33)} if with_fallback else {}
    if with_mask:
        options["mask"] = torch.rand(2, 33) < 0.8
    same(*both(ops.greedy_select, kernel, 20, method="dpp", **options))
    same(*both(ops.greedy_select, torch.zeros_like(kernel), 5, method="dpp", **options))


@pytest.mark.parametrize("n", [1, 65])
def test_dpp_of_full_rank(n: int) -> None:
    x = torch.randn(1, n, 80, generator=torch.Generator().manual_seed(2))
    kernel = x @ x.transpose(1, 2) / 80
    first, second = (ops.greedy_select(kernel, n, method="dpp", backend="triton") for _ in range(2))
    assert torch.equal(first.positions, second.positions) and torch.equal(first.gains, second.gains)
    same(first, ops.greedy_select(kernel, n, method="dpp", backend="torch"))
