"""`topk_gather`: positions equal the definition exactly, tokens are bitwise copies, gradients go to the kept rows."""

from __future__ import annotations

import math

import pytest
import torch

from tokscale import ops
from tokscale.ops.topk_gather import reference

from .helpers import inner_stride_two

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def tied_scores(b: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """Few distinct values, both zeros, both infinities, NaN of both signs."""
    scores = torch.randint(-3, 3, (b, n)).to(dtype)
    for first, value in enumerate((-0.0, math.inf, -math.inf, math.nan, -math.nan)):
        scores[:, first::7] = value
    return scores


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 17, 64, 257, 1023, 1024, 1500])  # both sides of the switch from sort to threshold
def test_positions_equal_the_definition(n: int, dtype: torch.dtype) -> None:
    scores, x = tied_scores(3, n, dtype), torch.randn(3, n, 5)
    for k in sorted({1, min(5, n), (n + 1) // 2, n}):
        tokens, positions = ops.topk_gather(x, scores, k)
        assert torch.equal(positions, reference.topk_positions(scores, k)), (n, k)
        assert torch.equal(tokens, reference.gather_tokens(x, positions))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [17, 1023, 1500])
def test_positions_where_nothing_is_nan(n: int, dtype: torch.dtype) -> None:
    """A CPU then compares the scores themselves: both zeros are one number, infinities have their places."""
    scores, x = tied_scores(3, n, dtype).nan_to_num(-0.0, math.inf, -math.inf), torch.randn(3, n, 5)
    for k in (1, 5, n // 2, n - 1):
        assert torch.equal(ops.topk_gather(x, scores, k).positions, reference.topk_positions(scores, k)), (n, k)


@pytest.mark.parametrize("n", [17, 1500])
def test_a_mask_rules_out_even_the_largest(n: int) -> None:
    scores = tied_scores(4, n, torch.float32)
    mask = torch.rand(4, n) < 0.6
    k = int(mask.sum(-1).min())
    positions = ops.topk_gather(scores, scores, k, mask=mask).positions
    assert torch.equal(positions, reference.topk_positions(scores, k, mask))
    assert mask.gather(1, positions).all()


def test_order_of_the_special_values() -> None:
    scores = torch.tensor([[math.nan, -math.inf, -0.0, 0.0, math.inf, -1.0]])
    order = [ops.topk_gather(scores, scores, k).positions[0].tolist() for k in range(1, 7)]
    assert order == [[4], [2, 4], [2, 3, 4], [2, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("n", [64, 2048])
def test_a_sample_does_not_depend_on_its_batch(n: int) -> None:
    scores = tied_scores(5, n, torch.bfloat16)
    together = ops.topk_gather(scores, scores, 33).positions
    alone = torch.cat([ops.topk_gather(s[None], s[None], 33).positions for s in scores])
    assert torch.equal(together, alone)


def test_several_tensors_of_any_dtype_and_rank() -> None:
    scores = torch.randn(2, 9)
    x = (torch.randn(2, 9, 3, 4).bfloat16(), torch.arange(18).reshape(2, 9), torch.rand(2, 9, 1) < 0.5)
    tokens, positions = ops.topk_gather(x, scores, 4)
    assert isinstance(tokens, tuple)
    for kept, full in zip(tokens, x, strict=True):
        assert kept.dtype == full.dtype
        assert torch.equal(kept, reference.gather_tokens(full, positions))


def test_strides_are_respected() -> None:
    x, scores = torch.randn(2, 9, 4), torch.randn(2, 9)
    want = ops.topk_gather(x, scores, 4)
    got = ops.topk_gather(x.transpose(0, 1).contiguous().transpose(0, 1), inner_stride_two(scores), 4)
    assert torch.equal(got.tokens, want.tokens) and torch.equal(got.positions, want.positions)


def test_kept_rows_are_contiguous_however_the_axes_lie() -> None:
    x = torch.randn(2, 9, 3, 4, 5).transpose(2, 4)
    tokens, positions = ops.topk_gather(x, torch.randn(2, 9), 4)
    assert tokens.is_contiguous() and torch.equal(tokens, reference.gather_tokens(x, positions))


def test_kept_rows_are_bitwise_copies() -> None:
    bits = torch.tensor([0x7FC00001, -0x400000, 0x00000001, -0x80000000], dtype=torch.int32)  # NaN payloads, -0.0
    x = bits.view(torch.float32).reshape(1, 4, 1)
    kept = ops.topk_gather(x, torch.tensor([[4.0, 3, 2, 1]]), 4).tokens
    assert torch.equal(kept.view(torch.int32).flatten(), bits)


def test_the_gradient_scatters_to_the_kept_rows() -> None:
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(2, 9, requires_grad=True)
    tokens, positions = ops.topk_gather(x, scores, 4)
    weight = torch.randn_like(tokens)
    (tokens * weight).sum().backward()
    want = torch.zeros_like(x).scatter_(1, positions[..., None].expand(-1, -1, 3), weight)
    assert torch.equal(x.grad, want)
    assert scores.grad is None
    assert torch.autograd.gradcheck(lambda x: ops.topk_gather(x, scores, 4).tokens, x)
    assert torch.autograd.gradgradcheck(lambda x: ops.topk_gather(x, scores, 4).tokens, x)


def test_empty_batch() -> None:
    tokens, positions = ops.topk_gather(torch.zeros(0, 5, 2), torch.zeros(0, 5), 3)
    assert tokens.shape == (0, 3, 2) and positions.shape == (0, 3)
