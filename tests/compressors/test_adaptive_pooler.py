from __future__ import annotations

import pytest
import torch

import tokscale
from tokscale import AdaptivePooler

from . import toy


def test_toy_example() -> None:
    result = AdaptivePooler(3).compress(toy.X, **toy.context())
    assert result.positions.tolist() == [[3, 4, 5]]
    assert result.tokens.tolist() == [[[2, 2], [2, 3.5], [0, 1.5]]]


def test_one_token_is_the_mean() -> None:
    x = torch.randn(2, 35, 4)
    torch.testing.assert_close(AdaptivePooler(1)(x), x.mean(1, keepdim=True), rtol=0, atol=1e-6)


def test_where_it_tiles_it_is_average_pooling() -> None:
    x = torch.randn(1, 24, 24, 5, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(AdaptivePooler(36)(x.flatten(1, 2)), expected, rtol=0, atol=1e-14)


def test_a_clip_keeps_its_frames_apart() -> None:
    x = torch.zeros(1, 12, 1)
    x[:, 6:] = 1  # second frame
    assert AdaptivePooler(4)(x, grid=(2, 2, 3)).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("mode", ["gated", "projected"])
def test_a_fresh_module_with_weights_is_the_plain_mean(mode: str) -> None:
    x = torch.randn(2, 30, 8)
    mean = AdaptivePooler(7).compress(x, grid=(5, 6))
    fresh = AdaptivePooler(7, mode=mode, dim=8).compress(x, grid=(5, 6))
    torch.testing.assert_close(fresh.tokens, mean.tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(fresh.assignment, mean.assignment, rtol=0, atol=1e-6)


def test_the_gate_weighs_tokens_inside_a_cell_only() -> None:
    module = AdaptivePooler(2, mode="gated", dim=4)
    torch.nn.init.normal_(module.gate.weight, std=3)
    x = torch.randn(1, 8, 4)
    tokens, _, assignment, _ = module.compress(x, grid=(1, 8))
    gate = module.gate(module.norm(x)).flatten()
    for cell in (slice(0, 4), slice(4, 8)):
        w = torch.softmax(gate[cell], 0)
        torch.testing.assert_close(tokens[0, cell.start // 4], w @ x[0, cell], rtol=0, atol=1e-6)
    assert assignment[0, 0, 4:].eq(0).all() and assignment[0, 1, :4].eq(0).all()


def test_the_projection_adds_to_the_mean() -> None:
    module = AdaptivePooler(2, mode="projected", dim=4)
    torch.nn.init.normal_(module.mlp[2].weight)
    x = torch.randn(2, 8, 4)
    mean = AdaptivePooler(2)(x, grid=(1, 8))
    torch.testing.assert_close(module(x, grid=(1, 8)), mean + module.mlp(module.norm(mean)), rtol=0, atol=1e-6)
    assert not torch.allclose(module(x, grid=(1, 8)), mean, atol=1e-2)


def test_mistakes() -> None:
    with pytest.raises(tokscale.ArgumentError, match=r'^mode="max" is unknown; choose from gated, mean, projected$'):
        AdaptivePooler(3, mode="max")
    with pytest.raises(tokscale.ArgumentError, match=r'^mode="gated" needs dim, the width of the vision tokens$'):
        AdaptivePooler(3, mode="gated")
    text = "^vision_tokens has width 7, but this AdaptivePooler was built with dim=8$"
    with pytest.raises(tokscale.ShapeError, match=text):
        AdaptivePooler(3, mode="gated", dim=8)(torch.zeros(1, 9, 7))
