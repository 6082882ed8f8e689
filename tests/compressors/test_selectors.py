"""`random`, `uniform`, `divprune`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokscale
from tokscale.compressors import DivPrune, RandomSampler, UniformSampler
from tokscale.compressors.similarity import cosine_distance, cosine_matrix, unit

from . import toy


def test_random_toy() -> None:
    assert RandomSampler(3, seed=0).compress(toy.X).positions.tolist() == [[2, 3, 5]]


def test_random_is_nested_in_k_and_the_same_for_all_samples() -> None:
    x = torch.zeros(3, 50, 2)
    kept = [RandomSampler(k, seed=4).compress(x).positions for k in (3, 10, 30)]
    assert all((positions == positions[0]).all() for positions in kept)
    small, middle, large = (set(positions[0].tolist()) for positions in kept)
    assert small < middle < large
    assert RandomSampler(10, seed=5).compress(x).positions.tolist() != kept[1].tolist()


def test_random_neither_reads_nor_writes_global_state() -> None:
    state = torch.get_rng_state()
    RandomSampler(3)(torch.zeros(1, 9, 2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", 2**63])
def test_random_refuses_a_seed(seed: Any) -> None:
    with pytest.raises(tokscale.ArgumentError, match=r"^seed must be an integer from 0 to "):
        RandomSampler(3, seed=seed)


def test_uniform_positions_of_the_page() -> None:
    x = torch.zeros(1, 576, 2)
    assert UniformSampler(4).compress(x, grid=(24, 24)).positions.tolist() == [[150, 162, 438, 450]]
    assert UniformSampler(3).compress(toy.X, grid=(2, 3)).positions.tolist() == [[3, 4, 5]]


def test_divprune_toy() -> None:
    assert DivPrune(3).compress(toy.X).positions.tolist() == [[0, 3, 5]]
    assert DivPrune(1).compress(toy.X).positions.tolist() == [[5]]  # the first choice
    assert DivPrune(2).compress(toy.X).positions.tolist() == [[0, 5]]


def test_divprune_against_the_definition() -> None:
    x = torch.randn(2, 30, 5, dtype=torch.float64)
    result = DivPrune(9).compress(x).positions
    for sample, positions in zip(x, result.tolist(), strict=True):
        d = 1 - torch.nn.functional.cosine_similarity(sample[:, None], sample[None], dim=-1)
        away = d.clone().fill_diagonal_(torch.inf)
        chosen = [int(away.min(1).values.argmax())]
        while len(chosen) < 9:
            nearest = d[chosen].min(0).values
            nearest[chosen] = -1
            chosen.append(int(nearest.argmax()))
        assert sorted(chosen) == positions


def test_divprune_takes_every_distinct_token_before_a_copy() -> None:
    x = torch.randn(1, 16, 8).repeat(1, 4, 1)
    positions = DivPrune(16).compress(x).positions[0]
    assert sorted((positions % 16).tolist()) == list(range(16))
    assert len(set(DivPrune(40).compress(x).positions[0].tolist())) == 40


def test_all_equal_tokens_go_to_the_lowest_indices() -> None:
    assert DivPrune(3).compress(torch.ones(1, 9, 4)).positions.tolist() == [[0, 1, 2]]
    assert DivPrune(3).compress(torch.zeros(1, 9, 4)).positions.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cosines(dtype: torch.dtype) -> None:
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [-3.0, -4.0], [6.0, 8.0]]], dtype=dtype)
    c = cosine_matrix(x)
    assert c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert c[0].diagonal().eq(1).all()
    assert c[0, 1, 2] == 1 and c[0, 0, 1] == 0
    assert c[0, 0, 3].item() == pytest.approx(-1, abs=1e-6)
    assert cosine_distance(x)[0, 0, 4] == 0  # a copy of other length ties exactly


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e19), (torch.float32, 3e38), (torch.bfloat16, 1e38), (torch.float64, 1e300)]
)
def test_tokens_whose_squares_overflow_are_chosen_as_small_ones(dtype: torch.dtype, size: float) -> None:
    x = torch.randn(1, 30, 8).clamp(-1, 1)
    huge = (x.double() * size).to(dtype)
    small = huge.double() / size
    assert DivPrune(7).compress(huge).positions.equal(DivPrune(7).compress(small).positions)
    assert unit(huge).double().allclose(unit(small), rtol=0, atol=1e-6)


def test_tiny_tokens_have_no_direction() -> None:
    assert unit(torch.full((1, 1, 4), 1e-13)).eq(0).all()
    assert unit(torch.full((1, 1, 4), 1e-6))[0, 0].tolist() == pytest.approx([0.5] * 4, abs=1e-6)
