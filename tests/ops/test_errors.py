"""The text of every error, word for word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import errors, ops

ShapeError, DtypeError, ArgumentError, BudgetError = (
    errors.ShapeError,
    errors.DtypeError,
    errors.ArgumentError,
    errors.BudgetError,
)


def z(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def yes(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


Q, K = z(2, 4, 5, 16), z(2, 2, 9, 16)
X, W = z(2, 9, 24), z(32, 24)
Mistake = tuple[Callable[[], Any], type[Exception], str]


def importance(*tensors: Tensor, **options: Any) -> Callable[[], Any]:
    return lambda: ops.attention_importance(*(tensors or (Q, K)), **options)


def varlen(q: Tensor, k: Tensor, *ends: Tensor, **options: Any) -> Callable[[], Any]:
    return lambda: ops.attention_importance_varlen(q, k, *ends, **options)


def fusion(*tensors: Tensor | None, **options: Any) -> Callable[[], Any]:
    return lambda: ops.fusion_attention(*(tensors or (Q, K, K)), **options)


def projected(*tensors: Tensor, **options: Any) -> Callable[[], Any]:
    return lambda: ops.projected_fusion_attention(*(tensors or (Q, X, W, W)), **options)


def greedy(matrix: Tensor, k: Any = 2, **options: Any) -> Callable[[], Any]:
    return lambda: ops.greedy_select(matrix, k, **options)


def topk(x: Any, scores: Tensor, k: Any = 2, **options: Any) -> Callable[[], Any]:
    return lambda: ops.topk_gather(x, scores, k, **options)


ATTENTION: list[Mistake] = [
    (importance(Q[0], K), ShapeError, "q has shape (4, 5, 16); expected (b, heads, length, head_dim)"),
    (importance(Q, z(2, 3, 9, 16)), ShapeError, "4 query heads are not a multiple of 3 key heads"),
    (importance(Q, z(2, 2, 9, 8)), ShapeError, "q (2, 4, 5, 16) and k (2, 2, 9, 8) differ in batch or head_dim"),
    (importance(z(2, 4, 5, 0), z(2, 2, 9, 0)), ShapeError, "q has shape (2, 4, 5, 0); head_dim must be at least 1"),
    (
        importance(Q, K.bfloat16()),
        DtypeError,
        "q is torch.float32 and k is torch.bfloat16; both must be the same floating dtype",
    ),
    (
        importance(Q.long(), K.long()),
        DtypeError,
        "q is torch.int64 and k is torch.int64; both must be the same floating dtype",
    ),
    (importance(key_mask=z(2, 9)), DtypeError, "key_mask is torch.float32; a mask is boolean, True = keep"),
    (importance(key_mask=yes(2, 8)), ShapeError, "key_mask has shape (2, 8); expected (2, 9)"),
    (importance(row_mask=yes(2, 9)), ShapeError, "row_mask has shape (2, 9); expected (2, 5)"),
    (
        importance(key_mask=yes(2, 9), key_lengths=torch.tensor([1, 2])),
        ArgumentError,
        "pass key_mask or key_lengths, not both",
    ),
    (importance(key_lengths=torch.tensor([9, 10])), ShapeError, "key_lengths[1] = 10 lies outside [0, 9]"),
    (importance(key_lengths=torch.tensor([-1, 9])), ShapeError, "key_lengths[0] = -1 lies outside [0, 9]"),
    (importance(key_lengths=z(2)), DtypeError, "key_lengths is torch.float32; expected int64 or int32"),
    (importance(lse=z(2, 4, 9)), ShapeError, "lse has shape (2, 4, 9); expected (2, 4, 5)"),
    (
        importance(attn_mask=z(5, 9)),
        DtypeError,
        "attn_mask is torch.float32; a mask is boolean, True = keep (for an additive mask pass mask == 0)",
    ),
    (
        importance(attn_mask=yes(3, 5, 9)),
        ShapeError,
        "attn_mask has shape (3, 5, 9); expected one that broadcasts to (2, 4, 5, 9)",
    ),
    (importance(rows=5), ShapeError, "rows=5 lies outside [-5, 5)"),
    (importance(rows=-6), ShapeError, "rows=-6 lies outside [-5, 5)"),
    (importance(rows=torch.tensor([0, 7])), ShapeError, "rows=7 lies outside [-5, 5)"),
    (importance(rows=torch.tensor([[0, -7], [1, 1]])), ShapeError, "rows=-7 lies outside [-5, 5)"),
    (importance(rows=yes(5)), DtypeError, "rows is torch.bool; expected int64 or int32"),
    (importance(rows=z(3, 2).long()), ShapeError, "rows has shape (3, 2); expected (r,) or (2, r)"),
    (importance(rows=0.5), DtypeError, "rows is float; expected an int, a slice, an integer tensor or None"),
    (importance(group_size=4), ShapeError, "9 keys are not a multiple of group_size=4"),
    (importance(group_size=0), ArgumentError, "group_size=0 must be an integer >= 1"),
    (importance(offset=2), ArgumentError, "offset=2 is read with causal=True only"),
    (importance(reduce="total"), ArgumentError, 'reduce="total" is unknown; choose from mean, none, sum'),
]
PACKED_Q, PACKED_K = z(6, 4, 8), z(6, 2, 8)
VARLEN: list[Mistake] = [
    (
        varlen(Q, PACKED_K, torch.tensor([0, 6])),
        ShapeError,
        "q has shape (2, 4, 5, 16); expected (total, heads, head_dim)",
    ),
    (varlen(PACKED_Q, z(6, 2, 4), torch.tensor([0, 6])), ShapeError, "q (6, 4, 8) and k (6, 2, 4) differ in head_dim"),
    (
        varlen(PACKED_Q, PACKED_K, torch.tensor([0, 5])),
        ShapeError,
        "cu_seqlens_q runs from 0 to 5; expected 0 to 6 without a step back",
    ),
    (
        varlen(PACKED_Q, PACKED_K, torch.tensor([0, 6]), torch.tensor([1, 6])),
        ShapeError,
        "cu_seqlens_k runs from 1 to 6; expected 0 to 6 without a step back",
    ),
    (
        varlen(PACKED_Q, PACKED_K, torch.tensor([0, 6]), torch.tensor([0, 3, 6])),
        ShapeError,
        "cu_seqlens_q (2,) and cu_seqlens_k (3,) must have one shape",
    ),
    (
        varlen(PACKED_Q, PACKED_K, torch.tensor([0, 3, 6]), group_size=2),
        ShapeError,
        "3 keys are not a multiple of group_size=2 (segment 0)",
    ),
    (
        varlen(PACKED_Q, PACKED_K, torch.tensor([0, 4, 6]), max_seqlen_k=3),
        ArgumentError,
        "max_seqlen_k=3 is less than the longest segment, 4",
    ),
]
FUSION: list[Mistake] = [
    (
        fusion(Q, K, z(2, 2, 8, 16)),
        ShapeError,
        "k_vision (2, 2, 9, 16) and v_vision (2, 2, 8, 16) must have one shape",
    ),
    (
        fusion(Q, K.bfloat16(), K.bfloat16()),
        DtypeError,
        "q is torch.float32 and k_vision is torch.bfloat16; both must be the same floating dtype",
    ),
    (fusion(Q, K, K, K), ArgumentError, "k_text and v_text go together; got k_text only"),
    (fusion(Q, K, K, None, K), ArgumentError, "k_text and v_text go together; got v_text only"),
    (
        fusion(Q, K, K, z(1, 2, 3, 16), z(1, 2, 3, 16)),
        ShapeError,
        "k_text has shape (1, 2, 3, 16); expected (2, 2, 3, 16)",
    ),
    (fusion(text_mask=yes(2, 3)), ArgumentError, "text_mask was given without k_text"),
    (fusion(text_lengths=torch.tensor([1, 2])), ArgumentError, "text_lengths was given without k_text"),
    (fusion(vision_mask=z(2, 9)), DtypeError, "vision_mask is torch.float32; a mask is boolean, True = keep"),
    (
        fusion(Q, K, K, K, K, text_lengths=torch.tensor([9, 10])),
        ShapeError,
        "text_lengths[1] = 10 lies outside [0, 9]",
    ),
    (fusion(vision_bias=z(4, 5, 8)), ShapeError, "vision_bias has shape (4, 5, 8); expected (4, 5, 9)"),
    (fusion(Q, K, K, K, K, text_bias=z(5)), ShapeError, "text_bias has shape (5,); expected (4,)"),
    (
        fusion(vision_bias=z(4, 5, 9, dtype=torch.float64)),
        DtypeError,
        "vision_bias is torch.float64 and q is torch.float32; a bias is no wider than the scores",
    ),
]
PROJECTED: list[Mistake] = [
    (projected(path="fold"), ArgumentError, 'path="fold" is unknown; choose from auto, folded, projected'),
    (
        projected(Q, X, z(30, 24), W),
        ShapeError,
        "w_k has shape (30, 24); expected (key heads * 16, 24), with head_dim=16 of q",
    ),
    (projected(Q, X, z(32, 23), W), ShapeError, "w_k has shape (32, 23); expected (32, 24)"),
    (projected(Q, X, W, z(16, 24)), ShapeError, "w_v has shape (16, 24); expected (32, 24)"),
    (projected(b_k=z(16)), ShapeError, "b_k has shape (16,); expected (32,)"),
    (projected(Q, X[:1], W, W), ShapeError, "q (2, 4, 5, 16) and x (1, 9, 24) differ in batch"),
    (projected(Q, X, z(48, 24), z(48, 24)), ShapeError, "4 query heads are not a multiple of 3 key heads"),
    (projected(vision_mask=yes(2, 8)), ShapeError, "vision_mask has shape (2, 8); expected (2, 9)"),
    (
        projected(path="folded", vision_lengths=torch.tensor([0, 10])),
        ShapeError,
        "vision_lengths[1] = 10 lies outside [0, 9]",
    ),
]
GREEDY: list[Mistake] = [
    (greedy(z(1, 9, 8)), ShapeError, "matrix has shape (1, 9, 8); expected (b, n, n)"),
    (greedy(z(9, 9)), ShapeError, "matrix has shape (9, 9); expected (b, n, n)"),
    (
        greedy(z(1, 9, 9).long()),
        DtypeError,
        "matrix is torch.int64; expected float16, bfloat16, float32 or float64",
    ),
    (greedy(z(1, 9, 9), 10), BudgetError, "num_tokens=10 must lie in [1, 9]"),
    (greedy(z(1, 9, 9), 0), BudgetError, "num_tokens=0 must lie in [1, 9]"),
    (greedy(z(1, 9, 9), 1.5), BudgetError, "num_tokens must be an integer >= 1, got 1.5"),
    (greedy(z(1, 9, 9), True), BudgetError, "num_tokens must be an integer >= 1, got True"),
    (
        greedy(z(1, 9, 9), 4, mask=torch.arange(9)[None] < 2),
        BudgetError,
        "num_tokens=4 exceeds the 2 allowed tokens of sample 0",
    ),
    (greedy(z(1, 9, 9), method="mmr"), ArgumentError, 'method="mmr" is unknown; choose from dpp, max_min'),
    (
        greedy(z(1, 9, 9), method="dpp", relevance=z(1, 9)),
        ArgumentError,
        'method="dpp" does not read relevance; leave it out',
    ),
    (
        greedy(z(1, 9, 9), fallback=z(1, 9, 9)),
        ArgumentError,
        'method="max_min" does not read fallback; leave it out',
    ),
    (greedy(z(1, 9, 9), start=torch.tensor([9])), ShapeError, "start[0] = 9 lies outside [0, 9)"),
    (
        greedy(z(1, 9, 9), start=torch.tensor([3]), mask=torch.arange(9)[None] != 3),
        BudgetError,
        "start[0] = 3 is not among the allowed tokens of sample 0",
    ),
    (greedy(z(1, 9, 9), relevance=z(1, 8)), ShapeError, "relevance has shape (1, 8); expected (1, 9)"),
]
TOPK: list[Mistake] = [
    (
        topk(z(1, 9, 2), z(1, 8)),
        ShapeError,
        "x has shape (1, 9, 2) and scores (1, 8); the first two sizes must agree",
    ),
    (
        topk((z(1, 8), z(1, 9, 2)), z(1, 8)),
        ShapeError,
        "x[1] has shape (1, 9, 2) and scores (1, 8); the first two sizes must agree",
    ),
    (topk(z(9, 2), z(9)), ShapeError, "scores has shape (9,); expected (b, n)"),
    (topk((), z(1, 9)), ShapeError, "x is an empty tuple; pass at least one tensor"),
    (topk(z(1, 9), z(1, 9), 10), BudgetError, "num_tokens=10 must lie in [1, 9]"),
    (
        topk(z(2, 9), z(2, 9), 4, mask=torch.arange(9) < torch.tensor([[4], [3]])),
        BudgetError,
        "num_tokens=4 exceeds the 3 allowed tokens of sample 1",
    ),
    (
        topk(z(1, 9), z(1, 9).long()),
        DtypeError,
        "scores is torch.int64; expected float16, bfloat16, float32 or float64",
    ),
    (topk(z(1, 9), z(1, 9), mask=z(1, 9)), DtypeError, "mask is torch.float32; a mask is boolean, True = keep"),
]
TABLE = {
    "attention_importance": ATTENTION,
    "attention_importance_varlen": VARLEN,
    "fusion_attention": FUSION,
    "projected_fusion_attention": PROJECTED,
    "greedy_select": GREEDY,
    "topk_gather": TOPK,
}


@pytest.mark.parametrize(
    ("op", "mistake"), [(op, mistake) for op, rows in TABLE.items() for mistake in rows], ids=lambda v: str(v)[-60:]
)
def test_text(op: str, mistake: Mistake) -> None:
    call, kind, text = mistake
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == f"{op}: {text}"
    assert isinstance(caught.value, errors.TokscaleError)


def test_devices() -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.topk_gather(z(1, 9).to("meta"), z(1, 9), 2)
    assert str(caught.value) == "topk_gather: x is on meta and scores is on cpu; move them to one device"
