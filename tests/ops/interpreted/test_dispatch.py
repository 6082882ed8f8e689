"""Dispatch where triton can run: by name the kernels run or say why not, `auto` on CPU tensors stays PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tokscale import ops
from tokscale.errors import BackendError
from tokscale.ops import _backend, _triton
from tokscale.ops._triton import device

from ..helpers import flat, lattice
from ..test_backend import CALLS, NO_GPU, Q


class Launched(Exception):
    """A kernel was about to run."""


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Launched

    monkeypatch.setattr(type(device.dot), "run", refuse)


@pytest.mark.parametrize("op", CALLS)
def test_auto_is_pytorch_and_a_name_is_the_kernel(op: str, no_launch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS[op]()
    CALLS[op](backend="torch")
    assert ops.explain(op, Q) == f"torch: {NO_GPU}"
    with pytest.raises(Launched):
        CALLS[op](backend="triton")
    monkeypatch.setenv("TOKSCALE_BACKEND", "triton")
    with pytest.raises(Launched):
        CALLS[op]()
    assert ops.explain(op, Q) == "triton: TOKSCALE_BACKEND=triton"


WIDE, DOUBLE = torch.zeros(1, 1, 1, 257), torch.zeros(1, 1, 1, 8, dtype=torch.float64)
MANY = torch.zeros(1).as_strided((4096, 16, 1, 8), (0, 0, 0, 0))
NONE, HEAD = torch.zeros(1, 0, 2, 8), torch.zeros(1, 2, 2, 8)
LONG = torch.zeros(1).as_strided((1, 5000, 5000), (0, 0, 0))
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "head_dim": (lambda: ops.fusion_attention(WIDE, WIDE, WIDE, backend="triton"), "head_dim 257 > 256"),
    "grid": (
        lambda: ops.attention_importance(MANY, MANY, backend="triton"),
        "65536 samples (or segments) times heads > 65535",
    ),
    "heads": (lambda: ops.attention_importance(NONE, HEAD, backend="triton"), "there are no query heads"),
    "float64": (lambda: ops.attention_importance(DOUBLE, DOUBLE, backend="triton"), "Triton kernels take no float64"),
    "dpp": (lambda: ops.greedy_select(LONG, 2, method="dpp", backend="triton"), "5000 tokens > 4096"),
    "top-k": (lambda: ops.topk_gather(*2 * [torch.zeros(1, 8193)], 2, backend="triton"), "8193 tokens > 8192"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_kernel_takes(case: str) -> None:
    call, reason = REFUSED[case]
    with pytest.raises(BackendError) as caught:
        call()
    assert str(caught.value).endswith(f'backend="triton" cannot run: {reason}. Use backend="auto" or "torch".')


def test_explain_of_top_k_reads_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKSCALE_BACKEND", "triton")
    x = torch.zeros(1, 4, 9000, dtype=torch.float64)
    assert ops.explain("topk_gather", x, torch.zeros(1, 4)) == "triton: TOKSCALE_BACKEND=triton"
    with pytest.raises(BackendError, match="no float64"):
        ops.explain("topk_gather", x.float(), torch.zeros(1, 4, dtype=torch.float64))


def test_explain_reads_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKSCALE_BACKEND", "triton")
    assert ops.explain("greedy_select", LONG) == "triton: TOKSCALE_BACKEND=triton"
    with pytest.raises(BackendError, match="5000 tokens > 4096"):
        ops.explain("greedy_select", LONG, method="dpp")


def test_numpy_too_new_for_an_old_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "VERSION", (3, 6))
    monkeypatch.setattr(_triton.numpy, "__version__", "2.4.6")
    with pytest.raises(BackendError, match=r"the interpreter of triton [\d.]+ needs numpy < 2\.4, this is 2\.4\.6"):
        CALLS["topk_gather"](backend="triton")
    monkeypatch.setattr(_triton.numpy, "__version__", "2.3.5")
    CALLS["topk_gather"](backend="triton")


def test_the_interpreter_asked_for_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "INTERPRETED", False)  # triton was imported to compile
    with pytest.raises(
        BackendError, match="TRITON_INTERPRET=1 was set after triton was imported; set it before import"
    ):
        CALLS["topk_gather"](backend="triton")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def registered() -> dict[str, tuple[Any, ...]]:
    q, k, text = draw(2, 2, 3, 8), draw(2, 1, 6, 8), draw(2, 1, 4, 8)
    masks, biases = (torch.rand(2, 6) < 0.6, None, None, torch.tensor([0, 3])), (draw(1, 3, 6), draw(2))
    projections = draw(2, 6, 16), draw(8, 16), draw(8, 16)
    return {
        "projected_fusion_attention": (
            *(q, *projections, text, text, draw(8), draw(8), *masks, *biases, 0.3, True, True, True, "triton"),
        ),
        "fusion_attention": (q, k, k, text, text, *masks, *biases, 0.3, True, True, "triton"),
        "attention_importance": (q, k, None, None, None, masks[0], None, None, 2, 0.3, "mean", 2, "triton"),
        "attention_importance_varlen": (
            *(draw(6, 2, 8), draw(6, 1, 8), torch.tensor([0, 2, 6]), None, 4, None, True, 0.3, "none", 2, "triton"),
        ),
        "greedy_select": (lattice(2, 9), 3, "dpp", None, None, lattice(2, 9), None, "triton"),
        "topk_tokens": (draw(2, 9, 5), torch.tensor([[0, 3, 8], [1, 2, 4]]), "triton"),
        "topk_positions": (torch.rand(2, 9), 3, torch.ones(2, 9, dtype=torch.bool), "triton"),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it itself
@pytest.mark.parametrize("name", registered())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.tokscale, name).default, registered()[name])


@pytest.mark.slow
def test_compiles_as_one_graph_bit_for_bit() -> None:
    q, k, x, w = draw(2, 2, 3, 8), draw(2, 1, 6, 8), draw(2, 6, 32), draw(8, 32)

    def call() -> Any:
        o = ops.fusion_attention(q, k, k, return_importance=True, backend="triton")
        folded = ops.projected_fusion_attention(q, x, w, w, path="folded", backend="triton")
        return o.out, o.importance, folded.out, ops.attention_importance(q, k, backend="triton")

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")()
    for got, want in zip(flat(compiled), flat(call()), strict=True):
        assert torch.equal(got, want)


def test_the_limits_are_those_that_the_kernels_were_compiled_for() -> None:
    assert _backend.MAX_TOKENS == {"dpp": 4096, "max_min": 16384, "topk_gather": 8192}
    assert _backend.MAX_TOKENS_HIP["topk_gather"] == 4096
