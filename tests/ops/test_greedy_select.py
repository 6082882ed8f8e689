"""`greedy_select`: every tie rule on exact lattices, both fast paths against the written-out definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale import ops
from tokscale.ops.greedy_select import one_sample, reference, torch_path

from .helpers import inner_stride_two, lattice

GOLDEN = torch.tensor([[[0.8, 0.3, 0.1, 0.2], [0.3, 0.9, 0.4, 0.1], [0.1, 0.4, 0.7, 0.5], [0.2, 0.1, 0.5, 0.6]]])
PATHS = {"numpy": 10_000, "batched": 0}  # up to how many samples the loop runs in numpy


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two loops of max-min."""
    monkeypatch.setattr(torch_path, "NUMPY_SAMPLES", PATHS[request.param])
    return request.param


def expected(matrix: Tensor, k: int, **options: Any) -> tuple[list[list[int]], list[list[float]]]:
    """The definition of max-min, sample by sample."""
    picks, gains = [], []
    for i, distances in enumerate(matrix):
        start = options.get("start")
        p, g = reference.max_min(
            distances,
            k,
            start=None if start is None else int(start[i]),
            relevance=options["relevance"][i] if "relevance" in options else None,
            allowed=options["mask"][i] if "mask" in options else None,
        )
        picks.append(p)
        gains.append(g)
    return picks, gains


@pytest.mark.parametrize("n", [1, 2, 13, 24])
@pytest.mark.parametrize("with_option", ["none", "relevance", "start", "mask", "relevance and mask"])
def test_max_min_on_a_lattice(path: str, n: int, with_option: str) -> None:
    b = 3
    distances = lattice(b, n)
    options: dict[str, Tensor] = {}
    if "relevance" in with_option:
        options["relevance"] = torch.randint(0, 5, (b, n)).float()
    if "start" in with_option:
        options["start"] = torch.randint(0, n, (b,))
    if "mask" in with_option:
        options["mask"] = (torch.rand(b, n) < 0.7).index_fill_(1, torch.tensor([n - 1]), True)
    most = int(options["mask"].sum(-1).min()) if "mask" in options else n
    for k in sorted({1, (most + 1) // 2, most}):
        got = ops.greedy_select(distances, k, **options)
        picks, gains = expected(distances, k, **options)
        assert got.positions.tolist() == picks
        assert got.gains.tolist() == gains


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_equal_distances_take_the_lowest_indices(path: str, value: float) -> None:
    got = ops.greedy_select(torch.full((2, 7, 7), value), 7)
    assert got.positions.tolist() == [list(range(7))] * 2


def test_duplicates_never_repeat(path: str) -> None:
    half = lattice(1, 12, top=6)
    distances = half.repeat(1, 2, 2)  # every point twice
    positions = ops.greedy_select(distances, 24).positions[0]
    assert sorted(positions.tolist()) == list(range(24))


def test_negative_and_infinite_values_are_ordered_like_any_other(path: str) -> None:
    similarity = -lattice(2, 9)  # MMR: D = -(1 - balance) c
    relevance = torch.full((2, 9), -math.inf)
    relevance[:, 4] = 1.0
    got = ops.greedy_select(similarity, 9, relevance=relevance)
    assert got.positions[:, 0].tolist() == [4, 4]
    assert sorted(got.positions[1].tolist()) == list(range(9))


def test_masked_content_changes_nothing(path: str) -> None:
    distances, mask = lattice(2, 11), torch.ones(2, 11, dtype=torch.bool)
    mask[:, 5:8] = False
    other = distances.clone()
    other[:, 5:8], other[:, :, 5:8] = 1e9, -1e9
    for k in (1, 8):
        assert torch.equal(
            ops.greedy_select(distances, k, mask=mask).positions, ops.greedy_select(other, k, mask=mask).positions
        )


def test_a_single_allowed_token_has_no_other(path: str) -> None:
    mask = torch.zeros(1, 5, dtype=torch.bool)
    mask[0, 3] = True
    got = ops.greedy_select(lattice(1, 5), 1, mask=mask)
    assert got.positions.tolist() == [[3]] and got.gains.tolist() == [[math.inf]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_strides_and_the_caller_s_matrix(path: str, dtype: torch.dtype) -> None:
    distances = lattice(3, 13).to(dtype)
    before = distances.clone()
    got = ops.greedy_select(inner_stride_two(distances), 6)
    assert got.positions.tolist() == expected(distances, 6)[0]
    assert got.gains.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    ops.greedy_select(distances, 6)
    assert torch.equal(distances, before)
    expanded = ops.greedy_select(distances[:1].expand(4, -1, -1), 6).positions
    assert torch.equal(expanded, got.positions[:1].expand(4, -1))


@pytest.mark.parametrize("method", ["max_min", "dpp"])
def test_a_sample_does_not_depend_on_its_batch(method: str) -> None:
    x = torch.nn.functional.normalize(torch.randn(20, 40, 8), dim=-1)
    matrix = x @ x.transpose(1, 2)
    matrix = matrix if method == "dpp" else 1 - matrix
    together = ops.greedy_select(matrix, 12, method=method)
    for i in range(20):
        alone = ops.greedy_select(matrix[i : i + 1], 12, method=method)
        assert torch.equal(alone.positions[0], together.positions[i])
        assert torch.equal(alone.gains[0], together.gains[i])


def test_the_first_pick_reads_blocks_of_rows() -> None:
    n = 2 * one_sample.ROWS + 3
    distances = torch.rand(2, n, n)
    mask = torch.rand(2, n) < 0.5
    want = distances.masked_fill(torch.eye(n, dtype=torch.bool), math.inf)
    want = want.masked_fill(~mask[:, :, None], math.inf).amin(1)
    assert torch.equal(one_sample.nearest(distances, mask), want)


def dpp(kernel: Tensor, k: int, route: str, **options: Tensor) -> ops.GreedySelection:
    if route == "numpy":
        return ops.greedy_select(kernel, k, method="dpp", **options)
    return ops.GreedySelection(
        *torch_path._dpp_batched(kernel.float(), k, options.get("fallback"), options.get("mask"))
    )


@pytest.mark.parametrize("route", ["numpy", "batched"])
def test_dpp_golden(route: str) -> None:
    got = dpp(GOLDEN, 4, route)
    assert got.positions.tolist() == [[1, 0, 3, 2]]
    assert got.gains[0].tolist() == pytest.approx([0.9, 0.7, 0.5492, 0.1295], abs=5e-5)
    assert float(got.gains.prod()) == pytest.approx(float(torch.linalg.det(GOLDEN[0])), rel=1e-5)


@pytest.mark.parametrize("route", ["numpy", "batched"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_dpp_equals_determinants(route: str, with_mask: bool) -> None:
    x = torch.randn(3, 11, 16)
    kernel = x @ x.transpose(1, 2)
    options = {"mask": torch.rand(3, 11) < 0.7} if with_mask else {}
    k = int(options["mask"].sum(-1).min()) if with_mask else 11
    got = dpp(kernel, k, route, **options)
    for i in range(3):
        picks, gains = reference.dpp(kernel[i].double(), k, allowed=options["mask"][i] if with_mask else None)
        assert got.positions[i].tolist() == picks
        assert got.gains[i].tolist() == pytest.approx(gains, rel=1e-3)


@pytest.mark.parametrize("route", ["numpy", "batched"])
@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("with_fallback", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
def test_dpp_past_the_rank(route: str, rank: int, with_fallback: bool, with_mask: bool) -> None:
    n = 9
    x = torch.zeros(2, n, 4)
    for j in range(n):  # one-hot tokens: orthogonal or equal, so every step is exact
        if rank:
            x[:, j, j % rank] = 2.0
    kernel = x @ x.transpose(1, 2)
    options = {"fallback": lattice(2, n, seed=3)} if with_fallback else {}
    if with_mask:
        options["mask"] = torch.arange(n).expand(2, -1) != 4
    k = n - 1
    got = dpp(kernel, k, route, **options)
    for i in range(2):
        picks, gains = reference.dpp(
            kernel[i],
            k,
            fallback=options["fallback"][i] if with_fallback else None,
            allowed=options["mask"][i] if with_mask else None,
        )
        assert got.positions[i].tolist() == picks
        assert got.gains[i].tolist() == gains
        assert gains[rank:] == [0.0] * (k - rank)
    assert torch.isfinite(got.gains).all()


def test_no_gradient() -> None:
    distances = lattice(1, 5).requires_grad_()
    got = ops.greedy_select(distances, 3)
    assert not got.gains.requires_grad


def test_empty_batch() -> None:
    got = ops.greedy_select(torch.zeros(0, 5, 5), 3)
    assert got.positions.shape == (0, 3) and got.gains.shape == (0, 3)
