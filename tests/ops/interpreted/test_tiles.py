"""Whole tiles and the last one by the Triton kernels, scales of every sign, and values that are not finite.

Tiles of fp32 hold 16 rows and 16 keys.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops.attention_importance import reference as importance_reference
from tokscale.ops.fusion_attention import reference as fusion_reference

from ..helpers import doubled, error

INF = torch.inf
LENGTHS = [(32, 32), (5, 9), (17, 33), (16, 47)]  # m, n: whole tiles, less than one, one more, one less
INFINITE = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's word for inf - inf


def draw(length: int, heads: int = 1, d: int = 16) -> Tensor:
    return torch.randn(1, heads, length, d, requires_grad=True)


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum that weighs every element of every output differently."""
    weights = [torch.linspace(-1, 1, o.numel(), dtype=torch.float64).view(o.shape) for o in outputs]
    loss = sum((o.double() * w).sum() for o, w in zip(outputs, weights, strict=True))
    return list(torch.autograd.grad(loss, inputs, materialize_grads=True, allow_unused=True))


@pytest.mark.parametrize("scale", [0.4, -0.7, 0.0])
@pytest.mark.parametrize(("m", "n", "heads"), [*((*lengths, 1) for lengths in LENGTHS), (32, 32, 2), (17, 33, 2)])
def test_importance_over_whole_tiles_and_the_last(m: int, n: int, heads: int, scale: float) -> None:
    """Two heads of one key head lie in one tile."""
    q, k = draw(m, heads), draw(n)
    exact = [doubled(q), doubled(k)]
    for options in ({}, {"causal": True}):
        got = ops.attention_importance(q, k, scale=scale, backend="triton", **options)
        want = importance_reference.attention_importance(*exact, scale=scale, **options)
        assert error(got, want) <= 3e-6
        for one, two in zip(gradients([got], [q, k]), gradients([want], exact), strict=True):
            nothing = scale == 0 and float((one - two).abs().max()) <= 5e-6  # a gradient of 0 has no relative error
            assert nothing or error(one, two.nan_to_num(0.0)) <= 5e-6


@pytest.mark.parametrize("offset", [-20, -1, 15, 16, 31])
@pytest.mark.parametrize("options", [{}, {"rows": slice(3, 40)}, {"row_mask": True}], ids=str)
def test_causal_tiles_of_which_rows_see_all_some_and_none(offset: int, options: dict[str, Any]) -> None:
    q, k = draw(50), draw(49)
    if "row_mask" in options:
        options = {"row_mask": torch.arange(50)[None] % 3 > 0}
    exact = [doubled(q), doubled(k)]
    got = ops.attention_importance(q, k, causal=True, offset=offset, backend="triton", **options)
    want = importance_reference.attention_importance(*exact, causal=True, offset=offset, **options)
    assert error(got, want) <= 3e-6
    for one, two in zip(gradients([got], [q, k]), gradients([want], exact), strict=True):
        assert error(one, two.nan_to_num(0.0)) <= 5e-6  # the definition's NaN: rows without keys


@pytest.mark.parametrize("scale", [0.4, -0.7, 0.0])
@pytest.mark.parametrize(("m", "n"), LENGTHS)
def test_fusion_over_whole_tiles_and_the_last(m: int, n: int, scale: float) -> None:
    tensors = [draw(m, 2), draw(n, 2), draw(n, 2), draw(17, 2), draw(17, 2)]
    exact = [doubled(t) for t in tensors]
    for bias in (None, torch.randn(2)):
        got = ops.fusion_attention(
            *tensors, scale=scale, text_bias=bias, return_lse=True, return_importance=True, backend="triton"
        )
        outputs = [got.out, got.lse, got.importance, got.text_importance]
        want = list(fusion_reference.fusion_attention(*exact, scale=scale, text_bias=doubled(bias)))
        for one, two in zip(outputs, want, strict=True):
            assert error(one, two) <= 5e-6
        for one, two in zip(gradients(outputs, tensors), gradients(want, exact), strict=True):
            assert error(one, two) <= 1e-5 or float((one - two).abs().max()) <= 1e-5


@INFINITE
@pytest.mark.parametrize("content", [torch.nan, INF])
@pytest.mark.parametrize("m", [16, 17])
def test_rows_of_a_given_lse_that_do_not_vote(m: int, content: float) -> None:
    q, k = draw(m).detach(), draw(33).detach()
    lse = torch.logsumexp(q @ k.transpose(-1, -2) / 4, -1)
    lse[..., 3] = -INF
    want = ops.attention_importance(q, k, lse=lse, backend="triton")
    votes = torch.arange(m)[None] != 3
    assert torch.equal(want, ops.attention_importance(q, k, lse=lse, row_mask=votes, backend="triton"))
    q[..., 3, :] = content
    assert torch.equal(want, ops.attention_importance(q, k, lse=lse, backend="triton"))
    assert torch.equal(want, ops.attention_importance(q, k, row_mask=votes, lse=lse, backend="triton"))
    lse[..., 4] = torch.nan
    assert ops.attention_importance(q, k, lse=lse, backend="triton").isnan().all()


@INFINITE
@pytest.mark.parametrize("scale", [0.4, -0.7])
@pytest.mark.parametrize("m", [16, 5])
def test_scores_of_minus_infinity_are_unseen(m: int, scale: float) -> None:
    """A key of which every row gives -inf is as a masked one, also beside rows outside the tensor, whose zeros times
    infinity are NaN; a row that has no other key sees none."""
    q, k, v = draw(m).detach().abs(), draw(20).detach(), draw(20).detach()
    keep = torch.arange(20)[None] != 7
    want = ops.attention_importance(q, k, scale=scale, key_mask=keep, backend="triton")
    out = ops.fusion_attention(q, k, v, vision_mask=keep, scale=scale, backend="triton").out
    k[..., 7, :] = -INF if scale > 0 else INF
    assert torch.equal(want, ops.attention_importance(q, k, scale=scale, backend="triton"))
    assert torch.equal(out, ops.fusion_attention(q, k, v, scale=scale, backend="triton").out)
    only = k[:, :, 7:8]
    assert not ops.attention_importance(q, only, scale=scale, backend="triton").any()
    got = ops.fusion_attention(q, only, v[:, :, :1], scale=scale, return_lse=True, backend="triton")
    assert not got.out.any() and (got.lse == -INF).all()


@INFINITE
def test_a_score_of_infinity_gives_nan_in_its_row_only() -> None:
    q, k, v = draw(17).detach().abs(), draw(33).detach(), draw(33).detach()
    q[..., 3, :] = INF
    k[..., 5, :] = k[..., 5, :].abs()
    got = ops.fusion_attention(q, k, v, return_lse=True, backend="triton")
    assert got.out[..., 3, :].isnan().all() and int(got.lse.isnan().sum()) == 1
    assert not got.out[..., torch.arange(17) != 3, :].isnan().any()
    assert ops.attention_importance(q, k, backend="triton").isnan().all()
