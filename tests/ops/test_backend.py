"""A backend asked for by name runs or raises; `auto` and the environment decide the rest; `explain` says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokscale import ops
from tokscale.errors import ArgumentError, BackendError, TokscaleError
from tokscale.ops import _backend

Q, X, W, SCORES = torch.randn(1, 2, 3, 8), torch.randn(1, 5, 16), torch.randn(16, 16), torch.randn(1, 5)
CALLS: dict[str, Callable[..., Any]] = {
    "attention_importance": lambda **o: ops.attention_importance(Q, Q, **o),
    "attention_importance_varlen": lambda **o: ops.attention_importance_varlen(Q[0], Q[0], torch.tensor([0, 2]), **o),
    "fusion_attention": lambda **o: ops.fusion_attention(Q, Q, Q, **o),
    "projected_fusion_attention": lambda **o: ops.projected_fusion_attention(Q, X, W, W, path="folded", **o),
    "greedy_select": lambda **o: ops.greedy_select(torch.zeros(1, 4, 4), 2, **o),
    "topk_gather": lambda **o: ops.topk_gather(X, SCORES, 2, **o),
}
NO_GPU = "the tensors are on cpu; Triton needs a GPU (or TRITON_INTERPRET=1 set before import)"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKSCALE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_calls_cover_every_operator() -> None:
    assert sorted(CALLS) == sorted(_backend.OPERATORS)
    assert set(CALLS) <= set(ops.__all__)


@pytest.mark.parametrize("op", CALLS)
def test_triton_on_cpu_tensors(op: str) -> None:
    with pytest.raises(BackendError) as caught:
        CALLS[op](backend="triton")
    assert str(caught.value) == f'{op}: backend="triton" cannot run: {NO_GPU}. Use backend="auto" or "torch".'
    assert isinstance(caught.value, TokscaleError) and isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("op", CALLS)
def test_the_environment_says_what_auto_means(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKSCALE_BACKEND", "triton")
    with pytest.raises(BackendError, match=rf"^{op}: TOKSCALE_BACKEND=triton cannot run: the tensors are on cpu"):
        CALLS[op]()
    CALLS[op](backend="torch")
    monkeypatch.setenv("TOKSCALE_BACKEND", "torch")
    CALLS[op]()
    assert ops.explain(op, Q) == "torch: TOKSCALE_BACKEND=torch"
    monkeypatch.setenv("TOKSCALE_BACKEND", "cuda")
    with pytest.raises(ArgumentError) as caught:
        CALLS[op]()
    assert str(caught.value) == f'{op}: TOKSCALE_BACKEND="cuda" is unknown; choose from auto, torch, triton'


@pytest.mark.parametrize("op", CALLS)
def test_unknown_backend(op: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        CALLS[op](backend="cuda")
    assert str(caught.value) == f'{op}: backend="cuda" is unknown; choose from auto, torch, triton'


@pytest.mark.parametrize("op", CALLS)
def test_explain(op: str) -> None:
    assert ops.explain(op, Q, X) == f"torch: {NO_GPU}"
    assert ops.explain(op) == "auto: no tensors were given; auto is triton on a GPU where it can run, else torch"


def test_explain_unknown_operator() -> None:
    with pytest.raises(ArgumentError, match=r'^op_name="softmax" is unknown; choose from attention_importance, '):
        ops.explain("softmax")
