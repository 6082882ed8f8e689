"""`fusion_attention` and `projected_fusion_attention` against their definitions in float64: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokscale import ops
from tokscale.ops import _numerics
from tokscale.ops.fusion_attention import reference
from tokscale.ops.projected_fusion_attention import reference as projected_reference
from tokscale.ops.projected_fusion_attention.arguments import folding_pays

from .helpers import EPS, doubled, error, inner_stride_two

HALF = [torch.bfloat16, torch.float16]
C = 24  # dim of the vision tokens in the projected cases
ROUTES = ["attention", "projected", "folded"]  # three ways to one definition
MASKS = ["none", "lengths", "masks", "dead sample"]
SIZES = [  # b h g m n t d
    (2, 4, 4, 1, 1, 1, 16),
    (2, 4, 2, 17, 63, 13, 16),
    (1, 4, 1, 16, 65, None, 24),
    (3, 2, 2, 3, 577, 33, 8),
    (1, 8, 2, 65, 64, 0, 16),
    (2, 2, 1, 5, 0, 4, 8),
    (2, 2, 2, 4, 0, 0, 8),
    (2, 2, 2, 0, 5, 3, 8),
    (0, 2, 2, 3, 5, 3, 8),
]
Case = dict[str, Any]


def make(sizes: tuple[Any, ...], masks: str, dtype: torch.dtype, route: str, biases: bool = True) -> Case:
    """Keyword arguments of one call; floating tensors require gradients."""
    b, h, g, m, n, t, d = sizes

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()

    case: Case = {"q": draw(b, h, m, d)}
    if route == "attention":
        case |= {"k_vision": draw(b, g, n, d), "v_vision": draw(b, g, n, d)}
    else:
        case |= {"x": draw(b, n, C), "b_k": draw(g * d), "b_v": draw(g * d)}
        case |= {name: (torch.randn(g * d, C) / C**0.5).to(dtype).requires_grad_() for name in ("w_k", "w_v")}
    if t is not None:
        case |= {"k_text": draw(b, g, t, d), "v_text": draw(b, g, t, d)}
    if biases:
        case["vision_bias"] = draw(1 if m == 17 else h, m, n)
        if t is not None:
            case["text_bias"] = draw(h)
    if masks == "lengths":
        case["vision_lengths"] = torch.randint(0, n + 1, (b,))
        if t is not None:
            case["text_lengths"] = torch.randint(0, t + 1, (b,), dtype=torch.int32)
    elif masks != "none":
        case["vision_mask"] = torch.rand(b, n) < 0.7
        if t is not None:
            case["text_mask"] = torch.arange(t).expand(b, t) >= torch.randint(0, t + 1, (b, 1))  # left-padded
        if masks == "dead sample" and b:
            case["vision_mask"][0] = False
            if t is not None:
                case["text_mask"][0] = False
    return case


def call(case: Case, route: str, **options: Any) -> ops.FusionOutput:
    if route == "attention":
        return ops.fusion_attention(**case, **options)
    return ops.projected_fusion_attention(**case, path=route, **options)


def define(case: Case, route: str) -> list[Tensor]:
    """The definition's outputs, the question's importance only where there is a question."""
    function = reference.fusion_attention if route == "attention" else projected_reference.projected_fusion_attention
    outputs = function(**case)
    return list(outputs if "k_text" in case else outputs[:3])


def leaves(case: Case) -> list[Tensor]:
    return [value for value in case.values() if value.is_floating_point()]


def weighted(outputs: list[Tensor], weights: list[Tensor]) -> Tensor:
    """One number that reads every output; -inf (rows without keys) is left out."""
    pairs = zip(outputs, weights, strict=True)
    return sum((o.masked_fill(o == -torch.inf, 0).double() * w).sum() for o, w in pairs)  # type: ignore[return-value]


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("route", ROUTES)
def test_every_output_and_gradient_in_float64(route: str, sizes: tuple[Any, ...], masks: str) -> None:
    case = make(sizes, masks, torch.float64, route)
    got = [o for o in call(case, route, return_lse=True, return_importance=True) if o is not None]
    want = define(case, route)
    weights = [torch.randn_like(w) for w in want]
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-9)
    if not case["q"].numel():
        return
    got_grads = torch.autograd.grad(weighted(got, weights), leaves(case), allow_unused=True, materialize_grads=True)
    want_grads = torch.autograd.grad(weighted(want, weights), leaves(case), allow_unused=True, materialize_grads=True)
    for g, w in zip(got_grads, want_grads, strict=True):
        # autograd through exp(-inf - lse) of the definition gives NaN where ours is 0: such rows have no gradient
        torch.testing.assert_close(g, w.nan_to_num(0.0), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("masks", ["none", "masks"])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("sizes", [(2, 4, 2, 17, 63, 13, 16), (1, 4, 4, 64, 257, 8, 80)], ids=str)
def test_error_is_within_twice_pytorch_s_own(
    route: str, sizes: tuple[Any, ...], masks: str, biases: bool, dtype: torch.dtype
) -> None:
    case = make(sizes, masks, dtype, route, biases)
    oracle_case = {name: doubled(value) for name, value in case.items()}
    oracle = define(oracle_case, route)
    own_case = {name: v.detach().clone().requires_grad_(v.requires_grad) for name, v in case.items()}
    own = eager(own_case, route)
    got = call(case, route, return_lse=True, return_importance=True)
    assert got.out.dtype == dtype and got.lse.dtype == got.importance.dtype == torch.float32
    assert error(got.out, oracle[0]) <= 2 * error(own[0], oracle[0]) + EPS[dtype]
    if dtype == torch.float32 or route == "attention":  # projections in half precision move the scores themselves
        torch.testing.assert_close(got.lse.double(), oracle[1], rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-4)
    assert error(got.importance, oracle[2]) <= 2 * error(own[1], oracle[2]) + 3e-6
    plain = call(case, route).out  # the route that asks for nothing else
    assert error(plain, oracle[0]) <= 2 * error(own[0], oracle[0]) + EPS[dtype]

    weight = torch.randn_like(oracle[0])
    grads = torch.autograd.grad((got.out.double() * weight).sum(), leaves(case))
    want = torch.autograd.grad((oracle[0] * weight).sum(), leaves(oracle_case))
    base = torch.autograd.grad((own[0].double() * weight).sum(), leaves(own_case))
    for g, w, o in zip(grads, want, base, strict=True):
        assert error(g, w) <= 3 * error(o, w) + EPS[dtype]


def eager(case: Case, route: str) -> tuple[Tensor, Tensor]:
    """What a user writes: products in the inputs' dtype, softmax in fp32, cast, product."""
    q = case["q"]
    if route == "attention":
        k, v = case["k_vision"], case["v_vision"]
    else:
        split = projected_reference.split_heads
        k, v = (split(F.linear(case["x"], case[f"w_{a}"], case[f"b_{a}"]), q.shape[3]) for a in "kv")
    n = k.shape[2]
    share = q.shape[1] // k.shape[1]
    k, v = (torch.cat([a, case[f"{b}_text"]], 2).repeat_interleave(share, 1) for a, b in ((k, "k"), (v, "v")))
    scores = (q @ k.transpose(-1, -2) * q.shape[3] ** -0.5).float()
    if "vision_bias" in case:
        scores = torch.cat([scores[..., :n] + case["vision_bias"], scores[..., n:]], -1)
        scores = torch.cat([scores[..., :n], scores[..., n:] + case["text_bias"][:, None, None]], -1)
    if "vision_mask" in case:
        visible = torch.cat([case["vision_mask"], case["text_mask"]], 1)
        scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
    p = torch.softmax(scores, -1).to(q.dtype)
    return p @ v, p[..., :n].float().sum((1, 2))


@pytest.mark.parametrize("route", ROUTES)
def test_importances_sum_to_the_pairs_that_see_a_key(route: str) -> None:
    b, h, g, m, n, t, d = 3, 8, 2, 65, 577, 13, 16
    case = make((b, h, g, m, n, t, d), "dead sample", torch.float32, route)
    got = call(case, route, return_importance=True)
    sums = got.importance.sum(1) + got.text_importance.sum(1)
    torch.testing.assert_close(sums, torch.tensor([0.0, h * m, h * m]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("route", ROUTES)
def test_a_row_without_keys_gives_zero_and_no_gradient(route: str) -> None:
    case = make((2, 4, 2, 5, 9, 3, 8), "dead sample", torch.float32, route)
    got = call(case, route, return_lse=True, return_importance=True)
    assert (got.out[0] == 0).all() and (got.lse[0] == -torch.inf).all()
    assert (got.importance[0] == 0).all() and (got.text_importance[0] == 0).all()
    assert (call(case, route).out[0] == 0).all()
    loss = got.out.sum() + (got.lse - 1).square().sum() + got.importance.sum()  # an infinite cotangent of lse
    grads = torch.autograd.grad(loss, leaves(case))
    names = [name for name, value in case.items() if value.is_floating_point()]
    for name, grad in zip(names, grads, strict=True):
        assert torch.isfinite(grad).all(), name
        if name in ("q", "k_vision", "v_vision", "x", "k_text", "v_text"):
            assert (grad[0] == 0).all(), name


@pytest.mark.parametrize("route", ROUTES)
def test_a_bias_of_minus_infinity_hides_single_rows(route: str) -> None:
    case = make((2, 2, 2, 4, 6, 3, 8), "none", torch.float64, route)
    with torch.no_grad():
        case["vision_bias"][:, 1] = -torch.inf
        case["text_bias"][0] = -torch.inf
    got = call(case, route, return_lse=True)
    assert (got.out[:, 0, 1] == 0).all() and (got.lse[:, 0, 1] == -torch.inf).all()
    assert torch.isfinite(got.lse[:, 1]).all()
    grads = torch.autograd.grad(got.out.sum(), leaves(case))
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("masks", ["lengths", "masks"])
def test_masked_content_changes_nothing_bitwise(route: str, masks: str) -> None:
    case = make((2, 4, 2, 7, 33, 9, 16), masks, torch.float32, route)
    keep = case.get("vision_mask", torch.arange(33) < case.get("vision_lengths", torch.zeros(2))[:, None])
    keep_text = case.get("text_mask", torch.arange(9) < case.get("text_lengths", torch.zeros(2))[:, None])
    other = dict(case)
    for name in ("k_vision", "v_vision", "k_text", "v_text", "x"):
        if name in case:
            hidden = ~(keep_text if "text" in name else keep)
            hidden = hidden[:, :, None] if name == "x" else hidden[:, None, :, None]
            other[name] = case[name].masked_fill(hidden, 1e4)
    for options in ({}, {"return_lse": True, "return_importance": True}):
        for got, want in zip(call(other, route, **options), call(case, route, **options), strict=True):
            assert got is None or torch.equal(got, want)


@pytest.mark.parametrize("route", ROUTES)
def test_lengths_are_masks(route: str) -> None:
    case = make((3, 2, 1, 5, 9, 4, 8), "lengths", torch.float64, route)
    masked = {name: value for name, value in case.items() if "lengths" not in name}
    masked["vision_mask"] = torch.arange(9) < case["vision_lengths"][:, None]
    masked["text_mask"] = torch.arange(4) < case["text_lengths"][:, None]
    assert torch.equal(call(case, route).out, call(masked, route).out)


@pytest.mark.parametrize("cut", [0, 1, 20, 32, 33])
def test_a_segment_may_be_cut_anywhere(cut: int) -> None:
    q, k, v = torch.randn(2, 4, 7, 16), torch.randn(2, 4, 33, 16), torch.randn(2, 4, 33, 16)
    whole = ops.fusion_attention(q, k, v, return_lse=True, return_importance=True)
    parts = ops.fusion_attention(
        *(q, k[:, :, :cut], v[:, :, :cut], k[:, :, cut:], v[:, :, cut:]), return_lse=True, return_importance=True
    )
    torch.testing.assert_close(parts.out, whole.out, rtol=0, atol=2e-6)
    torch.testing.assert_close(parts.lse, whole.lse, rtol=0, atol=2e-6)
    torch.testing.assert_close(torch.cat([parts.importance, parts.text_importance], 1), whole.importance)


@pytest.mark.parametrize("route", ROUTES)
def test_a_sample_does_not_depend_on_its_batch(route: str) -> None:
    case = make((7, 4, 2, 9, 65, 5, 16), "masks", torch.float32, route)
    together = call(case, route, return_lse=True, return_importance=True)
    for i in range(7):
        per_sample = ("q", "x", "k_vision", "v_vision", "k_text", "v_text", "vision_mask", "text_mask")
        one = {name: value[i : i + 1] if name in per_sample else value for name, value in case.items()}
        alone = call(one, route, return_lse=True, return_importance=True)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("asked", [{}, {"return_importance": True}])
def test_strides_are_respected(route: str, asked: dict[str, bool]) -> None:
    case = make((2, 4, 2, 5, 9, 3, 8), "none", torch.float32, route)
    want = call(case, route, **asked).out
    transposed = {
        name: value.transpose(1, 2).contiguous().transpose(1, 2) if value.dim() == 4 else value
        for name, value in case.items()
    }
    assert torch.equal(call(transposed, route, **asked).out, want)
    strided = {name: inner_stride_two(value) for name, value in case.items()}
    torch.testing.assert_close(call(strided, route, **asked).out, want, rtol=0, atol=2e-6)  # another product kernel
    expanded = {name: v[:1].expand(2, *v.shape[1:]) if v.dim() == 4 or name == "x" else v for name, v in case.items()}
    out = call(expanded, route, **asked).out
    torch.testing.assert_close(out[1], out[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
def test_two_runs_agree_bitwise(route: str) -> None:
    case = make((3, 4, 2, 17, 65, 5, 16), "masks", torch.float32, route)
    runs = []
    for _ in range(2):
        got = call(case, route, return_lse=True, return_importance=True)
        loss = got.out.square().sum() + got.lse.sum() + got.importance.square().sum()
        runs.append([*got, *torch.autograd.grad(loss, leaves(case))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("room", [1, 500, 3000])
def test_blocks_of_any_size_give_the_same(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row blocks, sample blocks and one block for all agree: the sizes of the other tests would all fit one block."""
    for route in ROUTES:
        case = make((3, 4, 2, 37, 19, 5, 8), "masks", torch.float64, route)
        results = []
        for elements in (room, 1 << 18):
            monkeypatch.setattr(_numerics, "BLOCK_ELEMENTS", elements)
            got = call(case, route, return_lse=True, return_importance=True)
            loss = got.out.square().sum() + got.lse.sum() + got.importance.square().sum()
            results.append([*got, *torch.autograd.grad(loss, leaves(case))])
        for small, large in zip(*results, strict=True):
            torch.testing.assert_close(small, large, rtol=0, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_gradcheck(route: str) -> None:
    case = make((2, 4, 2, 3, 5, 3, 4), "masks", torch.float64, route)
    case["vision_mask"][:, 0] = True
    names = [name for name, value in case.items() if value.is_floating_point()]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(case | dict(zip(names, values)), route, return_lse=True, return_importance=True))

    assert torch.autograd.gradcheck(outputs, [case[name] for name in names], fast_mode=True)


def test_importance_is_that_of_attention_importance_with_the_joint_lse() -> None:
    case = make((2, 4, 2, 5, 9, 3, 8), "none", torch.float64, "attention", biases=False)
    got = ops.fusion_attention(**case, return_lse=True, return_importance=True)
    other = ops.attention_importance(case["q"], case["k_vision"], lse=got.lse)
    torch.testing.assert_close(other, got.importance, rtol=0, atol=1e-13)
    weight = torch.randn_like(other)
    inputs = [case["q"], case["k_vision"], case["k_text"]]
    direct = torch.autograd.grad((got.importance * weight).sum(), inputs, retain_graph=True)
    through_lse = torch.autograd.grad((other * weight).sum(), inputs)
    for a, b in zip(direct, through_lse, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_what_was_not_asked_for_is_none() -> None:
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8)
    assert ops.fusion_attention(q, k, k)[1:] == (None, None, None)
    assert ops.fusion_attention(q, k, k, return_importance=True).text_importance is None
    assert ops.fusion_attention(q, k, k, k, k, return_importance=True).text_importance.shape == (1, 5)
    assert ops.fusion_attention(q, k, k, return_lse=True).lse.shape == (1, 2, 3)


def test_scale() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    want = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    torch.testing.assert_close(ops.fusion_attention(q, k, v, scale=0.3).out, want)
    torch.testing.assert_close(ops.fusion_attention(q, k, v, scale=0.3, return_lse=True).out, want)


@pytest.mark.parametrize(("m", "folds"), [(1, True), (16, True), (32, True), (64, False)])
def test_auto_folds_where_the_flops_say_so(m: int, folds: bool) -> None:
    assert folding_pays(torch.empty(2, 16, m, 64), torch.empty(1024, 1024)) is folds  # .6 lies at m = 40


@pytest.mark.parametrize("instructions", [False, True])
def test_bf16_with_and_without_instructions_for_it(instructions: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a CPU multiplies bf16, the folded values do too and folding has to save more; both are as near as eager."""
    monkeypatch.setattr(_numerics, "BF16_INSTRUCTIONS", instructions)
    assert folding_pays(torch.empty(2, 16, 16, 64).bfloat16(), torch.empty(1024, 1024))
    assert folding_pays(torch.empty(2, 16, 32, 64).bfloat16(), torch.empty(1024, 1024)) is not instructions
    case = make((2, 4, 2, 5, 64, 7, 16), "masks", torch.bfloat16, "folded")
    oracle = call({name: doubled(value) for name, value in case.items()}, "folded").out
    e = error(call(case, "projected").out, oracle)
    assert error(call(case, "folded").out, oracle) <= 2 * e + EPS[torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_auto_gives_what_its_path_gives(dtype: torch.dtype) -> None:
    for m, path in ((1, "folded"), (40, "projected")):
        case = make((2, 2, 2, m, 9, 3, 8), "none", dtype, "folded")
        assert torch.equal(call(case, "auto").out, call(case, path).out)


@pytest.mark.parametrize("route", ROUTES)
def test_autocast_casts_the_arguments_and_nothing_inside(route: str) -> None:
    case = make((2, 4, 2, 5, 9, 3, 8), "none", torch.float32, route)
    half = {name: v.to(torch.bfloat16) if "bias" not in name else v for name, v in case.items()}
    with torch.autocast("cpu", torch.bfloat16):
        got = call(case, route, return_lse=True, return_importance=True)
        got.out.float().sum().backward()
    want = call(half, route, return_lse=True, return_importance=True)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert case["q"].grad.dtype == torch.float32


def bytes_kept(function: Callable[[], object]) -> int:
    """Bytes that autograd keeps between forward and backward of one call."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        function()
    return kept


def test_the_scores_are_not_kept_for_the_backward() -> None:
    q, k = torch.randn(1, 2, 300, 8, requires_grad=True), torch.randn(1, 2, 400, 8, requires_grad=True)
    assert bytes_kept(lambda: ops.fusion_attention(q, k, k, return_lse=True)) < 2 * 300 * 400 * 4 / 10
