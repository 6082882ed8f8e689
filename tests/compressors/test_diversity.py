"""Selection by diversity and coverage: divprune, dpp, idpruner, scope, vispruner; those that hear a question apart."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale.compressors import SCOPE, DivPrune, DPPSelector, IDPruner, TokenCompressor, VisPruner
from tokscale.compressors.coverage import _batched, _rounded, cover

from . import naive_selection as naive
from . import toy
from .cases import SHAPES, agree, order_of, scores, tokens

A = {"importance": toy.IMPORTANCE}


@pytest.mark.parametrize(
    "module, expected",
    [
        (DivPrune(3), [0, 3, 5]),
        (DPPSelector(1), [0]),
        (DPPSelector(2), [0, 3]),
        (DPPSelector(3), [0, 3, 5]),
        (SCOPE(3), [1, 3, 5]),
        (IDPruner(3), [1, 3, 5]),
        (VisPruner(3, step=1), [0, 1, 5]),
    ],
)
def test_toy(module: TokenCompressor, expected: list[int]) -> None:
    assert module.compress(toy.X, **A).positions.tolist() == [expected]


@pytest.mark.parametrize("n, d, k", SHAPES)
def test_each_choice_is_that_of_the_formula(n: int, d: int, k: int) -> None:
    x, a = tokens(n, d), scores(n)
    given, each = {"importance": a}, list(zip(x, a.tolist(), strict=True))
    agree(DivPrune(k), x, {}, [naive.divprune(s, k) for s in x])
    agree(DPPSelector(k), x, {}, [naive.dpp(s, k) for s in x])
    for balance in (0.5, 0.2, 1.0):
        agree(IDPruner(k, balance), x, given, [naive.idpruner(s, k, w, balance) for s, w in each])
    for alpha in (1.0, 0.5, 0.0):
        for (s, w), order in zip(each, order_of(SCOPE(k, alpha), x, given)):
            naive.assert_covers(naive.cosines(s), order, [v**alpha for v in w])
    for ratio, step in ((0.5, 8), (0.3, 1), (0.0, 2), (1.0, 8)):
        module = VisPruner(k, ratio, step)
        agree(module, x, given, [naive.vispruner(s, k, w, ratio, step) for s, w in each])


# Past the rank, copies, zeros.


@pytest.mark.parametrize("module", [DPPSelector(40), DivPrune(40), SCOPE(40, 0.0), IDPruner(40, 0.0)])
def test_sixteen_directions_come_before_any_copy(module: TokenCompressor) -> None:
    x = torch.randn(2, 16, 8).repeat(1, 4, 1) * torch.rand(2, 64, 1).add(0.1)  # copies of other length
    given = {"importance": torch.ones(2, 64)}
    for positions in module.compress(x, **given).positions.tolist():
        assert len(set(positions)) == 40
    module.num_tokens = 16
    for positions in module.compress(x, **given).positions.tolist():
        assert sorted(i % 16 for i in positions) == list(range(16))


def test_a_spent_rank_goes_on_as_divprune() -> None:
    x = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [3, 4, 0], [1, 1, 0], [4, 3, 0]]])
    assert DPPSelector(2).compress(x).positions.tolist() == [[0, 1]]
    # from {0, 1}: distances 1 - .8, 1 - .707, 1 - .8, so token 3 is next; then 2 and 4 tie
    assert DPPSelector(3).compress(x).positions.tolist() == [[0, 1, 3]]
    assert DPPSelector(4).compress(x).positions.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("x", [torch.ones(1, 9, 4), torch.zeros(1, 9, 4)], ids=["equal", "zero"])
@pytest.mark.parametrize("module", [DPPSelector(3), SCOPE(3), IDPruner(3), IDPruner(3, 0.0)])
def test_all_alike_go_to_the_lowest_indices(module: TokenCompressor, x: torch.Tensor) -> None:
    assert module.compress(x, importance=torch.full((1, 9), 0.1)).positions.tolist() == [[0, 1, 2]]


# IDPruner


def test_the_balance_runs_from_diversity_to_importance() -> None:
    x, a = torch.randn(3, 40, 6), torch.rand(3, 40)
    ranked = tokscale.create_compressor("attention_topk", num_tokens=7).compress(x, importance=a)
    assert torch.equal(IDPruner(7, 1.0).compress(x, importance=a).positions, ranked.positions)
    alone = IDPruner(7, 0.0).compress(x, importance=a).positions
    assert torch.equal(alone, IDPruner(7, 0.0).compress(x, importance=torch.rand(3, 40)).positions)


# SCOPE


def test_without_importance_scope_is_facility_location() -> None:
    module = SCOPE(5, alpha=0)
    assert module.needs == frozenset() and SCOPE(5).needs == {"importance"}
    assert module(torch.randn(1, 20, 4)).shape == (1, 5, 4)


def test_negative_importance_is_refused() -> None:
    a = torch.rand(2, 9)
    a[1, 4] = -0.25
    text = "importance must be >= 0, as its power 1 is a weight, got -0.25 at token 4 of sample 1"
    with pytest.raises(tokscale.ArgumentError, match=f"^{re.escape(text)}$"):
        SCOPE(3)(torch.randn(2, 9, 4), importance=a)
    assert SCOPE(3, alpha=0)(torch.randn(2, 9, 4), importance=a).shape == (2, 3, 4)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_only_ratios_of_importance_count(size: float) -> None:
    x, a = torch.randn(2, 30, 6), torch.rand(2, 30)
    expected = SCOPE(7, 2.0).compress(x, importance=a).positions
    assert torch.equal(SCOPE(7, 2.0).compress(x, importance=a * size).positions, expected)


def test_tokens_without_importance_come_last_in_order() -> None:
    a = torch.zeros(1, 9)
    a[0, 6] = 1
    assert SCOPE(3).compress(torch.randn(1, 9, 4), importance=a).positions.tolist() == [[0, 1, 6]]


def test_both_ways_to_cover_choose_alike() -> None:
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        for table in (
            torch.randint(-2, 5, (3, 9, 31), generator=draw).float(),  # many ties
            torch.rand(3, 40, 31, generator=draw).float(),
        ):
            weight = torch.randint(0, 3, (3, 31), generator=draw).double()
            rounded = _rounded(table, 160)
            assert torch.equal(cover(table, 30, 160, weight), _batched(rounded, 30, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_exact_in_any_order(dtype: torch.dtype) -> None:
    table = _rounded(torch.rand(1, 500, 40, dtype=dtype), 500)
    mixed = table[:, torch.randperm(500)]
    assert torch.equal(table.sum(1, dtype=torch.float64), mixed.sum(1, dtype=torch.float64))
    assert torch.equal(_rounded(table, 500), table)


def test_two_that_add_the_same_go_to_the_lower_index() -> None:
    """After 0, tokens 1 and 2 alone are uncovered: each adds c_12 + 1 - b_1 - b_2."""
    for seed in range(50):
        x = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(seed)).abs()
        x[0, 0] = torch.tensor([1.0, 1.0])
        order = order_of(SCOPE(2, 0.0), x, {})[0]
        c = naive.cosines(x[0].double())
        if order[0] == 0 and c[1][2] > max(c[0][1], c[0][2]):
            assert order == [0, 1]


def test_cover_leaves_its_table_alone() -> None:
    table = torch.rand(1, 8, 5)
    before = table.clone()
    cover(table, 4, total=8)
    assert torch.equal(table, before)


# VisPruner


def test_odd_numbers_pair_up() -> None:
    """R = 0..4 keeps 1: A = 0 2 4, B = 1 3; with step 1 the token most like one of B leaves first."""
    angle = torch.tensor([0.0, 90, 80, 180, 260]).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], 1)[None]
    a = torch.tensor([[5.0, 4, 3, 2, 1]])
    # 2 is 10 degrees from 1 and leaves; A by descending m: 4 (80 from 3), 0 (90 from 1); R = 4 0 1 3
    assert VisPruner(4, 0.0, 1).compress(x, importance=a).positions.tolist() == [[0, 1, 3, 4]]
    # A = 4 1, B = 0 3: 4 is 80 from 3, 1 is 90 from both: 4 leaves; R = 1 0 3
    assert VisPruner(3, 0.0, 1).compress(x, importance=a).positions.tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("n, k", [(64, 1), (65, 2), (37, 36), (200, 3)])
def test_a_large_step_still_keeps_exactly_k(n: int, k: int) -> None:
    x, a = torch.randn(2, n, 6), torch.rand(2, n)
    assert VisPruner(k, 0.0, 1000)(x, importance=a).shape == (2, k, 6)


# Mistakes


@pytest.mark.parametrize(
    "build, text",
    [
        (lambda: IDPruner(3, 1.5), "balance must be a number in [0, 1], got 1.5"),
        (lambda: IDPruner(3, float("nan")), "balance must be a number in [0, 1], got nan"),
        (lambda: SCOPE(3, -1), "alpha must be a finite number >= 0, got -1"),
        (lambda: VisPruner(3, "half"), "important_ratio must be a number in [0, 1], got 'half'"),
        (lambda: VisPruner(3, step=0), "step must be an integer >= 1, got 0"),
    ],
)
def test_mistakes(build: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        build()
