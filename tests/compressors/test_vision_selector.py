"""`vision_selector`: its score, its straight-through gradient, its constraint."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale.compressors import VisionSelector
from tokscale.compressors.soft_topk import soft_topk

from .cases import CLIPS
from .test_trained import DIM, build, inputs


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_the_score_of_vision_selector(grid: tuple[int, int, int], d: int, k: int) -> None:
    x, _ = inputs(grid)
    module = build(VisionSelector(k, DIM, hidden=3))
    with torch.no_grad():
        result = module.compress(x)
        module.requires_grad_(False)
    for i in range(2):
        keys = [module.to_k(v) for v in x[i]]
        scores = [float(module.to_q(v) @ sum(keys) / len(keys)) / math.sqrt(3) for v in x[i]]
        torch.testing.assert_close(result.scores[i], torch.tensor(scores), rtol=0, atol=1e-6)
        best = sorted(range(len(scores)), key=lambda j: -scores[j])[:k]
        assert result.positions[i].tolist() == sorted(best)


def test_vision_selector_learns_which_tokens_to_keep() -> None:
    torch.manual_seed(0)
    module, x = VisionSelector(4, DIM).train(), torch.randn(16, 24, DIM)
    x[..., 1] = 1  # which the mean over the image holds, too
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(21):
        loss = -module(x)[..., 0].mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + 0.1 * module.constraint_loss()).backward()
        optimizer.step()
    ideal = -x[..., 0].topk(4).values.mean().item()
    assert losses[-1] < losses[0] + 0.5 * (ideal - losses[0])


def test_the_gradient_is_that_of_the_surrogate() -> None:
    """Kept tokens times 1 + p - p0, with positions and p0 held, differentiated by differences."""
    x, k, temperature = torch.randn(2, 9, DIM, dtype=torch.float64), 3, 0.7
    module = build(VisionSelector(k, DIM, temperature=temperature)).train()
    target = torch.randn(2, k, DIM, dtype=torch.float64)
    result = module.compress(x)
    rows = x.gather(1, result.positions[..., None].expand(-1, -1, DIM))
    assert torch.equal(result.tokens, rows)

    def soft() -> Tensor:
        key = module.to_k(x).mean(1, keepdim=True)
        return soft_topk((module.to_q(x) * key).sum(-1) / math.sqrt(DIM // 2), k, temperature)

    def surrogate() -> Tensor:
        p = soft().gather(1, result.positions)
        return ((rows * (1 + p - held).unsqueeze(-1) - target) ** 2).sum()

    (result.tokens - target).square().sum().backward()
    with torch.no_grad():
        held = soft().gather(1, result.positions)
        for weight in (module.to_q.weight, module.to_k.weight, module.to_k.bias):
            direction = torch.randn_like(weight)
            slope, step = (weight.grad * direction).sum(), 1e-5
            weight.add_(step * direction)
            above = surrogate()
            weight.sub_(2 * step * direction)
            below = surrogate()
            weight.add_(step * direction)
            torch.testing.assert_close((above - below) / (2 * step), slope, rtol=1e-6, atol=1e-8)


def test_the_gradient_of_scores_is_that_of_the_docstring() -> None:
    scores = torch.randn(1, 9, dtype=torch.float64, requires_grad=True)
    p, g, temperature = soft_topk(scores, 3, 0.5), torch.randn(1, 9, dtype=torch.float64), 0.5
    (p * g).sum().backward()
    v = (p * (1 - p)).detach()
    torch.testing.assert_close(scores.grad, (v * g - v * (v * g).sum() / v.sum()) / temperature)


def test_the_constraint_is_the_distance_of_soft_from_hard() -> None:
    module, x = build(VisionSelector(3, DIM)).train(), torch.randn(2, 9, DIM, dtype=torch.float64)
    result = module.compress(x)
    p = soft_topk(result.scores.double(), 3)
    kept = torch.zeros(2, 9, dtype=torch.float64).scatter(1, result.positions, 1)
    loss = module.constraint_loss()
    torch.testing.assert_close(loss, (p - kept).square().mean(), rtol=0, atol=1e-6)
    loss.backward()
    assert module.to_k.weight.grad.abs().sum() > 0
    assert copy.deepcopy(module).to_q.weight.equal(module.to_q.weight)  # with a graph held, too


def test_the_constraint_without_a_step() -> None:
    module = VisionSelector(3, DIM).eval()
    module(torch.randn(1, 9, DIM))
    with pytest.raises(tokscale.CompressorError, match=r"^constraint_loss\(\) is of the last call in train\(\) with"):
        module.constraint_loss()


def test_a_fresh_vision_selector_has_scores_of_its_own() -> None:
    module = VisionSelector(3, 64, hidden=128)
    assert module.to_q.weight.std().item() == pytest.approx(0.02, rel=0.1) and module.to_q.bias.eq(0).all()
    assert VisionSelector(3, 64).to_q.out_features == 32 and VisionSelector(3, 1).to_q.out_features == 1
