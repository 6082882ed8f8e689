"""`attention_importance` by its Triton kernels: every option against the definition in float64, at odd sizes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops import _triton
from tokscale.ops.attention_importance import reference, triton_packed
from tokscale.ops.attention_importance.configs import segment_tile

from ..helpers import EPS, doubled, error, inner_stride_two
from ..test_attention_importance import OPTIONS, eager, options_of

SMALL = (2, 2, 1, 17, 65, 24)  # b h g m n d: two key blocks, heads packed, a padded head size


def case(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    b, h, g, m, n, d = sizes
    return torch.randn(b, h, m, d).to(dtype).requires_grad_(), torch.randn(b, g, n, d).to(dtype).requires_grad_()


def results(q: Tensor, k: Tensor, inputs: list[Tensor], backend: str = "triton", **options: Any) -> tuple[Tensor, ...]:
    """The value, and gradients of a weighted sum of it."""
    value = ops.attention_importance(q, k, backend=backend, **options)
    weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view(value.shape)
    grads = torch.autograd.grad((value.double() * weight).sum(), inputs, allow_unused=True, materialize_grads=True)
    return (value.detach(), *grads)


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_option(kind: str) -> None:
    q, k = case(SMALL)
    options = options_of(kind, SMALL)
    exact = dict(options)
    if "lse" in options:
        options["lse"] = options["lse"].detach().float().requires_grad_()
        exact["lse"] = doubled(options["lse"])
    inputs = [q, k, *([options["lse"]] if "lse" in options else [])]
    value, *grads = results(q, k, inputs, **options)
    _, *theirs = results(q, k, inputs, backend="torch", **options)
    exact_inputs = [doubled(q), doubled(k), *([exact["lse"]] if "lse" in options else [])]
    want = reference.attention_importance(*exact_inputs[:2], **exact)
    weight = torch.linspace(-1, 1, want.numel(), dtype=torch.float64).view(want.shape)
    assert error(value, want) <= 3e-6
    for got, own, grad in zip(grads, theirs, torch.autograd.grad((want * weight).sum(), exact_inputs), strict=True):
        exact_grad = grad.nan_to_num(0.0)  # the definition's NaN: rows without keys
        assert error(got, exact_grad) <= 3 * error(own, exact_grad) + 2e-6


SIZES = [(1, 1, 1, 1, 1, 16), (1, 4, 2, 16, 63, 72), (1, 2, 1, 65, 17, 64), (1, 1, 1, 17, 64, 144)]
MORE = [(1, 2, 2, 129, 577, 64), (2, 8, 2, 64, 130, 80), (1, 2, 2, 64, 65, 128), (1, 2, 1, 33, 129, 256)]


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("sizes", [*SIZES, *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)], ids=str)
def test_error_is_within_twice_pytorch_s_own(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k = case(sizes, dtype)
    value, *grads = results(q, k, [q, k])
    assert value.dtype == torch.float32 and grads[0].dtype == dtype
    q64, k64 = doubled(q), doubled(k)
    oracle, own = reference.attention_importance(q64, k64), eager(q, k)
    assert error(value, oracle) <= 2 * error(own, oracle) + 3e-6
    assert float(value.sum()) == pytest.approx(sizes[0] * sizes[1] * sizes[3], rel=1e-4)  # heads x rows
    weight = torch.linspace(-1, 1, oracle.numel(), dtype=torch.float64).view(oracle.shape)
    want = torch.autograd.grad((oracle * weight).sum(), (q64, k64))
    theirs = torch.autograd.grad((own.double() * weight).sum(), (q, k))
    for got, exact, other in zip(grads, want, theirs, strict=True):
        assert error(got, exact) <= 3 * error(other, exact) + EPS[dtype]


def test_two_runs_are_bitwise_equal_and_strides_change_nothing() -> None:
    q, k = case(SMALL)
    options = {"causal": True, "key_mask": torch.rand(2, 65) < 0.6}
    first = results(q, k, [q, k], **options)
    by_length = [t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in (q, k)]
    wide = [inner_stride_two(t).requires_grad_() for t in (q, k)]
    for other in ((q, k), by_length, wide):
        for one, two in zip(first, results(*other, [*other], **options), strict=True):
            assert torch.equal(one, two)


def test_an_expanded_batch_and_masked_content() -> None:
    q, k = (t.detach() for t in case((1, 4, 2, 5, 33, 16)))
    keep = torch.rand(3, 33) < 0.5
    expanded = (t.expand(3, -1, -1, -1) for t in (q, k))
    got = ops.attention_importance(*expanded, key_mask=keep, backend="triton")
    other = k.expand(3, -1, -1, -1).masked_fill(~keep[:, None, :, None], 1e4)
    assert torch.equal(got, ops.attention_importance(q.repeat(3, 1, 1, 1), other, key_mask=keep, backend="triton"))


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's word for a maximum over NaN
def test_nan_in_gives_nan_out_and_only_there() -> None:
    q, k = (t.detach() for t in case((2, 2, 1, 17, 33, 16)))
    q[0, 1, 3, 5] = torch.nan
    got = ops.attention_importance(q, k, reduce="none", backend="triton")
    assert got[0, 1].isnan().all() and not got[0, 0].isnan().any() and not got[1].isnan().any()


def test_nothing_is_read_or_written_outside() -> None:
    """Guard bands of NaN round the inputs; the result sits in poisoned memory."""
    tensors = [t.detach() for t in case(SMALL)]
    banded = []
    for t in tensors:
        wide = torch.full((t.shape[0], t.shape[1], t.shape[2] + 64, t.shape[3] + 40), torch.nan)
        wide[:, :, 32:-32, 16:-24] = t
        banded.append(wide[:, :, 32:-32, 16:-24])
    plain = results(*(t.requires_grad_() for t in tensors), tensors, causal=True)
    banded = [t.requires_grad_() for t in banded]
    for one, two in zip(plain, results(*banded, banded, causal=True), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("sizes", [(2, 2, 1, 0, 6, 8), (2, 2, 2, 5, 0, 8), (0, 2, 2, 5, 6, 8)], ids=str)
def test_empty_tensors(sizes: tuple[int, ...]) -> None:
    q, k = case(sizes)
    value, *grads = results(q, k, [q, k])
    assert value.shape == (sizes[0], sizes[4]) and not value.any()
    assert [g.shape for g in grads] == [q.shape, k.shape] and not any(g.any() for g in grads)


@pytest.mark.parametrize("causal", [False, True])
def test_keys_split_over_programs_add_up(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (1, 2, 1, 3, 520, 16)
    q, k = case(sizes)
    whole = results(q, k, [q, k], causal=causal)
    monkeypatch.setattr(_triton, "processors", lambda device: 64)  # 4 parts
    for one, two in zip(whole, results(q, k, [q, k], causal=causal), strict=True):
        assert error(two, one.double()) <= 2e-6


PACKED = [{}, {"causal": True, "reduce": "mean"}, {"reduce": "none", "group_size": 2}]


@pytest.mark.parametrize("options", PACKED, ids=str)
@pytest.mark.parametrize("own_keys", [False, True])
@pytest.mark.parametrize("in_one_tile", [True, False])
def test_packed_segments(
    in_one_tile: bool, own_keys: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fp32 = (lambda *sizes: segment_tile(*sizes[:3], 2)) if in_one_tile else (lambda *_: None)
    monkeypatch.setattr(triton_packed, "segment_tile", in_fp32)
    ends_q = torch.tensor([0, 4, 8, 8, 28], dtype=torch.int32)
    ends_k = torch.tensor([0, 4, 8, 74, 80]) if own_keys else None  # the third has no rows
    q = torch.randn(28, 4, 24, requires_grad=True)
    k = torch.randn(80 if own_keys else 28, 2, 24, requires_grad=True)
    got = ops.attention_importance_varlen(q, k, ends_q, ends_k, backend="triton", **options)
    q64, k64 = doubled(q), doubled(k)
    want = ops.attention_importance_varlen(q64, k64, ends_q, ends_k, **options)
    weight = torch.randn_like(want)
    assert error(got, want) <= 3e-6
    if in_one_tile:  # which the backward does not read
        assert torch.equal(got, ops.attention_importance_varlen(q, k, ends_q, ends_k, backend="triton", **options))
        return
    grads = torch.autograd.grad((got.double() * weight).sum(), (q, k))
    for one, two in zip(grads, torch.autograd.grad((want * weight).sum(), (q64, k64)), strict=True):
        assert error(one, two) <= 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_windows_in_one_launch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of windows, 64 and fewer at the border, as a window tower has them; NaN stays in its window."""
    monkeypatch.setattr(triton_packed.triton_path, "log_sum_exp", None)
    ends = torch.tensor([0, 64, 112, 112, 128], dtype=torch.int32)
    q, k = torch.randn(2, 128, 2, 80).to(dtype).unbind()
    oracle = ops.attention_importance_varlen(q.double(), k.double(), ends, backend="torch")
    own = torch.cat([eager(*(t[s:e].transpose(0, 1)[None] for t in (q, k)))[0] for s, e in itertools.pairwise(ends)])
    got = ops.attention_importance_varlen(q, k, ends, backend="triton")
    assert error(got, oracle) <= 2 * error(own, oracle) + 3e-6
    assert float(got.sum()) == pytest.approx(128 * 2, rel=1e-4)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's word for a maximum over NaN
def test_nan_stays_in_its_segment() -> None:
    q, k = torch.randn(2, 12, 2, 16).half().unbind()
    q[5, 1, 3] = torch.nan
    got = ops.attention_importance_varlen(q, k, torch.tensor([0, 4, 12]), reduce="none", backend="triton")
    assert got[1, 4:].isnan().all() and int(got.isnan().sum()) == 8


def test_segments_that_fit_no_tile() -> None:
    assert segment_tile("sm_90", 128, 64, 2) == (64, 64, 4, 1)
    for longest, block_d, bytes_per_element in ((129, 64, 2), (65, 256, 2), (16, 64, 4)):
        assert segment_tile("sm_90", block_d, longest, bytes_per_element) is None
