"""`fusion_attention` by its Triton kernels: outputs and every gradient against the definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops import _triton

from ..helpers import EPS, doubled, error, inner_stride_two
from ..test_fusion_attention import MASKS, call, define, eager, leaves, make, weighted

ROUTE = "attention"
SMALL = (2, 2, 1, 3, 65, 13, 16)  # b h g m n t d: two key blocks, heads packed
EMPTY = [(2, 2, 1, 5, 0, 4, 8), (2, 2, 2, 4, 0, 0, 8), (2, 2, 2, 0, 5, 3, 8), (0, 2, 2, 3, 5, 3, 8)]
ODD = [(1, 2, 1, 65, 17, None, 24), (1, 2, 2, 1, 1, 1, 16), *EMPTY]


def run(case: dict[str, Any], **options: Any) -> list[Tensor]:
    asked = {"return_lse": True, "return_importance": True, "backend": "triton", **options}
    return [o for o in call(case, ROUTE, **asked) if o is not None]


def gradients(outputs: list[Tensor], weights: list[Tensor], case: dict[str, Any]) -> list[Tensor]:
    loss = weighted(outputs, weights)
    if not loss.requires_grad:
        return []
    grads = torch.autograd.grad(loss, leaves(case), allow_unused=True, materialize_grads=True)
    return [g.nan_to_num(0.0) for g in grads]  # the definition's NaN: rows without keys


def finite(x: Tensor) -> Tensor:
    return x.masked_fill(x == -torch.inf, -99.0)  # lse of a row without keys: must be there in both


@pytest.mark.parametrize(
    ("sizes", "masks"), [*((SMALL, masks) for masks in MASKS), *((sizes, "masks") for sizes in ODD)], ids=str
)
def test_every_output_and_gradient(sizes: tuple[Any, ...], masks: str) -> None:
    case = make(sizes, masks, torch.float32, ROUTE)
    exact = {name: doubled(value) for name, value in case.items()}
    got, theirs, want = run(case), run(case, backend="torch"), define(exact, ROUTE)
    weights = [torch.randn_like(w) for w in want]
    pairs = zip(got, theirs, want, strict=True)
    for value, own, oracle in pairs:
        assert error(finite(value), finite(oracle)) <= 2 * error(finite(own), finite(oracle)) + 3e-6
    ours, base, oracle_grads = (
        gradients(outputs, weights, inputs) for outputs, inputs in ((got, case), (theirs, case), (want, exact))
    )
    for value, own, oracle in zip(ours, base, oracle_grads, strict=True):
        assert error(value, oracle) <= 3 * error(own, oracle) + 2e-6


SIZES = [(1, 2, 1, 17, 63, 13, 72)]
MORE = [(2, 4, 2, 16, 129, 33, 64), (1, 2, 2, 65, 130, 8, 128), (1, 2, 1, 16, 65, 8, 256)]


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("sizes", [*SIZES, *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)], ids=str)
def test_error_is_within_twice_pytorch_s_own(sizes: tuple[Any, ...], dtype: torch.dtype) -> None:
    case = make(sizes, "masks", dtype, ROUTE)
    exact = {name: doubled(value) for name, value in case.items()}
    oracle, own = define(exact, ROUTE), eager(case, ROUTE)
    got = call(case, ROUTE, return_lse=True, return_importance=True, backend="triton")
    assert got.out.dtype == dtype and got.lse.dtype == got.importance.dtype == torch.float32
    assert error(got.out, oracle[0]) <= 2 * error(own[0], oracle[0]) + EPS[dtype]
    assert error(got.importance, oracle[2]) <= 2 * error(own[1], oracle[2]) + 3e-6
    assert error(got.lse, oracle[1]) <= 1e-5
    received = float((got.importance.sum() + got.text_importance.sum()).detach())
    assert received == pytest.approx(sizes[0] * sizes[1] * sizes[3], rel=1e-4)  # heads x rows
    weight = torch.randn_like(oracle[0])
    grads = torch.autograd.grad((got.out.double() * weight).sum(), leaves(case))
    want = torch.autograd.grad((oracle[0] * weight).sum(), leaves(exact))
    base = torch.autograd.grad((own[0].double() * weight).sum(), leaves(case))
    for value, oracle_grad, other in zip(grads, want, base, strict=True):
        cancels = 4 if value.dim() == 1 else 1  # of text_bias: rows x text signed terms become one number
        assert error(value, oracle_grad) <= 3 * error(other, oracle_grad) + cancels * EPS[dtype]


def test_keys_split_over_programs_are_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make((1, 1, 1, 3, 520, 5, 16), "masks", torch.float32, ROUTE, biases=False)
    whole = run(case)
    weights = [torch.randn_like(value, dtype=torch.float64) for value in whole]
    plain = [*whole, *gradients(whole, weights, case)]
    monkeypatch.setattr(_triton, "processors", lambda device: 64)  # 4 parts
    outputs = run(case)
    for value, split in zip(plain, [*outputs, *gradients(outputs, weights, case)], strict=True):
        assert error(split, value.detach().double()) <= 3e-6


def test_two_runs_are_bitwise_equal() -> None:
    case = make(SMALL, "masks", torch.float32, ROUTE)
    outputs = run(case), run(case)
    weights = [torch.randn_like(value, dtype=torch.float64) for value in outputs[0]]
    first, second = ([*values, *gradients(values, weights, case)] for values in outputs)
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)


def test_strides_and_masked_content_change_nothing_bitwise() -> None:
    case = make(SMALL, "masks", torch.float32, ROUTE)
    want = run(case)
    names = ("q", "k_vision", "v_vision", "k_text", "v_text")
    by_length = {n: case[n].detach().transpose(1, 2).contiguous().transpose(1, 2) for n in names}
    hidden = ~case["vision_mask"][:, None, :, None]
    masked = {n: case[n].detach().masked_fill(hidden, 1e4) for n in ("k_vision", "v_vision")}
    wide = {n: inner_stride_two(case[n]) for n in names}
    for change in (by_length, masked, wide):
        for one, two in zip(want, run({**case, **change}), strict=True):
            assert torch.equal(one, two)


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's word for a maximum over NaN
def test_nan_in_gives_nan_out_and_only_there() -> None:
    case = {name: value.detach() for name, value in make(SMALL, "none", torch.float32, ROUTE, biases=False).items()}
    case["q"][0, 1, 2, 5] = torch.nan
    out, lse, *_ = run(case)
    assert out[0, 1, 2].isnan().all() and lse[0, 1, 2].isnan()
    assert int(lse.isnan().sum()) == 1 and not out[1].isnan().any()
    case["q"].nan_to_num_(0.0)
    case["v_vision"][1, 0, 7, 3] = torch.nan
    out = run(case)[0]
    assert out[1, :, :, 3].isnan().all() and int(out.isnan().sum()) == out[1, :, :, 3].numel()


def test_importance_of_the_joint_softmax_is_that_of_its_own_operator() -> None:
    case = make(SMALL, "masks", torch.float32, ROUTE, biases=False)
    got = call(case, ROUTE, return_lse=True, return_importance=True, backend="triton")
    other = ops.attention_importance(
        case["q"], case["k_vision"], lse=got.lse, key_mask=case["vision_mask"], backend="triton"
    )
    assert torch.equal(got.importance, other)


@pytest.mark.parametrize("asked", [{"return_lse": False}, {"return_importance": False}], ids=str)
def test_what_is_not_asked_for_is_none_and_the_backward_runs(asked: dict[str, bool]) -> None:
    case = make(SMALL, "none", torch.float32, ROUTE)
    options = {"return_lse": True, "return_importance": True, "backend": "triton"} | asked
    got = call(case, ROUTE, **options)
    assert (got.lse is None) != options["return_lse"]
    assert (got.importance is None) != options["return_importance"]
    grads = torch.autograd.grad(got.out.square().sum(), leaves(case))
    theirs = torch.autograd.grad(call(case, ROUTE, backend="torch").out.square().sum(), leaves(case))
    for one, two in zip(grads, theirs, strict=True):
        assert error(one, two.double()) <= 5e-6
