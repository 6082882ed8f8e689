from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale import TopKSelector
from tokscale.compressors.soft_topk import soft_topk

from . import toy


@pytest.mark.parametrize(
    "keywords, expected",
    [
        ({}, [0, 1, 4]),
        ({"score": "text"}, [1, 2, 3]),
        ({"score": "text", "text_reduce": "max"}, [1, 2, 3]),
        ({"score": "text", "text_sign": -1}, [0, 4, 5]),
        ({"score": "importance"}, [1, 3, 4]),
    ],
)
def test_toy_example(keywords: dict[str, Any], expected: list[int]) -> None:
    assert TopKSelector(3, **keywords).compress(toy.X, **toy.context()).positions.tolist() == [expected]


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_norms_whose_squares_do_not_fit_in_float32_are_compared(size: float) -> None:
    x = torch.randn(1, 30, 8)
    result = TopKSelector(7).compress(x * size)
    assert result.positions.equal(TopKSelector(7).compress(x).positions)
    assert result.scores is not None and result.scores.isfinite().all()


def cosines(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(x[:, :, None], t[:, None], dim=-1)  # b n t


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_text_scores_are_cosines_with_the_unmasked_question(sign: int, reduce: str) -> None:
    x, t = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True, True, False, False, False], [True, False, True, True, True]])
    scores = (
        TopKSelector(3, "text", text_sign=sign, text_reduce=reduce).compress(x, text_tokens=t, text_mask=mask).scores
    )
    for i in range(2):
        c = sign * cosines(x, t)[i][:, mask[i]]
        expected = c.mean(1) if reduce == "mean" else c.amax(1)
        torch.testing.assert_close(scores[i], expected, rtol=0, atol=1e-6)


def test_an_empty_question_gives_the_norm_in_its_sample_alone() -> None:
    x, t = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[False] * 5, [True] * 5])
    scores = TopKSelector(3, "text").compress(x, text_tokens=t, text_mask=mask).scores
    torch.testing.assert_close(scores[0], x[0].norm(dim=-1))
    torch.testing.assert_close(scores[1], cosines(x, t)[1].mean(1), rtol=0, atol=1e-6)


def test_aligned_tokens_meet_the_text_and_the_tokens_come_out() -> None:
    x, t, aligned = torch.randn(2, 9, 6), torch.randn(2, 5, 4), torch.randn(2, 9, 4)
    result = TopKSelector(3, "text").compress(x, text_tokens=t, aligned_tokens=aligned)
    torch.testing.assert_close(result.scores, cosines(aligned, t).mean(-1), rtol=0, atol=1e-6)
    assert result.tokens.shape == (2, 3, 6)
    with pytest.raises(
        tokscale.ShapeError, match=r"^vision_tokens has width 6 and text_tokens 4; pass aligned_tokens="
    ):
        TopKSelector(3, "text").compress(x, text_tokens=t)
    with pytest.raises(
        tokscale.ShapeError, match=r"^aligned_tokens has width 6 and text_tokens 4; pass aligned_tokens="
    ):
        TopKSelector(3, "text").compress(x, text_tokens=t, aligned_tokens=x)


def test_zero_tokens_have_cosine_zero() -> None:
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    scores = TopKSelector(2, "text").compress(x, text_tokens=torch.tensor([[[2.0, 0.0]]])).scores
    assert scores.tolist() == [[0, 1, -1]]


def test_equal_scores_go_to_the_lower_index() -> None:
    assert TopKSelector(3).compress(torch.ones(1, 9, 4)).positions.tolist() == [[0, 1, 2]]


# The learned score.


def learned(k: int = 4, **keywords: Any) -> TopKSelector:
    torch.manual_seed(0)
    return TopKSelector(k, "learned", dim=8, **keywords)


def test_the_gradient_leaves_kept_tokens_bitwise() -> None:
    module, x = learned().train(), torch.randn(2, 20, 8)
    tokens, positions, _, scores = module.compress(x)
    rows = x.gather(1, positions[..., None].expand(-1, -1, 8))
    assert torch.equal(tokens, rows) and tokens.requires_grad
    assert torch.equal(positions, scores.argsort(descending=True, stable=True)[:, :4].sort().values)


def test_tokens_that_were_not_kept_learn_too() -> None:
    module = learned().train()
    x = torch.randn(1, 20, 8).requires_grad_()
    result = module.compress(x)
    result.tokens.square().sum().backward()
    dropped = torch.ones(20, dtype=torch.bool)
    dropped[result.positions[0]] = False
    assert x.grad[0, dropped].abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("mode", ["eval", "no_grad"])
def test_outside_training_there_is_no_gradient_to_the_score(mode: str) -> None:
    module, x = learned(), torch.randn(1, 20, 8)
    module.train(mode == "no_grad")
    with torch.set_grad_enabled(mode == "eval"):
        assert not module(x).requires_grad


def test_at_full_length_the_learned_score_runs_without_a_gradient() -> None:
    module, x = learned(20).train(), torch.randn(1, 20, 8)
    result = module.compress(x)
    assert torch.equal(result.tokens, x) and result.scores is not None
    assert not soft_topk(result.scores, 20).requires_grad


def test_hidden_width() -> None:
    assert learned().mlp[0].out_features == 2 and learned(hidden=5).mlp[0].out_features == 5
    assert TopKSelector(1, "learned", dim=3).mlp[0].out_features == 1


def test_soft_topk_of_the_page() -> None:
    p = soft_topk(torch.tensor([[1.0, 0.0, -1.0, 2.0]]), 2)
    assert p[0].tolist() == pytest.approx([0.6225, 0.3775, 0.1824, 0.8176], abs=5e-5)


@pytest.mark.parametrize("scale, temperature", [(1, 1.0), (1e4, 1.0), (1, 1e-3), (0, 1.0)])
@pytest.mark.parametrize("k", [1, 7, 19])
def test_soft_topk_sums_to_k(scale: float, temperature: float, k: int) -> None:
    scores = scale * torch.randn(3, 20, dtype=torch.float64)
    p = soft_topk(scores, k, temperature)
    torch.testing.assert_close(p.sum(1), torch.full((3,), float(k), dtype=torch.float64), rtol=0, atol=1e-9)
    assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_soft_topk_gradient(temperature: float) -> None:
    scores = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: soft_topk(s, 3, temperature), (scores,))


def test_soft_topk_of_saturated_scores_has_gradient_zero() -> None:
    scores = torch.tensor([[1e6, -1e6, 0.9e6]], requires_grad=True)
    soft_topk(scores, 2).sum().backward()
    assert scores.grad.eq(0).all()


@pytest.mark.parametrize(
    "keywords, text",
    [
        ({"score": "random"}, 'score="random" is unknown; choose from importance, learned, norm, text'),
        ({"score": "learned"}, 'score="learned" needs dim, the width of the vision tokens'),
        ({"text_sign": 0}, "text_sign=0 is unknown; choose from -1, 1"),
        ({"text_reduce": "sum"}, 'text_reduce="sum" is unknown; choose from max, mean'),
        ({"temperature": 0}, "temperature must be a finite number > 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be a finite number > 0, got nan"),
        ({"temperature": "1"}, "temperature must be a finite number > 0, got '1'"),
    ],
)
def test_mistakes(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(tokscale.ArgumentError, match=f"^{re.escape(text)}$"):
        TopKSelector(3, **keywords)


def test_another_width() -> None:
    with pytest.raises(
        tokscale.ShapeError, match=r"^vision_tokens has width 7, but this TopKSelector was built with dim=8$"
    ):
        learned()(torch.zeros(1, 9, 7))
