"""Methods that hear the question: cdpruner, dart, mmtok, text_rater."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale.compressors import DART, CDPruner, DPPSelector, MMTok, TextRater, TokenCompressor, TopKSelector

from . import naive_selection as naive
from . import toy
from .cases import SHAPES, agree, order_of, question, tokens, words

Q = {"text_tokens": toy.TEXT}


@pytest.mark.parametrize(
    "module, expected",
    [
        (CDPruner(3), [2, 3, 5]),
        (CDPruner(3, text_sign=-1), [0, 4, 5]),
        (CDPruner(3, theta=0.5), [2, 4, 5]),
        (DART(3, 1, 1), [0, 4, 5]),
        (MMTok(3), [2, 3, 5]),
        (TextRater(3), [2, 3, 4]),
    ],
)
def test_toy(module: TokenCompressor, expected: list[int]) -> None:
    assert module.compress(toy.X, **Q).positions.tolist() == [expected]


@pytest.mark.parametrize("n, d, k", SHAPES)
def test_each_choice_is_that_of_the_formula(n: int, d: int, k: int) -> None:
    x, q = tokens(n, d), question(d)
    each = [(x[i], words(q, i)) for i in range(2)]
    for sign, theta in ((1, None), (-1, None), (1, 0.7)):
        agree(CDPruner(k, sign, theta), x, q, [naive.cdpruner(s, k, t, sign, theta) for s, t in each])
    for own, asked in ((4, 4), (1, 1), (2, 0)):
        expected = [naive.dart(s, k, t if asked else t[:0], own, asked) for s, t in each]
        agree(DART(k, own, asked), x, q, expected)
    for options in ((0.01, 0.2, 0.5), (1.0, 0.05, 2.0)):
        for (s, t), order in zip(each, order_of(MMTok(k, *options), x, q)):
            naive.assert_covers(naive.mmtok_rows(s, t, *options), order, [1.0] * n)
    agree(TextRater(k), x, q, [naive.text_rater(s, k, t) for s, t in each])


@pytest.mark.parametrize("module", [CDPruner(4), MMTok(4), TextRater(4)])
def test_aligned_tokens_meet_the_text_and_the_tokens_come_out(module: TokenCompressor) -> None:
    x, aligned, text = torch.randn(2, 20, 6), torch.randn(2, 20, 3), torch.randn(2, 5, 3)
    result = module.compress(x, text_tokens=text, aligned_tokens=aligned)
    assert result.tokens.shape == (2, 4, 6)
    other = module.compress(x, text_tokens=text, aligned_tokens=torch.randn(2, 20, 3))
    assert not torch.equal(result.positions, other.positions)
    wrong = r"^vision_tokens has width 6 and text_tokens 3; pass aligned_tokens="
    with pytest.raises(tokscale.ShapeError, match=wrong):
        module(x, text_tokens=text)


@pytest.mark.parametrize("module", [CDPruner(4), DART(4), MMTok(4), TextRater(4)])
def test_an_empty_question_in_a_batch_touches_its_own_sample_alone(module: TokenCompressor) -> None:
    x, text = torch.randn(2, 20, 6), torch.randn(2, 5, 6)
    mask = torch.tensor([[False] * 5, [True] * 5])
    both = module.compress(x, text_tokens=text, text_mask=mask).positions
    assert torch.equal(both[:1], module.compress(x[:1], text_tokens=text[:1, :0]).positions)
    assert torch.equal(both[1:], module.compress(x[1:], text_tokens=text[1:]).positions)


# CDPruner


def test_an_empty_question_is_plain_dpp() -> None:
    x = torch.randn(3, 30, 6)
    for theta in (None, 0.9):
        result = CDPruner(12, theta=theta).compress(x, text_tokens=torch.zeros(3, 0, 6))
        assert torch.equal(result.positions, DPPSelector(12).compress(x).positions)


def test_equal_relevance_is_plain_dpp() -> None:
    x = torch.tensor([[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [0, 3.0, 4.0]]])
    text = torch.tensor([[[0.0, 0, 0]]])  # cosine 0 with everything: the range is 0
    assert torch.equal(CDPruner(3).compress(x, text_tokens=text).positions, DPPSelector(3).compress(x).positions)


def test_past_the_rank_no_token_repeats() -> None:
    x, text = torch.randn(2, 16, 8).repeat(1, 8, 1), torch.randn(2, 4, 8)
    for positions in CDPruner(75).compress(x, text_tokens=text).positions.tolist():
        assert len(set(positions)) == 75


def test_a_theta_near_one_does_not_overflow() -> None:
    x, text = torch.randn(2, 30, 6), torch.randn(2, 4, 6)
    first = CDPruner(1, theta=0.9999).compress(x, text_tokens=text).positions
    relevant = TopKSelector(1, "text").compress(x, text_tokens=text).positions
    assert torch.equal(first, relevant)


# DART


def test_a_budget_of_pivots_alone() -> None:
    x = torch.randn(2, 20, 6)
    largest = x.abs().sum(-1).topk(3).indices.sort().values
    result = DART(3, image_pivots=5, text_pivots=0).compress(x)
    assert torch.equal(result.positions, largest)
    assert DART(3, text_pivots=0).needs == frozenset() and not DART(3, text_pivots=0).question_aware


def test_the_first_pivots_claim_one_more() -> None:
    """Pivots 0 (image), then the text's; three places over two pivots are 2 and 1."""
    x = torch.tensor([[[9.0, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [0, -1]]])
    text = torch.tensor([[[1.0, 1]]])
    # token 0 claims -1 (4), then -.7 (3); the question claims the one least like (1, 1): 5
    assert DART(4, 1, 1).compress(x, text_tokens=text).positions.tolist() == [[0, 3, 4, 5]]


def test_dart_needs_the_question_in_the_tokens_space() -> None:
    text = (
        "text_tokens has width 3 and vision_tokens 6; dart compares the two directly: pass the question in the "
        "tokens' space, or set text_pivots=0"
    )
    with pytest.raises(tokscale.ShapeError, match=f"^{re.escape(text)}$"):
        DART(3)(torch.randn(1, 9, 6), text_tokens=torch.randn(1, 2, 3))


# MMTok


def test_a_sharp_question_token_is_covered_by_its_own_patch() -> None:
    x = torch.eye(8)[None]
    text = 5 * torch.eye(8)[None, [6]]
    assert MMTok(1).compress(x, text_tokens=text).positions.tolist() == [[6]]
    text = 5 * torch.eye(8)[None, [6, 2]]
    assert MMTok(2).compress(x, text_tokens=text).positions.tolist() == [[2, 6]]


# TextRater


@pytest.mark.parametrize("count", range(1, 12))
def test_words_of_equal_relevance_all_rate(count: int) -> None:
    """Equal words: each has the mean relevance, however its sum is rounded, and the scores are those of one."""
    x, word = torch.randn(1, 30, 6), torch.randn(1, 1, 6)
    one = TextRater(5).compress(x, text_tokens=word)
    many = TextRater(5).compress(x, text_tokens=word.repeat(1, count, 1))
    torch.testing.assert_close(many.scores, one.scores, rtol=0, atol=1e-7)


def test_scores_are_the_mean_over_the_raters() -> None:
    """x = (0, 0), (0, ln 4)/G-scale: one word attends evenly, the other four to one."""
    root = 2**0.5
    x = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    text = torch.tensor([[[0.0, 0.0], [0.0, root * torch.log(torch.tensor(4.0)).item()]]], dtype=torch.float64)
    # G = [[0, 0], [0, ln 4]]: softmax over words [.5, .5], [.2, .8]; relevance .35, .65: only the second word rates
    result = TextRater(1).compress(x, text_tokens=text)
    assert result.scores.tolist() == [pytest.approx([0.2, 0.8], abs=1e-6)]
    assert result.positions.tolist() == [[1]]


def test_an_empty_question_ranks_by_norm() -> None:
    x = torch.randn(2, 20, 6)
    result = TextRater(4).compress(x, text_tokens=torch.zeros(2, 0, 6))
    assert torch.equal(result.positions, TopKSelector(4).compress(x).positions)


@pytest.mark.parametrize("size", [1e19, 3e38])
def test_products_that_overflow_are_compared(size: float) -> None:
    x = torch.rand(1, 10, 4) * 0.5
    x[0, 7] = 1
    result = TextRater(1).compress(x * size, text_tokens=torch.full((1, 2, 4), size))
    assert result.positions.tolist() == [[7]] and result.scores.isfinite().all()


@pytest.mark.parametrize(
    "build, text",
    [
        (lambda: CDPruner(3, text_sign=2), "text_sign=2 is unknown; choose from -1, 1"),
        (lambda: CDPruner(3, theta=1), "theta must be a number in [0, 1), got 1"),
        (lambda: DART(3, image_pivots=0), "image_pivots must be an integer >= 1, got 0"),
        (lambda: DART(3, text_pivots=-1), "text_pivots must be an integer >= 0, got -1"),
        (lambda: DART(3, text_pivots=True), "text_pivots must be an integer >= 0, got True"),
        (lambda: MMTok(3, text_temperature=0), "text_temperature must be a finite number > 0, got 0"),
        (lambda: MMTok(3, vision_weight=-1), "vision_weight must be a finite number >= 0, got -1"),
    ],
)
def test_mistakes(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        build()
