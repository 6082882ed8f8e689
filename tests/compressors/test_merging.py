"""`tome`, `dpc_knn`, `scissor`: groups of alike tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tokscale
from tokscale import TokenCompressor
from tokscale.compressors import DPCKNN, Scissor, ToMe, spanning_tree
from tokscale.compressors.density import peaks, squared_distances
from tokscale.compressors.similarity import cosine_distance

from . import naive_merging as naive
from . import toy
from .cases import SHAPES, tokens
from .mixtures import close, distinct

TWO = torch.tensor([[[4.0, 0], [9, 1], [3, 2], [1, 2], [-1, 9], [-3, 4]]])


@pytest.mark.parametrize(
    "module, x, positions, expected",
    [
        (ToMe(3), toy.X, [1, 3, 5], [[4, 1], [-0.5, 5], [-3, 1]]),
        (ToMe(2), toy.X, [1, 3], [[4, 1], [-4 / 3, 11 / 3]]),
        (Scissor(3), toy.X, [1, 4, 5], [[4, 1], [-0.5, 5], [-3, 1]]),
        (Scissor(2), TWO, [1, 4], [[5.0625, 1.0625], [-1.25, 5.375]]),
        (DPCKNN(3, neighbours=2), toy.X, [0, 1, 3], [[3.5, 1], [5, 1], [-4 / 3, 11 / 3]]),
    ],
)
def test_toy(module: TokenCompressor, x: torch.Tensor, positions: list[int], expected: list[list[float]]) -> None:
    result = module.compress(x)
    assert result.positions.tolist() == [positions]
    torch.testing.assert_close(result.tokens, torch.tensor([expected]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n, d, k", SHAPES)
def test_the_formulas(n: int, d: int, k: int) -> None:
    x, keys = distinct(n, d), distinct(n, 2 + d % 5, seed=5)
    close(ToMe(k), x, {}, [naive.tome(s, k, s) for s in x])
    close(ToMe(k, "keys"), x, {"keys": keys}, [naive.tome(s, k, key) for s, key in zip(x, keys, strict=True)])
    x = tokens(n, d)  # with copies
    for neighbours in (1, 2, 5):
        close(DPCKNN(k, neighbours), x, {}, [naive.dpc_knn(s, k, neighbours) for s in x])
    close(Scissor(k), x, {}, [naive.scissor(s, k) for s in x])


# tome.


def test_tome_merges_at_most_half_a_round_and_stops_at_k() -> None:
    x = torch.randn(2, 37, 4)
    for k in (36, 19, 18, 9, 1):
        assignment = ToMe(k).compress(x).assignment
        counts = assignment.count_nonzero(-1)
        assert counts.sum(1).tolist() == [37, 37]  # every token is in one group
        torch.testing.assert_close(assignment.sum(-1), torch.ones(2, k))
    assert ToMe(36).compress(x).assignment.count_nonzero(-1).amax() == 2


def test_tome_means_of_copies_are_the_copies() -> None:
    x = torch.randn(1, 4, 8).repeat_interleave(8, 1)
    result = ToMe(4).compress(x)
    torch.testing.assert_close(result.tokens, x[:, ::8], rtol=0, atol=1e-6)


def test_tome_needs_keys_only_for_its_metric() -> None:
    assert ToMe(3).needs == frozenset() and ToMe(3, "keys").needs == {"keys"}
    with pytest.raises(tokscale.ArgumentError, match=r'^metric="values" is unknown; choose from keys, tokens$'):
        ToMe(3, "values")


def test_tome_of_huge_tokens_does_not_overflow() -> None:
    x = 3e38 * torch.ones(1, 9, 4)
    torch.testing.assert_close(ToMe(2)(x), x[:, :2])


# dpc_knn.


def test_density_keeps_its_order_where_the_formula_would_underflow() -> None:
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    near = peaks(squared_distances(x), 5)
    assert near.isfinite().all()
    for s, row in zip(x, near, strict=True):
        expected = torch.tensor(naive.density_peaks(s, 5), dtype=torch.float64)
        torch.testing.assert_close(row.exp(), expected, rtol=1e-9, atol=0)
    far = 1e3 * x  # rho is 0 in every floating dtype
    densest = torch.cdist(far, far).square().topk(5, largest=False).values.mean(-1).argmin(-1)
    assert DPCKNN(1).compress(far).positions.flatten().tolist() == densest.tolist()


def test_distances_of_copies_are_zero_far_from_the_origin() -> None:
    x = (1e4 + torch.randn(2, 10, 16)).repeat(1, 3, 1)
    square = squared_distances(x)
    index = torch.arange(30) % 10
    same = index[:, None] == index
    assert square[:, same].eq(0).all() and square[:, ~same].gt(0).all()
    assert torch.equal(square, square.transpose(1, 2))
    expected = (x[:, :, None].double() - x[:, None].double()).square().mean(-1)
    torch.testing.assert_close(square, expected, rtol=1e-6, atol=0)


def test_dpc_gives_each_distinct_token_its_own_cluster_before_a_copy() -> None:
    x = torch.randn(1, 16, 8).repeat(1, 4, 1)
    result = DPCKNN(16).compress(x)
    assert result.positions.tolist() == [list(range(16))]
    torch.testing.assert_close(result.tokens, x[:, :16], rtol=0, atol=1e-6)


def test_dpc_takes_samples_in_turn_where_the_distances_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 40, 4)
    expected = DPCKNN(7).compress(x)
    monkeypatch.setattr("tokscale.compressors.density.AT_ONCE", 2 * 40**2)
    result = DPCKNN(7).compress(x)
    assert torch.equal(result.positions, expected.positions)
    torch.testing.assert_close(result.tokens, expected.tokens)


# scissor.


@pytest.mark.parametrize("way", [spanning_tree.by_tokens, spanning_tree.by_rounds])
@pytest.mark.parametrize("k", [1, 2, 7, 29, 30])
def test_components_are_those_of_joining_pairs_in_order(
    k: int, way: Callable[[torch.Tensor, int], torch.Tensor]
) -> None:
    draw = torch.Generator().manual_seed(k)
    likeness = torch.randint(0, 4, (3, 30, 30), generator=draw).double()  # many ties
    likeness = torch.minimum(likeness, likeness.transpose(1, 2))
    for c, labels in zip(likeness, way(likeness, k), strict=True):
        of = list(range(30))
        pairs = [(i, j) for i in range(30) for j in range(i + 1, 30)]
        for i, j in sorted(pairs, key=lambda pair, c=c: (-c[pair].item(), pair)):
            if len(set(of)) > k:
                of = [of[i] if label == of[j] else label for label in of]
        expected = torch.tensor(of)
        assert torch.equal(labels[:, None] == labels, expected[:, None] == expected)
        assert set(labels.tolist()) == set(range(k))


@pytest.mark.parametrize("n", [1, 2, 3, 65])
def test_both_ways_to_the_tree_agree(n: int) -> None:
    likeness = torch.randn(2, n, n)
    likeness = likeness + likeness.transpose(1, 2)
    for k in {1, (n + 2) // 3, n}:
        one, two = (way(likeness, k) for way in (spanning_tree.by_tokens, spanning_tree.by_rounds))
        assert torch.equal(one[:, :, None] == one[:, None], two[:, :, None] == two[:, None])
        assert int(two.max()) == k - 1


def test_scissor_joins_copies_first() -> None:
    x = torch.randn(1, 5, 8).repeat(1, 4, 1)
    result = Scissor(5).compress(x)
    assert result.positions.tolist() == [[0, 1, 2, 3, 4]]
    torch.testing.assert_close(result.tokens, x[:, :5], rtol=0, atol=1e-6)
    assert cosine_distance(x)[0, 0, 5] == 0


@pytest.mark.parametrize("module", [ToMe(4), DPCKNN(4), Scissor(4)])
def test_the_gradient_is_that_of_the_mixture(module: TokenCompressor) -> None:
    x = torch.randn(2, 12, 4, requires_grad=True)
    result = module.compress(x)
    weight = torch.randn_like(result.tokens)
    (result.tokens * weight).sum().backward()
    torch.testing.assert_close(x.grad, result.assignment.transpose(1, 2) @ weight, rtol=0, atol=1e-6)
