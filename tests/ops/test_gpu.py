"""The Triton kernels on a GPU: results against float64 on the CPU, both directions, bitwise twice, far offsets.

A test is named by its operator: `test_importance...`, `test_fusion...`; `make gpu` times none whose tests fail.
Half precision runs at all shapes, fp32 at one: its products take several times as long to compile.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tokscale import ops
from tokscale.ops.attention_importance import reference

from .helpers import EPS, doubled, error, lattice
from .test_attention_importance import OPTIONS, eager, options_of
from .test_fusion_attention import call, define, leaves, make, weighted
from .test_fusion_attention import eager as eager_fusion

pytestmark = pytest.mark.gpu
SHAPES = [(1, 16, 16, 577, 577, 64), (2, 8, 2, 65, 729, 72), (2, 4, 1, 17, 2880, 128), (1, 2, 2, 33, 129, 256)]
FUSED = [(1, 16, 16, 64, 577, 33, 64), (2, 8, 2, 17, 729, 13, 72), (1, 4, 4, 16, 2880, 64, 128)]


def with_dtypes(shapes: list[Any], small: Any) -> Any:
    """Every shape in both half precisions, the small one in fp32."""
    half = itertools.product(shapes, [torch.bfloat16, torch.float16])
    return pytest.mark.parametrize(("sizes", "dtype"), [*half, (small, torch.float32)], ids=str)


def to_gpu(value: Any) -> Any:
    return value.detach().cuda().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value


@with_dtypes(SHAPES, (1, 4, 2, 33, 129, 64))
def test_importance(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    b, h, g, m, n, d = sizes
    q, k = torch.randn(b, h, m, d).to(dtype).requires_grad_(), torch.randn(b, g, n, d).to(dtype).requires_grad_()
    q64, k64 = doubled(q), doubled(k)
    oracle, own = reference.attention_importance(q64, k64), eager(q, k)
    weight = torch.randn_like(oracle)
    want = torch.autograd.grad((oracle * weight).sum(), (q64, k64))
    base = torch.autograd.grad((own.double() * weight).sum(), (q, k))
    runs = []
    for _ in range(2):
        on_gpu = to_gpu(q), to_gpu(k)
        value = ops.attention_importance(*on_gpu, backend="triton")
        runs.append([value, *torch.autograd.grad((value.double() * weight.cuda()).sum(), on_gpu)])
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))
    value, *grads = (t.cpu() for t in runs[0])
    assert error(value, oracle) <= 2 * error(own, oracle) + 3e-6
    assert float(value.detach().sum()) == pytest.approx(b * h * m, rel=1e-4)
    for got, exact, other in zip(grads, want, base, strict=True):
        assert error(got, exact) <= 3 * error(other, exact) + EPS[dtype]


@pytest.mark.parametrize("kind", OPTIONS)
def test_importance_options(kind: str) -> None:
    sizes = (2, 4, 2, 65, 130, 24)
    b, h, g, m, n, d = sizes
    q, k = torch.randn(b, h, m, d), torch.randn(b, g, n, d)
    options = {name: v.detach().float() if name == "lse" else v for name, v in options_of(kind, sizes).items()}
    on_gpu = {name: to_gpu(v) for name, v in options.items()}
    got = ops.attention_importance(q.cuda(), k.cuda(), backend="triton", **on_gpu)
    assert error(got.cpu(), reference.attention_importance(q.double(), k.double(), **options)) <= 3e-6


@with_dtypes([(64, 80), (112, 80), (300, 80)], (64, 64))
def test_importance_packed_windows(sizes: tuple[int, int], dtype: torch.dtype) -> None:
    """One tile a segment for up to 128 in half precision, else the kernels of the unpacked form."""
    longest, d = sizes
    lengths = torch.tensor([longest, longest, longest // 2, 0, longest])
    ends = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    q, k = (torch.randn(int(ends[-1]), 16, d).to(dtype) for _ in range(2))
    parts = [(q[s:e].transpose(0, 1)[None], k[s:e].transpose(0, 1)[None]) for s, e in itertools.pairwise(ends)]
    oracle = torch.cat([reference.attention_importance(*(t.double() for t in part))[0] for part in parts])
    own = torch.cat([eager(*part)[0] for part in parts])
    packed = to_gpu(q), to_gpu(k), ends.cuda()
    for options in ({}, {"max_seqlen_q": longest}):
        first, second = (ops.attention_importance_varlen(*packed, backend="triton", **options) for _ in range(2))
        assert torch.equal(first, second)
        assert error(first.cpu(), oracle) <= 2 * error(own, oracle) + 3e-6
        assert float(first.sum()) == pytest.approx(16 * len(q), rel=1e-4)


def against_the_definition(route: str, sizes: tuple[Any, ...], dtype: torch.dtype) -> None:
    """Outputs, and the gradients of a loss that reads the output and the importance, beside eager's."""
    case = make(sizes, "masks", dtype, route)
    exact = {name: doubled(value) for name, value in case.items()}
    oracle, own = define(exact, route), eager_fusion(case, route)
    on_gpu = {name: to_gpu(value) for name, value in case.items()}
    first, second = (call(on_gpu, route, return_lse=True, return_importance=True, backend="triton") for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert error(first.out.cpu(), oracle[0]) <= 2 * error(own[0], oracle[0]) + EPS[dtype]
    assert error(first.importance.cpu(), oracle[2]) <= 2 * error(own[1], oracle[2]) + 3e-6
    weights = [torch.randn_like(value) for value in (oracle[0], oracle[2])]
    read = [first.out, first.importance]
    grads = torch.autograd.grad(weighted(read, [to_gpu(w) for w in weights]), leaves(on_gpu))
    want = torch.autograd.grad(weighted([oracle[0], oracle[2]], weights), leaves(exact))
    base = torch.autograd.grad(weighted(list(own), weights), leaves(case))
    for got, oracle_grad, other in zip(grads, want, base, strict=True):
        cancels = 4 if got.dim() == 1 else 1  # of text_bias, b_k: rows x text signed terms become one number
        assert error(got.cpu(), oracle_grad) <= 3 * error(other, oracle_grad) + cancels * EPS[dtype]


@with_dtypes(FUSED, (1, 4, 2, 17, 129, 13, 64))
def test_fusion(sizes: tuple[Any, ...], dtype: torch.dtype) -> None:
    against_the_definition("attention", sizes, dtype)


@with_dtypes(FUSED, (1, 4, 2, 17, 129, 13, 64))
def test_folded(sizes: tuple[Any, ...], dtype: torch.dtype) -> None:
    against_the_definition("folded", sizes, dtype)


def same_positions(function: Any, *args: Any, **options: Any) -> None:
    got = function(*(to_gpu(a) for a in args), backend="triton", **options)
    assert torch.equal(got.positions.cpu(), function(*args, backend="torch", **options).positions)


@pytest.mark.parametrize("n", [1, 65, 577, 2880])
def test_greedy(n: int) -> None:
    k, x = (n + 8) // 9, torch.randn(2, n, n + 8)
    same_positions(ops.greedy_select, lattice(2, n, top=50), k)
    same_positions(ops.greedy_select, x @ x.transpose(1, 2) / n, min(k, 32), method="dpp")


@pytest.mark.parametrize("n", [1, 65, 577, 2880])
def test_topk(n: int) -> None:
    scores = torch.randint(-9, 9, (4, n)).float()
    same_positions(ops.topk_gather, scores, scores, (n + 8) // 9)


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float32, torch.int64, torch.complex128], ids=str)
def test_topk_keeps_bitwise_copies(dtype: torch.dtype) -> None:
    x = torch.randn(3, 577, 16, 72).mul(9).to(dtype)
    by_head = x.transpose(1, 2).contiguous().transpose(1, 2)
    x, scores = (x, by_head, x[..., 0, 0]), torch.randn(3, 577)
    got = ops.topk_gather(tuple(to_gpu(t) for t in x), scores.cuda(), 65, backend="triton")
    want = ops.topk_gather(x, scores, 65)
    for one, two in zip(got.tokens, want.tokens, strict=True):
        assert torch.equal(one.cpu().view(torch.uint8), two.view(torch.uint8))


def test_topk_scatters_its_gradient_to_the_kept_rows() -> None:
    x = torch.randn(2, 65, 24, device="cuda", requires_grad=True)
    kept = ops.topk_gather(x, torch.randn(2, 65, device="cuda"), 9, backend="triton")
    (grad,) = torch.autograd.grad(kept.tokens.square().sum(), x)
    want = torch.zeros_like(x).scatter_(1, kept.positions[..., None].expand(-1, -1, 24), 2 * kept.tokens.detach())
    assert torch.equal(grad, want)


def far_and_near() -> tuple[Tensor, Tensor]:
    """The same numbers twice; of the first, the last sample lies more than 2^31 elements away from the first."""
    near = torch.randn(2, 1, 64, 64, device="cuda", dtype=torch.bfloat16)
    far = torch.empty(2**31 + 64 * 64, device="cuda", dtype=torch.bfloat16)
    return far.as_strided((2, 1, 64, 64), (2**31, 64 * 64, 64, 1)).copy_(near), near


def test_fusion_offsets_beyond_32_bits() -> None:
    got, want = (ops.fusion_attention(t, t, t, return_importance=True, backend="triton") for t in far_and_near())
    assert torch.equal(got.out, want.out) and torch.equal(got.importance, want.importance)


def test_topk_offsets_beyond_32_bits() -> None:
    scores = torch.randn(2, 64, device="cuda")
    got, want = (ops.topk_gather(t.transpose(1, 2), scores, 9, backend="triton").tokens for t in far_and_near())
    assert torch.equal(got, want)


def test_fusion_auto_takes_the_kernels() -> None:
    q = torch.randn(1, 2, 16, 64, device="cuda")
    assert ops.explain("fusion_attention", q, q) == "triton: the tensors are on cuda:0"


def test_importance_auto_takes_the_kernels() -> None:
    q = torch.randn(1, 2, 16, 64, device="cuda", dtype=torch.bfloat16)
    assert torch.equal(ops.attention_importance(q, q), ops.attention_importance(q, q, backend="triton"))
