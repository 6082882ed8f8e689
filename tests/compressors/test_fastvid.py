"""`fastvid`: segments, salient tokens, density peaks of anchor frames."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale.compressors import FastVID

from . import naive_merging as naive
from . import toy
from .cases import CLIPS, scores
from .mixtures import close, distinct

OPTIONS: list[dict[str, Any]] = [
    {},
    {"segments": 1, "threshold": -1.0, "context_ratio": 0.5, "period": 2},
    {"segments": 2, "threshold": 0.2, "context_ratio": 1.0, "period": 1, "anchor_weight": 0.0},
    {"segments": 3, "threshold": 0.0, "context_ratio": 0.75, "period": 3, "anchor_weight": 1.0},
]
DEFAULTS = {"segments": 8, "threshold": 0.9, "context_ratio": 0.4, "period": 4, "anchor_weight": 0.6}


def test_toy() -> None:
    module = FastVID(4, segments=1, threshold=-1, context_ratio=0.5, period=2)
    result = module.compress(toy.X, importance=toy.IMPORTANCE, grid=(3, 1, 2))
    assert result.positions.tolist() == [[1, 3, 4, 5]]
    expected = torch.tensor([[[5, 1], [0, 4], [-1, 6], [-19 / 15, 1]]])
    torch.testing.assert_close(result.tokens, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_the_formula(grid: tuple[int, int, int], d: int, k: int, options: dict[str, Any]) -> None:
    n = grid[0] * grid[1] * grid[2]
    x, a = distinct(n, d) + 0.5, scores(n)
    expected = [naive.fastvid(x[i], k, a[i], grid, **{**DEFAULTS, **options}) for i in range(2)]
    close(FastVID(k, **options), x, {"importance": a, "grid": grid}, expected)


def scenes(*lengths: int, per_frame: int = 4) -> torch.Tensor:
    """A clip of still scenes, each of its own four tokens."""
    draw = torch.Generator().manual_seed(0)
    return torch.cat([torch.randn(1, per_frame, 16, generator=draw).repeat(1, length, 1) for length in lengths], 1)


def segments(module: FastVID, x: torch.Tensor, t: int) -> list[list[int]]:
    from tokscale.compressors.similarity import unit

    return module._segments(unit(x).view(1, t, -1, x.shape[-1]).mean(2)).tolist()


def test_segments_end_where_the_scene_changes() -> None:
    x = scenes(3, 4, 2)
    assert segments(FastVID(1, segments=1), x, 9) == [[0, 0, 0, 1, 1, 1, 1, 2, 2]]
    assert segments(FastVID(1, segments=1, threshold=-1), x, 9) == [[0] * 9]
    assert segments(FastVID(1, segments=3, threshold=-1), x, 9) == [[0, 0, 0, 1, 1, 1, 1, 2, 2]]
    # Frames of one scene are equally alike: the first are cut.
    assert segments(FastVID(1, segments=5, threshold=-1), x, 9) == [[0, 1, 2, 3, 3, 3, 3, 4, 4]]
    assert segments(FastVID(1, segments=99, threshold=-1), x, 9) == [list(range(9))]


def test_equal_frames_reach_a_threshold_of_one() -> None:
    assert segments(FastVID(1, segments=1, threshold=1), scenes(5), 5) == [[0] * 5]


def test_anchors_are_the_last_frame_of_a_segment_and_every_period_before() -> None:
    module = FastVID(1, period=3)
    segment = torch.tensor([[0] * 8 + [1] * 2])
    shares = module._shares(segment, torch.tensor([1, 0, 2, 1, 0, 1, 0, 1, 3, 1]))
    assert shares.tolist() == [[0, 2, 0, 0, 2, 0, 0, 2, 0, 4]]  # of the segment's 6 and 4
    shares = module._shares(segment, torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]))
    assert shares.tolist() == [[0, 0, 0, 0, 1, 0, 0, 1, 0, 1]]  # of 2 over 3: 0, 1, 1


def test_a_still_clip_is_summed_up_by_its_last_frame() -> None:
    x = scenes(4)
    module = FastVID(4, segments=1, context_ratio=1)
    result = module.compress(x, importance=torch.rand(1, 16), grid=(4, 2, 2))
    assert result.positions.tolist() == [[12, 13, 14, 15]]
    torch.testing.assert_close(result.tokens, x[:, :4], rtol=0, atol=1e-6)
    assert result.assignment.count_nonzero(-1).tolist() == [[4] * 4]  # each with its copies in all frames


def test_short_of_centres_the_most_important_of_the_rest_come_out() -> None:
    a = torch.arange(12.0)[None]
    # All 8 tokens are context of the last frame, which has 4.
    module = FastVID(8, segments=1, threshold=-1, context_ratio=1, period=9)
    result = module.compress(torch.randn(1, 12, 8), importance=a, grid=(3, 2, 2))
    assert result.positions.tolist() == [list(range(4, 12))]


def test_fewer_tokens_than_frames() -> None:
    x, a = torch.randn(2, 24, 8), torch.rand(2, 24)
    result = FastVID(3).compress(x, importance=a, grid=(6, 2, 2))
    frames = result.positions // 4
    assert frames.tolist() == [[1, 3, 5]] * 2  # `3 tokens over 6 frames`: 0 1 0 1 0 1
    assert torch.equal(result.tokens, x.gather(1, result.positions[..., None].expand(-1, -1, 8)))


def test_frames_are_taken_in_turn_where_the_distances_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x, given = torch.randn(2, 60, 8), {"importance": torch.rand(2, 60), "grid": (5, 3, 4)}
    expected = FastVID(20).compress(x, **given)
    monkeypatch.setattr("tokscale.compressors.density.AT_ONCE", 3 * 12**2)
    result = FastVID(20).compress(x, **given)
    assert torch.equal(result.positions, expected.positions)
    torch.testing.assert_close(result.tokens, expected.tokens)


def test_one_frame() -> None:
    x, a = torch.randn(2, 24, 8), torch.rand(2, 24)
    image = FastVID(7).compress(x, importance=a, grid=(4, 6))
    clip = FastVID(7).compress(x, importance=a, grid=(1, 4, 6))
    assert torch.equal(image.tokens, clip.tokens)
    salient = a.argsort(descending=True)[:, :5]  # floor(7 * .4) = 2 are context
    for i in range(2):
        assert set(salient[i].tolist()) <= set(image.positions[i].tolist())


@pytest.mark.parametrize(
    "options, text",
    [
        ({"context_ratio": 1.1}, "context_ratio must be a number in [0, 1], got 1.1"),
        ({"anchor_weight": -0.1}, "anchor_weight must be a number in [0, 1], got -0.1"),
        ({"threshold": float("nan")}, "threshold must be a finite number >= -1, got nan"),
        ({"segments": 0}, "segments must be an integer >= 1, got 0"),
        ({"period": 2.0}, "period must be an integer >= 1, got 2.0"),
    ],
)
def test_mistakes(options: dict[str, Any], text: str) -> None:
    with pytest.raises(tokscale.TokscaleError, match=f"^{re.escape(text)}$"):
        FastVID(3, **options)


def test_the_gradient_is_that_of_the_mixture() -> None:
    x = torch.randn(2, 12, 4, requires_grad=True)
    result = FastVID(5, context_ratio=0.8).compress(x, importance=torch.rand(2, 12), grid=(3, 2, 2))
    weight = torch.randn_like(result.tokens)
    (result.tokens * weight).sum().backward()
    torch.testing.assert_close(x.grad, result.assignment.transpose(1, 2) @ weight, rtol=0, atol=1e-6)
