"""Every method with weights learns inside the frozen demo model: twenty steps lower its loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokscale
from tokscale import demo

MODES: dict[str, list[dict[str, Any]]] = {
    "adaptive_pool": [{"mode": "gated"}, {"mode": "projected"}],
    "topk": [{"score": "learned"}],
    **{name: [{}] for name in tokscale.list_compressors(trainable=True)},
}
CASES = [(name, mode) for name, modes in MODES.items() for mode in modes]


@pytest.fixture(scope="module")
def lent() -> tuple[Any, dict[str, Any]]:
    model, processor = demo.load()
    model.requires_grad_(False)
    return model, demo.collate(demo.samples(16, seed=5), processor, answers=True)


@pytest.mark.parametrize("name, mode", CASES, ids=["-".join([name, *mode.values()]) for name, mode in CASES])
def test_twenty_steps_lower_the_loss(lent: tuple[Any, dict[str, Any]], name: str, mode: dict[str, Any]) -> None:
    model, batch = lent
    torch.manual_seed(0)
    compressor = tokscale.create_compressor(name, num_tokens=16, dim=64, **mode).train()
    optimizer, losses = torch.optim.Adam(compressor.parameters(), lr=3e-3), []
    with tokscale.patch(model, compressor):
        for _ in range(21):
            loss = model(**batch).loss
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    grads = [parameter.grad for parameter in compressor.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert sum(losses[-3:]) / 3 < 0.9 * losses[0], losses
