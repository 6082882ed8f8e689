"""`projected_fusion_attention` by Triton: the folded path's kernels, outputs and every gradient against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokscale import ops
from tokscale.ops import _backend
from tokscale.ops.projected_fusion_attention.arguments import folding_pays

from ..helpers import EPS, doubled, error, inner_stride_two
from ..test_fusion_attention import C, Case, call, define, eager, leaves, make
from .test_fusion_attention import finite, gradients

ROUTE = "folded"
SMALL = (2, 2, 1, 5, 33, 9, 16)  # b h g m n t d: rows of two blocks, width 42 padded to 48
LONG = (1, 2, 2, 3, 250, 13, 8)  # two key blocks, the second with the end of vision
EMPTY = [(2, 2, 1, 5, 0, 4, 8), (2, 2, 2, 4, 0, 0, 8), (2, 2, 2, 0, 5, 3, 8), (0, 2, 2, 3, 5, 3, 8)]
CASES = [(SMALL, "none"), (SMALL, "lengths"), (SMALL, "dead sample"), (LONG, "masks")]
CASES += [((1, 2, 1, 17, 17, None, 24), "masks"), ((1, 2, 2, 1, 1, 0, 16), "masks"), *((s, "none") for s in EMPTY)]


def run(case: Case, **options: Any) -> list[torch.Tensor]:
    asked = {"return_lse": True, "return_importance": True, "backend": "triton", **options}
    return [o for o in call(case, ROUTE, **asked) if o is not None]


@pytest.mark.parametrize(("sizes", "masks"), CASES, ids=str)
def test_every_output_and_gradient(sizes: tuple[Any, ...], masks: str) -> None:
    case = make(sizes, masks, torch.float32, ROUTE)
    exact = {name: doubled(value) for name, value in case.items()}
    got, theirs, want = run(case), run(case, backend="torch"), define(exact, ROUTE)
    weights = [torch.randn_like(w) for w in want]
    for value, own, oracle in zip(got, theirs, want, strict=True):
        assert error(finite(value), finite(oracle)) <= 2 * error(finite(own), finite(oracle)) + 3e-6
    ours, base, oracle_grads = (
        gradients(outputs, weights, inputs) for outputs, inputs in ((got, case), (theirs, case), (want, exact))
    )
    for value, own, oracle in zip(ours, base, oracle_grads, strict=True):
        assert error(value, oracle) <= 3 * error(own, oracle) + 2e-6


MORE = [(2, 4, 2, 17, 63, 13, 16), (1, 4, 4, 64, 257, 8, 80)]


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("sizes", [SMALL, *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)], ids=str)
def test_error_is_within_twice_pytorch_s_own(sizes: tuple[Any, ...], dtype: torch.dtype) -> None:
    case = make(sizes, "masks", dtype, ROUTE)
    exact = {name: doubled(value) for name, value in case.items()}
    oracle, own = define(exact, ROUTE), eager(case, ROUTE)
    got = call(case, ROUTE, return_lse=True, return_importance=True, backend="triton")
    assert got.out.dtype == dtype and got.lse.dtype == got.importance.dtype == torch.float32
    assert error(got.out, oracle[0]) <= 2 * error(own[0], oracle[0]) + EPS[dtype]
    assert error(got.importance, oracle[2]) <= 2 * error(own[1], oracle[2]) + 3e-6
    received = float((got.importance.sum() + got.text_importance.sum()).detach())
    assert received == pytest.approx(sizes[0] * sizes[1] * sizes[3], rel=1e-4)  # heads x rows
    weight = torch.randn_like(oracle[0])
    grads = torch.autograd.grad((got.out.double() * weight).sum(), leaves(case))
    want = torch.autograd.grad((oracle[0] * weight).sum(), leaves(exact))
    base = torch.autograd.grad((own[0].double() * weight).sum(), leaves(case))
    for value, oracle_grad, other in zip(grads, want, base, strict=True):
        cancels = 4 if value.dim() == 1 else 1  # of text_bias and b_k: many signed terms become one number
        assert error(value, oracle_grad) <= 3 * error(other, oracle_grad) + cancels * EPS[dtype]


def test_two_runs_and_masked_content_are_bitwise_equal_and_strides_change_only_rounding() -> None:
    case = make(SMALL, "masks", torch.float32, ROUTE)
    outputs = run(case), run(case)
    weights = [torch.randn_like(value, dtype=torch.float64) for value in outputs[0]]
    first, second = ([*values, *gradients(values, weights, case)] for values in outputs)
    masked = run({**case, "x": case["x"].detach().masked_fill(~case["vision_mask"][..., None], 1e4)})
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(outputs[0], masked, strict=True))
    names = ("q", "x", "w_k", "w_v", "k_text", "v_text", "b_k", "vision_bias", "text_bias")
    for one, two in zip(outputs[0], run({**case, **{n: inner_stride_two(case[n]) for n in names}}), strict=True):
        assert error(two, one.detach().double()) <= 3e-6


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # numpy's word for a maximum over NaN
def test_nan_in_gives_nan_out_and_only_there() -> None:
    case = {name: value.detach() for name, value in make(SMALL, "none", torch.float32, ROUTE, biases=False).items()}
    case["q"][0, 1, 2, 5] = torch.nan
    out, lse, importance, text_importance = run(case)
    assert out[0, 1, 2].isnan().all() and int(lse.isnan().sum()) == 1 and not out[1].isnan().any()
    assert importance[0].isnan().all() and text_importance[0].isnan().all() and not importance[1].isnan().any()


@pytest.mark.parametrize("asked", [{"return_lse": False}, {"return_importance": False}], ids=str)
def test_what_is_not_asked_for_is_none(asked: dict[str, bool]) -> None:
    case = make(SMALL, "none", torch.float32, ROUTE)
    options = {"return_lse": True, "return_importance": True, "backend": "triton"} | asked
    got, want = call(case, ROUTE, **options), call(case, ROUTE, **options | {"backend": "torch"})
    assert [o is None for o in got] == [o is None for o in want]
    assert error(got.out, want.out.double()) <= 3e-6


def test_auto_folds_where_it_pays_and_the_projected_path_runs_the_kernels_of_fusion_attention() -> None:
    case = make((1, 2, 2, 3, 9, 4, 8), "none", torch.float32, "projected")
    assert case["x"].shape[2] == C and folding_pays(case["q"], case["w_k"])
    folded, auto, projected = (
        ops.projected_fusion_attention(**case, path=path, backend="triton").out for path in (ROUTE, "auto", "projected")
    )
    assert torch.equal(folded, auto) and not torch.equal(folded, projected)
    assert error(folded, projected.double()) <= 3e-6


def test_what_is_kept_for_the_backward_serves_either_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who runs may not be known where the shape of P is: on a GPU without triton, with `TOKSCALE_BACKEND`."""
    case = make(SMALL, "masks", torch.float32, ROUTE)

    def results(backend: str) -> list[torch.Tensor]:
        outputs = run(case, backend=backend)
        return [*outputs, *gradients(outputs[:1], [torch.ones_like(outputs[0])], case)]

    by_name, by_pytorch = results("triton"), results("torch")
    monkeypatch.setattr(_backend, "may_be_triton", lambda backend, tensor: backend == "torch")
    for want, got in ((by_name, results("triton")), (by_pytorch, results("torch"))):
        assert all(torch.equal(one, two) for one, two in zip(want, got, strict=True))
