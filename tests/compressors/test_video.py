"""Methods for clips: evs, vidcom2, dycoke."""

from __future__ import annotations

import pytest
import torch

import tokscale
from tokscale.compressors import EVS, DyCoke, TokenCompressor, UniformSampler, VidCom2

from . import naive_selection as naive
from . import toy
from .cases import CLIPS, agree, tokens

METHODS = [EVS, VidCom2, DyCoke]


@pytest.mark.parametrize(
    "module, expected", [(EVS(3), [0, 1, 3]), (VidCom2(3), [0, 1, 4]), (DyCoke(4, window=2), [0, 1, 4, 5])]
)
def test_toy(module: TokenCompressor, expected: list[int]) -> None:
    assert module.compress(toy.X, grid=(3, 1, 2)).positions.tolist() == [expected]


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_each_choice_is_that_of_the_formula(grid: tuple[int, int, int], d: int, k: int) -> None:
    t, h, w = grid
    x, context = tokens(t * h * w, d), {"grid": grid}
    agree(VidCom2(k), x, context, [naive.vidcom2(s, k, grid) for s in x])
    uniform = UniformSampler(k).compress(x[:, : h * w], grid=(h, w)).positions.tolist() if k <= h * w else None
    agree(EVS(k), x, context, uniform or [naive.evs(s, k, grid) for s in x])
    for window in (1, 2, 4, 5):
        keys = -(-t // window)
        if k >= keys * h * w:
            agree(DyCoke(k, window), x, context, [naive.dycoke(s, k, grid, window) for s in x])


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_a_clip_of_one_frame(method: type[TokenCompressor]) -> None:
    x = torch.randn(2, 20, 6)
    image, clip = (method(7).compress(x, grid=grid).positions for grid in ((4, 5), (1, 4, 5)))
    assert torch.equal(image, clip)
    if method is not VidCom2:
        assert torch.equal(image, UniformSampler(7).compress(x, grid=(4, 5)).positions)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_needs_its_grid_too(method: type[TokenCompressor]) -> None:
    with pytest.raises(tokscale.MissingContextError, match=r"needs grid, got nothing\. Pass grid= \(h, w\)"):
        method(7)(torch.randn(2, 20, 6))


# EVS


def test_frames_that_stand_still_leave_first() -> None:
    x = torch.randn(1, 4, 6).repeat(1, 3, 1)
    x[:, [6, 9]] = torch.randn(1, 2, 6)  # one place changes in frame 1 and changes back in 2, another changes in 2
    result = EVS(7).compress(x, grid=(3, 2, 2))
    assert result.positions.tolist() == [[0, 1, 2, 3, 6, 9, 10]]
    assert result.scores[0, :4].isinf().all() and result.scores[0, [4, 5, 7, 8, 11]].eq(0).all()
    assert EVS(9).compress(x, grid=(3, 2, 2)).positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 9, 10]]  # ties: lower


def test_a_zero_token_is_like_another_zero_and_unlike_all_else() -> None:
    x = torch.ones(1, 8, 3)
    x[:, [0, 2]] = 0  # places 0 of frames 0 and 1; frame 2 differs from frame 1 there
    result = EVS(4).compress(x, grid=(4, 1, 2))
    assert result.scores[0, 2:].tolist() == [0, 0, 1, 0, 0, 0]


# VidCom2


def test_fewer_tokens_than_frames() -> None:
    """Each frame's quota is at least 1: of the 5, the tokens most like the mean leave."""
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    result = VidCom2(2).compress(x, grid=(5, 2, 2))
    for s, positions in zip(x, result.positions.tolist()):
        assert positions == naive.vidcom2(s, 2, (5, 2, 2))
        assert len({i // 4 for i in positions}) == 2


def test_a_still_clip_shares_its_budget_evenly() -> None:
    x = torch.randn(1, 6, 8).repeat(1, 4, 1)
    positions = VidCom2(8).compress(x, grid=(4, 2, 3)).positions[0]
    assert (positions // 6).bincount().tolist() == [2, 2, 2, 2]
    assert len(set((positions % 6).tolist())) == 2  # the same two places in each frame


def test_the_frame_that_differs_gets_more() -> None:
    x = torch.randn(1, 1, 8).repeat(1, 24, 1) + 0.05 * torch.randn(1, 24, 8)
    x[:, 12:18] = torch.randn(1, 6, 8)
    counts = (VidCom2(9).compress(x, grid=(4, 2, 3)).positions[0] // 6).bincount(minlength=4).tolist()
    assert counts[2] == max(counts) and counts[2] > counts[0]


def test_scores_are_unusualness_and_the_loudest_channels_are_not_looked_at() -> None:
    x = torch.randn(1, 12, 4)
    loud = x.clone()
    loud[..., :2] *= 100
    other = loud.clone()
    other[..., :2] = 100 * torch.randn(1, 12, 2)
    scores = [VidCom2(5).compress(v, grid=(3, 2, 2)).scores for v in (loud, other)]
    assert torch.equal(*scores) and scores[0].lt(0).all() and scores[0].ge(-10).all()


# DyCoke


def test_below_the_key_frames_they_are_sampled_evenly() -> None:
    x = torch.randn(2, 5 * 12, 3)
    result = DyCoke(7, window=4).compress(x, grid=(5, 3, 4))  # key frames 0 and 4: 3 and 4 tokens
    first, last = (UniformSampler(k).compress(x[:, :12], grid=(3, 4)).positions for k in (3, 4))
    assert torch.equal(result.positions, torch.cat([first, 48 + last], 1))
    assert DyCoke(1, window=4).compress(x, grid=(5, 3, 4)).positions.shape == (2, 1)


def test_a_frame_is_compared_with_the_one_before_in_the_binary_tree() -> None:
    """1 and 2 are compared with 0, 3 with 2; each has one token left to give: the one that changed."""
    u, v = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    frames = torch.stack([torch.stack(f) for f in ([u, u], [u, v], [v, u], [u, u])]).view(1, 8, 2)
    assert DyCoke(5, window=4).compress(frames, grid=(4, 1, 2)).positions.tolist() == [[0, 1, 3, 4, 6]]


def test_a_window_is_an_integer_of_at_least_1() -> None:
    with pytest.raises(tokscale.BudgetError, match=r"^window must be an integer >= 1, got 0$"):
        DyCoke(3, window=0)
