"""`visionzip`, `prumerge`, `vscan`: attention chooses, likeness merges; `trim`: the question chooses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale import TokenCompressor
from tokscale.compressors import TRIM, PruMerge, VisionZip, VScan

from . import naive_merging as naive
from . import toy
from .cases import CLIPS, SHAPES, question, scores, tokens, words
from .mixtures import close, distinct


@pytest.mark.parametrize(
    "module, positions, expected",
    [
        (VisionZip(3, num_contextual=1), [0, 1, 3], [[11 / 3, 3], [5, 1], [0, 4]]),
        (VisionZip(3, num_contextual=1, merge="mean"), [0, 1, 3], [[11 / 6, 1.5], [5, 1], [0, 4]]),
        (PruMerge(3, neighbours=2), [1, 3, 4], [[5.5, 1.2], [0.1, 5.4], [0, 1.5]]),
        (PruMerge(1), [1], [[1.5, 2.8]]),
        (TRIM(3), [1, 2, 3], [[1.25, 2], [3, 2], [0, 4]]),
        (TRIM(3, text_sign=-1), [0, 4, 5], [[4, 0], [1.75, 3.25], [-3, 1]]),
        (VScan(3, window=2), [1, 2, 3], [[4.5, 0.5], [3, 2], [-4 / 3, 11 / 3]]),
        (VScan(3, window=2, merge=False), [1, 2, 3], [[5, 1], [3, 2], [0, 4]]),
    ],
)
def test_toy(module: TokenCompressor, positions: list[int], expected: list[list[float]]) -> None:
    result = module.compress(toy.X, **toy.context())
    assert result.positions.tolist() == [positions]
    expected_tokens = torch.tensor([expected], dtype=torch.float32)
    torch.testing.assert_close(result.tokens, expected_tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n, d, k", SHAPES)
def test_the_formulas(n: int, d: int, k: int) -> None:
    x, a, keys = distinct(n, d), scores(n), distinct(n, 2 + d % 5, seed=5)
    given = {"importance": a, "keys": keys}
    for contextual, merge in ((min(k, 3), "sum"), (k, "mean"), (0, "sum")):
        expected = [naive.visionzip(*each, contextual, merge) for each in zip(x, [k, k], a, keys, strict=True)]
        close(VisionZip(k, contextual, merge), x, given, expected)
    for neighbours in (1, 4, 32):
        expected = [naive.prumerge(*each, neighbours) for each in zip(x, [k, k], a, keys, strict=True)]
        close(PruMerge(k, neighbours), x, given, expected)
    text = question(d)
    for sign in (1, -1):
        x = tokens(n, d)  # with copies
        expected = [naive.trim(x[i], k, words(text, i), sign) for i in range(2)]
        close(TRIM(k, sign), x, text, expected)


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_vscan_is_its_formula(grid: tuple[int, int, int], d: int, k: int) -> None:
    n = grid[0] * grid[1] * grid[2]
    x, a, shallow = distinct(n, d), scores(n), scores(n, seed=3)
    given = {"importance": a, "shallow_importance": shallow, "grid": grid}
    for window, ratio, merge in ((2, 0.5, True), (3, 1.0, False), (6, 0.3, True), (1, 0.0, True)):
        expected = [
            naive.vscan(x[i], k, a[i], shallow[i], grid, window=window, ratio=ratio, merge=merge) for i in range(2)
        ]
        close(VScan(k, window, ratio, merge), x, given, expected)


# visionzip.


def test_visionzip_divides_its_budget_as_published() -> None:
    x, a = torch.randn(1, 600, 4), torch.rand(1, 600)
    for k, contextual in ((64, 10), (128, 20), (192, 30), (5, 0)):
        positions = VisionZip(k).compress(x, importance=a, keys=x).positions
        dominant = a.topk(k - contextual).indices
        assert int(torch.isin(positions, dominant).sum()) == k - contextual  # a centre may be alone


def test_visionzip_centres_reach_the_end() -> None:
    a = torch.zeros(1, 103)
    a[0, :3] = 1
    x = torch.randn(1, 103, 4)
    positions = VisionZip(13, num_contextual=10).compress(x, importance=a, keys=x).positions
    assert positions.tolist() == [[0, 1, 2, *range(3, 103, 10)]]


def test_visionzip_refuses_more_contextual_tokens_than_tokens() -> None:
    text = "num_contextual=4 exceeds num_tokens=3. Use num_contextual <= 3, or None for 5*3//32 = 0"
    with pytest.raises(tokscale.BudgetError, match=f"^{re.escape(text)}$"):
        VisionZip(3, num_contextual=4)
    module = VisionZip(4, num_contextual=4)
    with pytest.raises(tokscale.BudgetError, match=f"^{re.escape(text)}$"):
        module.num_tokens = 3
    assert module.num_tokens == 4


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_visionzip_refuses(value: Any) -> None:
    with pytest.raises(tokscale.ArgumentError, match=r"^num_contextual must be an integer >= 0, got "):
        VisionZip(3, num_contextual=value)
    with pytest.raises(tokscale.ArgumentError, match=r"^merge=.* is unknown; choose from mean, sum$"):
        VisionZip(3, merge=value)


# prumerge.


def test_prumerge_suggests_one_more_than_the_outliers() -> None:
    a = torch.rand(4, 101, dtype=torch.float64)
    a[1, 7] = a[2, 3] = a[2, 90] = 9
    suggested = PruMerge.suggest_num_tokens(a)
    for row, count in zip(a.tolist(), suggested, strict=True):
        ranked = sorted(row)
        first, third = ranked[25], ranked[75]  # of 101 values the quartiles are elements
        assert count == 1 + sum(value > third + 1.5 * (third - first) for value in row)
    assert suggested[2] >= 3
    assert PruMerge.suggest_num_tokens(torch.ones(2, 9)) == [1, 1]
    with pytest.raises(tokscale.ShapeError, match=r"^importance must be \(batch, tokens\), got shape \(9,\)$"):
        PruMerge.suggest_num_tokens(torch.ones(9))
    with pytest.raises(tokscale.NonFiniteError, match=r"^importance is not finite in sample \[1\]$"):
        PruMerge.suggest_num_tokens(torch.tensor([[1.0, 2], [3, torch.nan]]))


def test_prumerge_takes_the_mean_importance_of_every_head_apart() -> None:
    assert PruMerge.keys_reduce == "cat"  # keys of all heads, concatenated


# vscan.


def test_vscan_takes_turns_between_windows_before_second_bests() -> None:
    shallow = torch.arange(16.0).flip(0)[None]  # the first window holds the largest ones
    given = {"shallow_importance": shallow, "importance": torch.zeros(1, 16), "grid": (4, 4)}
    kept = VScan(4, window=2, local_ratio=1, merge=False).compress(torch.randn(1, 16, 3), **given).positions
    assert kept.tolist() == [[0, 2, 8, 10]]


def test_vscan_windows_do_not_cross_frames() -> None:
    shallow = torch.tensor([[3.0, 2, 1, 0]])
    given = {"shallow_importance": shallow, "importance": torch.zeros(1, 4), "grid": (2, 1, 2)}
    kept = VScan(2, window=4, local_ratio=1, merge=False).compress(torch.randn(1, 4, 3), **given).positions
    assert kept.tolist() == [[0, 2]]


def test_vscan_reads_a_quarter_of_the_way_and_mixes_by_option() -> None:
    assert VScan(3).shallow_layer == 0.25
    assert VScan(3).mixture and not VScan(3, merge=False).mixture
    with pytest.raises(tokscale.ArgumentError, match=r"^local_ratio must be a number in \[0, 1\], got 1.5$"):
        VScan(3, local_ratio=1.5)


# trim.


def test_trim_of_an_empty_question_goes_by_norm_in_its_sample_alone() -> None:
    x, text = torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[False] * 5, [True] * 5])
    result = TRIM(4).compress(x, text_tokens=text, text_mask=mask)
    torch.testing.assert_close(result.scores[0], x[0].norm(dim=-1))
    alone = TRIM(4).compress(x[1:], text_tokens=text[1:])
    assert torch.equal(result.positions[1:], alone.positions)
    torch.testing.assert_close(result.tokens[1:], alone.tokens, rtol=0, atol=1e-6)


def test_trim_meets_the_question_in_its_own_space() -> None:
    x, aligned, text = torch.randn(2, 9, 6), torch.randn(2, 9, 4), torch.randn(2, 5, 4)
    result = TRIM(4).compress(x, text_tokens=text, aligned_tokens=aligned)
    likeness = torch.nn.functional.cosine_similarity(aligned, text.mean(1, keepdim=True), dim=-1)
    torch.testing.assert_close(result.scores, likeness, rtol=0, atol=1e-6)
    assert result.tokens.shape == (2, 4, 6)
    with pytest.raises(tokscale.ShapeError, match=r"^vision_tokens has width 6 and text_tokens 4; pass aligned_tokens"):
        TRIM(4).compress(x, text_tokens=text)


# Gradients.


@pytest.mark.parametrize("module", [VisionZip(4, 2), PruMerge(4, 3), VScan(4, window=2), TRIM(4)])
def test_the_gradient_is_that_of_the_mixture(module: TokenCompressor) -> None:
    x = torch.randn(2, 12, 4, requires_grad=True)
    given = {"importance": torch.rand(2, 12), "shallow_importance": torch.rand(2, 12), "keys": torch.randn(2, 12, 3)}
    result = module.compress(x, **given, grid=(3, 4), text_tokens=torch.randn(2, 3, 4))
    weight = torch.randn_like(result.tokens)
    (result.tokens * weight).sum().backward()
    torch.testing.assert_close(x.grad, result.assignment.transpose(1, 2) @ weight, rtol=0, atol=1e-6)
