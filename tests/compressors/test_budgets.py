"""One budget shared among images: exact sums, the figures promised, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokscale.compressors import allocate, content_weights
from tokscale.errors import ArgumentError, BudgetError


def test_the_figures() -> None:
    assert allocate((576, 576, 144), 300) == [100, 100, 100]
    assert allocate((576, 576, 144), 300, how="proportional") == [134, 133, 33]
    assert allocate((100, 4, 100), 60) == [28, 4, 28]
    assert allocate((9, 9), 7, how="content", weights=(1, 0)) == [6, 1]
    assert allocate((9, 9, 9), 20, how="content", weights=(1, 0, 0)) == [9, 6, 5]  # whole, and the rest alike
    assert allocate((9, 9), 8, how="content", weights=(0, 0)) == [4, 4]
    assert allocate((3, 3), 100) == [3, 3]


shares = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 5)), min_size=1, max_size=7)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(shares, st.integers(1, 200), st.integers(1, 4), st.sampled_from(["uniform", "proportional", "content"]))
def test_exact_and_fair(images: Any, total: int, minimum: int, how: str) -> None:
    sizes, weights = [n for n, _ in images], [w for _, w in images]
    low = [min(minimum, n) for n in sizes]
    options = {"weights": weights} if how == "content" else {}
    if total < sum(low):
        with pytest.raises(BudgetError):
            allocate(sizes, total, how=how, minimum=minimum, **options)
        return
    kept = allocate(sizes, total, how=how, minimum=minimum, **options)
    assert sum(kept) == min(total, sum(sizes))
    assert all(lo <= k <= n for lo, k, n in zip(low, kept, sizes))
    weights = {"uniform": [1.0] * len(sizes), "proportional": [float(n) for n in sizes]}.get(how, weights)
    for i, (a, u) in enumerate(zip(kept, weights)):
        for j, (b, v) in enumerate(zip(kept, weights)):
            # a token could not move from i to j and bring both nearer to their shares
            if i != j and a > low[i] and b < sizes[j] and u > 0 and v > 0:
                assert Fraction(a - 1) / Fraction(u) <= Fraction(b + 1) / Fraction(v)


def test_the_order_of_images_does_not_matter_but_for_ties() -> None:
    assert allocate((5, 70, 30), 50, how="proportional") == allocate((30, 70, 5), 50, how="proportional")[::-1]


@pytest.mark.parametrize(
    ("sizes", "total", "options", "error", "message"),
    [
        ((9, 9, 9), 5, {"minimum": 2}, BudgetError, "total=5 is below the 6 tokens that 3 images need at minimum=2; "),
        ((9,), 0, {}, BudgetError, "total must be an integer >= 1, got 0"),
        ((9, 1.5), 3, {}, BudgetError, "sizes[1] must be an integer >= 1, got 1.5"),
        ((), 3, {}, ArgumentError, "sizes is empty; allocate() needs the tokens of at least one image"),
        ((9,), 3, {"how": "even"}, ArgumentError, "how"),
        ((9,), 3, {"how": "content"}, ArgumentError, 'how="content" needs weights='),
        ((9,), 3, {"weights": (1,)}, ArgumentError, 'how="uniform" takes no weights='),
        ((9, 9), 3, {"how": "content", "weights": (1,)}, ArgumentError, "weights holds 1 numbers, sizes holds 2"),
        ((9,), 3, {"how": "content", "weights": (-1,)}, ArgumentError, "weights[0] must be a finite number >= 0, got"),
    ],
)
def test_mistakes(sizes: Any, total: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        allocate(sizes, total, **options)
    assert str(caught.value).startswith(message)


def test_content_weights() -> None:
    alike, spread = torch.ones(6, 4), torch.eye(4)
    assert content_weights([alike, spread]) == pytest.approx([0.0, 4 * (1 - 0.25)], abs=1e-6)
    assert content_weights([alike, 3 * spread]) == content_weights([alike, spread])
    share = content_weights([alike, spread], how="importance", importance=torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    assert share == [0.75, 0.25]
    with pytest.raises(ArgumentError, match="needs importance= for each of 2 images, got none"):
        content_weights([alike, spread], how="importance")
