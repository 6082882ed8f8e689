from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale import AdaptivePooler, CrossAttentionFuser, ops
from tokscale.compressors import fuser_layers

DIM, TEXT_DIM = 16, 12


def build(k: int = 5, **keywords: Any) -> CrossAttentionFuser:
    """A fuser whose weights are all away from their initial zeros."""
    torch.manual_seed(0)
    fuser = CrossAttentionFuser(k, DIM, **{"text_dim": TEXT_DIM, "num_heads": 4, **keywords})
    with torch.no_grad():
        for name, parameter in fuser.named_parameters():
            if (parameter.ndim == 1 and "norm" not in name) or name in ("to_out.weight", "point.gate.weight"):
                parameter.normal_(std=0.5)
    return fuser.eval()


def inputs(b: int = 2, n: int = 30, t: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    x, text = torch.randn(b, n, DIM, generator=draw), torch.randn(b, t, TEXT_DIM, generator=draw)
    mask = torch.arange(t) < torch.arange(t, t - b, -1)[:, None]
    return x.to(dtype), {"text_tokens": text.to(dtype), "text_mask": mask, "grid": (5, n // 5)}


def definition(fuser: CrossAttentionFuser, x: Tensor, text: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The formulas of the documentation, one sample and one head at a time, for `condition="both"`."""
    from tokscale.compressors import cells

    k, heads = fuser.num_tokens, fuser.num_heads
    parts = cells(k, *grid)
    pool, far = parts.weights().to(x.dtype), parts.squared_distances().to(x.dtype)
    rows = []
    for xi, ti in zip(x, [t[m] for t, m in zip(text, mask, strict=True)], strict=True):
        p, u = pool @ xi, fuser.norm_vision(xi)
        s = fuser.from_text(fuser.norm_text(ti))
        z = fuser.queries[:k] + fuser.from_pooled(fuser.norm_pooled(p))
        z = z + fuser.from_question(s.mean(0) if len(s) else torch.zeros_like(z[0]))
        for layer in fuser.layers:
            q = layer.to_q(layer.norm(z))
            keys, values = u @ layer.key_weight.T, u @ layer.value_weight.T + layer.value_bias
            text_keys, text_values = layer.text_to_k(s), layer.text_to_v(s)
            outs = []
            for h in range(heads):
                cut = slice(h * DIM // heads, (h + 1) * DIM // heads)
                bias = -torch.nn.functional.softplus(layer.slope[h]) * far
                on_image = q[:, cut] @ keys[:, cut].T / math.sqrt(DIM / heads) + bias
                on_text = q[:, cut] @ text_keys[:, cut].T / math.sqrt(DIM / heads) + layer.text_bias[h]
                w = torch.softmax(torch.cat([on_image, on_text], 1), 1)
                outs.append(w @ torch.cat([values[:, cut], text_values[:, cut]]))
            z = z + layer.to_out(torch.cat(outs, 1))
            z = z + layer.mlp(z)
        h = fuser.norm_out(z)
        w = torch.softmax(fuser.point.to_q(h) @ (u @ fuser.point.key_weight.T).T / math.sqrt(DIM), 1)
        g = torch.sigmoid(fuser.point.gate(h))
        rows.append(p + g * (w @ xi - p) + fuser.to_out(h))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_the_formulas(k: int) -> None:
    fuser = build(k).double()
    x, context = inputs(dtype=torch.float64)
    expected = definition(fuser, x, context["text_tokens"], context["text_mask"], (5, 6))
    torch.testing.assert_close(fuser(x, **context), expected, rtol=0, atol=1e-12)


def test_the_packaged_size() -> None:
    fuser = CrossAttentionFuser(72, 64)
    assert sum(p.numel() for p in fuser.parameters()) == 113_185


# How it starts.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k, grid", [(5, (5, 6)), (36, (12, 12)), (7, (3, 2, 5)), (2, (3, 2, 5))])
def test_a_fresh_fuser_without_pointer_is_the_pooler_bitwise(dtype: torch.dtype, k: int, grid: tuple[int, ...]) -> None:
    x = torch.randn(2, math.prod(grid), DIM).to(dtype)
    fuser = CrossAttentionFuser(k, DIM, pointer=False).to(dtype)
    result = fuser.compress(x, text_tokens=torch.randn(2, 3, DIM).to(dtype), grid=grid)
    expected = AdaptivePooler(k).compress(x, grid=grid)
    assert torch.equal(result.tokens, expected.tokens)
    assert torch.equal(result.assignment, expected.assignment)
    assert torch.equal(result.positions, expected.positions)


def test_a_fresh_fuser_with_pointer_opens_its_gate_by_27_percent() -> None:
    fuser = CrossAttentionFuser(5, DIM)
    x, text = torch.randn(2, 30, DIM), torch.randn(2, 3, DIM)
    tokens, _, assignment, _ = fuser.compress(x, text_tokens=text)
    torch.testing.assert_close(tokens, assignment @ x, rtol=0, atol=1e-6)
    pooled = AdaptivePooler(5).compress(x).assignment
    pointed = (assignment - pooled * (1 - 1 / (1 + math.e))) * (1 + math.e)
    torch.testing.assert_close(pointed.sum(-1), torch.ones(2, 5), rtol=0, atol=1e-5)
    assert pointed.min() > 0


def test_the_slopes_of_the_position_bias() -> None:
    layer = CrossAttentionFuser(5, 64).layers[0]
    slopes = torch.nn.functional.softplus(layer.slope).tolist()
    assert slopes == pytest.approx([4 / 2**h for h in range(8)], rel=1e-5)
    assert layer.text_bias.eq(0).all()


def test_another_output_width_starts_semi_orthogonal() -> None:
    for out_dim in (8, 24):
        fuser = CrossAttentionFuser(5, DIM, out_dim=out_dim)
        x, text = torch.randn(2, 30, DIM), torch.randn(2, 3, DIM)
        tokens, _, assignment, _ = fuser.compress(x, text_tokens=text)
        assert tokens.shape == (2, 5, out_dim)
        torch.testing.assert_close(tokens, assignment @ x @ fuser.residual.weight.T, rtol=0, atol=1e-5)
        w = fuser.residual.weight
        gram = w @ w.T if out_dim < DIM else w.T @ w
        torch.testing.assert_close(gram, torch.eye(min(out_dim, DIM)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"pointer": False},
        {"condition": "keys"},
        {"condition": "query"},
        {"condition": "none"},
        {"out_dim": 8},
        {"spatial_bias": False},
        {"mlp_ratio": 0},
    ],
    ids=str,
)
def test_every_parameter_has_a_gradient_after_one_step(keywords: dict[str, Any]) -> None:
    torch.manual_seed(0)
    fuser = CrossAttentionFuser(5, DIM, **{"text_dim": TEXT_DIM, **keywords})
    x, context = inputs()
    optimizer = torch.optim.SGD(fuser.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        fuser(x, **context).square().sum().backward()
        optimizer.step()
    for name, parameter in fuser.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# Budgets.


def test_smaller_budgets_use_the_first_queries() -> None:
    large, small = build(5, num_queries=9), build(5)
    small.load_state_dict({**large.state_dict(), "queries": large.queries[:5]})
    x, context = inputs()
    assert torch.equal(large(x, **context), small(x, **context))
    large.num_tokens = 9
    assert large(x, **context).shape == (2, 9, DIM)


def test_a_budget_above_the_queries_raises() -> None:
    text = (
        "num_tokens=300 exceeds the 256 queries this CrossAttentionFuser was built with. "
        "Use num_tokens <= 256, or build it with num_tokens=300 and train it."
    )
    fuser = CrossAttentionFuser(256, 8)
    with pytest.raises(tokscale.BudgetError, match=f"^{re.escape(text)}$"):
        fuser.num_tokens = 300
    assert fuser.num_tokens == 256
    with pytest.raises(ValueError, match=re.escape(text)):
        CrossAttentionFuser(300, 8, num_queries=256)


def test_it_runs_at_full_length_too() -> None:
    fuser = build(40)
    x, context = inputs()
    tokens, positions, _, _ = fuser.compress(x, **context)
    assert tokens.shape == x.shape and not torch.equal(tokens, x)
    assert positions.tolist() == [list(range(30))] * 2


# The question.


@pytest.mark.parametrize("condition", ["keys", "query", "both"])
def test_the_question_matters_and_an_empty_one_is_condition_none(condition: str) -> None:
    fuser, blind = build(condition=condition), build(condition="none")
    blind.load_state_dict({key: fuser.state_dict()[key] for key in blind.state_dict()})
    x, context = inputs()
    asked, expected = fuser(x, **context), blind(x, grid=(5, 6))
    assert (asked - expected).abs().max() > 1e-3
    silent = {**context, "text_mask": torch.zeros(2, 6, dtype=torch.bool)}
    torch.testing.assert_close(fuser(x, **silent), expected, rtol=0, atol=1e-6)
    gone = {**context, "text_tokens": torch.zeros(2, 0, TEXT_DIM), "text_mask": None}
    torch.testing.assert_close(fuser(x, **gone), expected, rtol=0, atol=1e-6)


def test_a_batch_may_mix_empty_and_full_questions() -> None:
    fuser = build()
    x, context = inputs()
    context["text_mask"] = torch.tensor([[False] * 6, [True] * 6])
    together = fuser(x, **context)
    alone = fuser(x[1:], text_tokens=context["text_tokens"][1:], grid=(5, 6))
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=2e-6)


def test_masked_text_changes_nothing_and_order_does_not_matter() -> None:
    fuser = build()
    x, context = inputs()
    expected = fuser(x, **context)
    junk = torch.where(context["text_mask"][..., None], context["text_tokens"], torch.tensor(1e4))
    assert torch.equal(fuser(x, **{**context, "text_tokens": junk}), expected)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    moved = {"text_tokens": junk[:, order], "text_mask": context["text_mask"][:, order]}
    torch.testing.assert_close(fuser(x, **{**context, **moved}), expected, rtol=0, atol=2e-6)
    padded = {
        "text_tokens": torch.nn.functional.pad(junk, (0, 0, 4, 3), value=7.0),
        "text_mask": torch.nn.functional.pad(context["text_mask"], (4, 3)),
    }
    torch.testing.assert_close(fuser(x, **{**context, **padded}), expected, rtol=0, atol=2e-6)


def test_blind_fusers_need_no_question() -> None:
    assert build(condition="none").needs == frozenset() and not build(condition="none").question_aware
    assert build().needs == frozenset({"text"})
    with pytest.raises(
        tokscale.MissingContextError, match=r"^cross_attention needs text, got nothing. Pass text_tokens="
    ):
        build()(inputs()[0])
    x, context = inputs()
    assert torch.equal(build(condition="none")(x, **context), build(condition="none")(x, grid=(5, 6)))


# The fold, and the scores.


def with_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    stock = ops.projected_fusion_attention

    def forced(*args: Any, **keywords: Any) -> Any:
        return stock(*args, **{**keywords, "path": path})

    monkeypatch.setattr(fuser_layers.ops, "projected_fusion_attention", forced)


@pytest.mark.parametrize("k", [1, 9, 30])
def test_folded_equals_standard(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fuser = build(k)
    x, context = inputs()
    results = []
    for path in ("folded", "projected"):
        with monkeypatch.context() as patch:
            with_path(patch, path)
            fuser.zero_grad()
            tokens = fuser(x, **context)
            tokens.square().sum().backward()
            results.append((tokens.detach(), {name: p.grad.clone() for name, p in fuser.named_parameters()}))
    (folded, grads), (standard, expected) = results
    assert (folded - standard).abs().max() <= 1e-5 * standard.abs().max()
    for name, grad in grads.items():
        assert (grad - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max().clamp(min=1), name


@pytest.mark.parametrize("k", [1, 9])
def test_scores_are_the_last_layers_attention_to_the_image(k: int) -> None:
    x, context = inputs()
    assert build(k).compress(x, **context).scores is None
    scores = build(k, collect_scores=True).compress(x, **context).scores
    assert scores.shape == (2, 30) and scores.min() > 0
    assert (scores.sum(1) < 1).all()  # the rest went to the question
    blind = build(k, collect_scores=True, condition="none").compress(x, **context).scores
    torch.testing.assert_close(blind.sum(1), torch.ones(2), rtol=0, atol=1e-5)


# Dtypes and modes.


def test_tokens_of_another_dtype_than_the_weights() -> None:
    fuser = build()
    x, context = inputs()
    half = fuser(x.bfloat16(), **{**context, "text_tokens": context["text_tokens"].bfloat16()})
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), fuser(x, **context), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("k", [1, 9])  # folded, and projected
def test_autocast(k: int) -> None:
    fuser = build(k)
    x, context = inputs()
    expected = fuser(x, **context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = fuser(x, **context)
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, expected, rtol=0.05, atol=0.1)
    tokens.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fuser.parameters() if p.grad is not None)


def test_inference_mode_then_training() -> None:
    fuser = build(3)
    x, context = inputs(n=35)
    with torch.inference_mode():
        fuser(x, **{**context, "grid": (5, 7)})
    fuser(x, **{**context, "grid": (5, 7)}).sum().backward()


def test_config_resolves_the_queries() -> None:
    assert build(5).config() == {
        "num_tokens": 5, "dim": 16, "text_dim": 12, "out_dim": 16, "num_heads": 4, "num_queries": 5, "depth": 2,
        "mlp_ratio": 2.0, "condition": "both", "spatial_bias": True, "pointer": True, "collect_scores": False,
        "backend": "auto",
    }  # fmt: skip


@pytest.mark.parametrize(
    "keywords, error, text",
    [
        ({"num_heads": 5}, ValueError, "dim=16 is not a multiple of num_heads=5"),
        ({"condition": "mean"}, ValueError, 'condition="mean" is unknown; choose from both, keys, none, query'),
        ({"backend": "cuda"}, ValueError, 'backend="cuda" is unknown; choose from auto, torch, triton'),
        ({"mlp_ratio": -1}, ValueError, "mlp_ratio must be a finite number >= 0, got -1"),
        ({"depth": 0}, tokscale.BudgetError, "depth must be an integer >= 1, got 0"),
    ],
)
def test_mistakes(keywords: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$") as caught:
        CrossAttentionFuser(5, DIM, **keywords)
    assert isinstance(caught.value, tokscale.TokscaleError)


def test_other_widths() -> None:
    x, context = inputs()
    text = "^vision_tokens has width 15, but this CrossAttentionFuser was built with dim=16$"
    with pytest.raises(tokscale.ShapeError, match=text):
        build()(x[..., :15], **context)
    text = "^text_tokens has width 11, but this CrossAttentionFuser was built with text_dim=12$"
    with pytest.raises(tokscale.ShapeError, match=text):
        build()(x, **{**context, "text_tokens": context["text_tokens"][..., :11]})


def test_triton_by_name_cannot_run_on_cpu_tensors() -> None:
    x, context = inputs()
    with pytest.raises(tokscale.BackendError, match='backend="triton" cannot run'):
        build(1, backend="triton")(x, **context)
