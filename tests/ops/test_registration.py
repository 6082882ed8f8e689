"""Every operator is sound under `opcheck`, compiles as one graph bit for bit, and costs no compiler import to call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops import _backend

from .helpers import flat, lattice

B, H, G, M, N, T, D, C = 2, 4, 2, 3, 6, 4, 8, 16
REGISTERED = torch.ops.tokscale


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def arguments() -> dict[str, list[tuple[Any, ...]]]:
    """Calls of every registered forward: all options on, all off."""
    q, k, v, k_text, v_text = draw(B, H, M, D), draw(B, G, N, D), draw(B, G, N, D), draw(B, G, T, D), draw(B, G, T, D)
    x, w_k, w_v, b_k, b_v = draw(B, N, C), draw(G * D, C), draw(G * D, C), draw(G * D), draw(G * D)
    masks = (torch.rand(B, N) < 0.6, None, None, torch.tensor([0, 3]))
    no_masks, biases = (None,) * 4, (draw(1, M, N), draw(H))
    rows, votes = torch.randint(-M, M, (B, 3)), torch.rand(B, M) < 0.5
    every_option = (draw(B, H, M), rows, votes, masks[0], None, torch.rand(B, 1, M, 1) < 0.8, 2, 0.3, "mean", 2, "auto")
    packed, ends = (draw(10, H, D), draw(10, G, D)), torch.tensor([0, 2, 6, 10])
    return {
        "fusion_attention": [
            (q, k, v, k_text, v_text, *masks, *biases, 0.3, True, True, "auto"),
            (q, k, v, None, None, *no_masks, None, None, 0.3, False, False, "auto"),
        ],
        "projected_fusion_attention": [
            (q, x, w_k, w_v, k_text, v_text, b_k, b_v, *masks, *biases, 0.3, True, True, True, "auto"),
            (q, x, w_k, w_v, None, None, None, None, *no_masks, None, None, 0.3, False, False, False, "auto"),
        ],
        "attention_importance": [
            (q, k, *every_option),
            (q, k, None, None, None, None, None, None, None, 0.3, "none", 1, "auto"),
        ],
        "attention_importance_varlen": [(*packed, ends, None, 4, None, True, 0.3, "none", 2, "auto")],
        "greedy_select": [
            (lattice(B, 9), 3, "dpp", None, None, lattice(B, 9), None, "auto"),
            (lattice(B, 9), 3, "max_min", torch.tensor([0, 1]), torch.rand(B, 9), None, None, "auto"),
        ],
        "topk_tokens": [(draw(B, 9, 3), torch.tensor([[0, 3, 8], [1, 2, 4]]), "auto")],
        "topk_positions": [(torch.rand(B, 9), 3, torch.ones(B, 9, dtype=torch.bool), "auto")],
    }


def forward_names() -> list[str]:
    names = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if name.startswith("tokscale::")}
    return sorted(name for name in names if not name.endswith("_backward"))


def test_the_cases_cover_every_registered_operator() -> None:
    assert sorted(arguments()) == forward_names()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it itself
@pytest.mark.parametrize("name", forward_names())
def test_opcheck(name: str) -> None:
    for args in arguments()[name]:
        torch.library.opcheck(getattr(REGISTERED, name).default, args)


def calls() -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    q, k, k_text = draw(B, H, M, D), draw(B, G, N, D), draw(B, G, T, D)
    x, w = draw(B, N, C), draw(G * D, C)
    mask, lengths = torch.rand(B, N) < 0.6, torch.tensor([0, 3])
    options = {"vision_mask": mask, "text_lengths": lengths, "vision_bias": draw(1, M, N), "return_importance": True}
    packed, ends = (draw(10, H, D), draw(10, G, D)), torch.tensor([0, 2, 6, 10])
    distances, scores, every = lattice(B, 9), torch.rand(B, N), torch.ones(B, 9, dtype=torch.bool)
    return {
        "fusion": lambda: ops.fusion_attention(q, k, k, k_text, k_text, **options),
        "folded": lambda: ops.projected_fusion_attention(q, x, w, w, k_text, k_text, path="folded", **options),
        "auto": lambda: ops.projected_fusion_attention(q, x, w, w, k_text, k_text, **options),
        "last row": lambda: ops.attention_importance(q, k, rows=-1, causal=True),
        "slice": lambda: ops.attention_importance(q, k, rows=slice(None, None, 2), reduce="mean", key_mask=mask),
        "rows": lambda: ops.attention_importance(q, k, rows=torch.tensor([0, -1]), key_lengths=lengths),
        "packed": lambda: ops.attention_importance_varlen(*packed, ends),
        "greedy": lambda: ops.greedy_select(distances, 3, mask=every),
        "top-k": lambda: ops.topk_gather((x, x[..., 0]), scores, 3),
    }


@pytest.mark.parametrize("name", calls())
def test_compiles_as_one_graph_bit_for_bit(name: str) -> None:
    call = calls()[name]
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = list(flat(torch.compile(call, fullgraph=True, backend=count)()))
    assert len(graphs) == 1
    for got, want in zip(compiled, flat(call()), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["fusion", "folded", "last row", "top-k"])
def test_the_backward_compiles_too(name: str) -> None:
    inputs = [draw(B, H, M, D), draw(B, G, N, D), draw(B, N, C), draw(G * D, C)]
    scores = torch.rand(B, N)

    def loss(q: Tensor, k: Tensor, x: Tensor, w: Tensor) -> Tensor:
        if name == "fusion":
            return ops.fusion_attention(q, k, k).out.square().sum()
        if name == "folded":
            return ops.projected_fusion_attention(q, x, w, w, path="folded").out.square().sum()
        if name == "last row":
            return ops.attention_importance(q, k, rows=-1).square().sum()
        return ops.topk_gather(x, scores, 3).tokens.square().sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, want = (torch.autograd.grad(f(*inputs), inputs, allow_unused=True) for f in (compiled, loss))
    for g, w in zip(got, want, strict=True):
        assert (w is None and (g is None or not g.any())) or torch.equal(g, w)


class Part(torch.nn.Module):
    """A part of a model that calls one operator on a tensor (b, n, C) and its own parameters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.weight = torch.nn.Parameter(torch.randn(2, H * D, C))
        self.queries = torch.nn.Parameter(torch.randn(B, H, M, D))

    def forward(self, x: Tensor) -> Any:
        q, k = ((x @ w.T).unflatten(-1, (H, D)).transpose(1, 2) for w in self.weight)
        if self.name == "attention_importance":
            return ops.attention_importance(q, k, rows=0, reduce="mean")
        if self.name == "attention_importance_varlen":
            ends = torch.tensor([0, 2, x.shape[1]])
            return ops.attention_importance_varlen(q[0].transpose(0, 1), k[0].transpose(0, 1), ends)
        if self.name == "fusion_attention":
            return tuple(ops.fusion_attention(self.queries, k, q, return_lse=True, return_importance=True)[:3])
        if self.name == "projected_fusion_attention":
            return ops.projected_fusion_attention(self.queries, x, *self.weight, path="folded").out
        if self.name == "greedy_select":
            return tuple(ops.greedy_select((x[:, :, None] - x[:, None]).abs().sum(-1), 3))
        return tuple(ops.topk_gather(x, x[..., 0], 3))


@pytest.mark.parametrize("name", sorted(set(ops.__all__) & set(_backend.OPERATORS)))
def test_a_part_of_a_model_is_exported(name: str) -> None:
    """The operator is a node of the exported program, which computes the same, also at a length not seen before."""
    part, dynamic = Part(name), {"x": {1: torch.export.Dim("n", min=4, max=64)}}
    exported = torch.export.export(part, (torch.randn(B, N, C),), dynamic_shapes=dynamic)
    called = {str(node.target) for node in exported.graph.nodes}
    assert f"tokscale.{'topk_positions' if name == 'topk_gather' else name}.default" in called
    for n in (N, N + 3):
        x = torch.randn(B, n, C)
        for got, want in zip(flat(exported.module()(x)), flat(part(x)), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


FIRST_CALL = """
import sys, torch
from tokscale import ops
q = torch.randn(1, 2, 3, 8, requires_grad=True)
ops.fusion_attention(q, q, q).out.sum().backward()
ops.topk_gather(torch.randn(1, 4, 2), torch.randn(1, 4), 2)
heavy = ("torch._dynamo", "torch._inductor", "sympy", "triton", "transformers", "scipy")
print([name for name in heavy if name in sys.modules])
"""


def test_a_first_call_imports_neither_compiler_nor_triton() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
