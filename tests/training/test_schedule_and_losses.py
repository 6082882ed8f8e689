"""Budgets, rates and losses: pure functions, checked by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from tokscale.errors import ArgumentError, BudgetError, TrainingWarning
from tokscale.training import distill_loss
from tokscale.training.losses import text_after_image
from tokscale.training.schedule import check_budgets, default_budgets, draw_budget, learning_rate, useful_budgets


def test_default_budgets_are_powers_of_two() -> None:
    assert default_budgets(1) == [1]
    assert default_budgets(72) == [1, 2, 4, 8, 16, 32, 64]
    assert check_budgets(None, 4) == [1, 2, 4]
    assert check_budgets([9, 1, 9], 16) == [1, 9]


def test_bad_budgets() -> None:
    with pytest.raises(BudgetError, match=r"budgets reach 99, but the compressor was built with num_tokens=72"):
        check_budgets([1, 99], 72)
    with pytest.raises(BudgetError, match=r"must be an integer >= 1, got 0"):
        check_budgets([0], 72)
    with pytest.raises(ArgumentError, match="budgets is empty"):
        check_budgets([], 72)


def test_budgets_are_drawn_as_the_formula_says() -> None:
    budgets, draws = [1, 16], 4000
    share = Counter(draw_budget(budgets, step) for step in range(draws))[1] / draws
    expected = 1 / (1 + 16**-0.25)  # 2/3
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
    assert [draw_budget(budgets, s, seed=3) for s in range(20)] == [draw_budget(budgets, s, seed=3) for s in range(20)]


def test_useless_budgets_are_named() -> None:
    with pytest.warns(TrainingWarning, match=r"the budgets \[9, 16\] compress nothing"):
        assert useful_budgets([1, 4, 9, 16], [9, 4]) == [1, 4]
    with pytest.raises(ArgumentError, match=r"compress nothing: the images of the first batch have 4 vision tokens"):
        useful_budgets([4, 8], [4])


def test_learning_rate() -> None:
    rates = [learning_rate(step, steps=100, lr=1.0, warmup=10, min_lr=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_distill_loss() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert distill_loss(q.log(), p.log()).item() == pytest.approx(expected, abs=1e-6)
    assert distill_loss(p.log(), p.log()).item() == 0.0
    warm = distill_loss(2 * q.log(), 2 * p.log(), temperature=2.0).item()
    assert warm == pytest.approx(4 * expected, abs=1e-5)


def test_text_after_the_last_image() -> None:
    image = torch.tensor([[False, True, True, False, False, False], [True, False, True, False, False, False]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    assert text_after_image(image, mask).tolist() == [[False] * 3 + [True, True, False], [False] * 3 + [True] * 3]
