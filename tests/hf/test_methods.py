"""Every registered method on every family of these tests: exactly k tokens per image, or refused where it must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tokscale
from tests.hf.helpers import TWO, K, forward, generate
from tests.tiny_models import Family, prompt
from tokscale.compressors.registry import compressor_class, keywords_of, trait_of
from tokscale.errors import MissingContextError, UnsupportedModelError
from tokscale.hf import families

TOWER = {"importance", "shallow_importance", "keys"}


def patched(model: Any, family: Family, name: str) -> Any:
    heads = {"num_heads": 4} if "num_heads" in keywords_of(compressor_class(name)) else {}
    return tokscale.patch(model, name, num_tokens=K, **heads, **family.options())


@pytest.mark.parametrize("name", tokscale.list_compressors())
def test_exactly_k_tokens_or_a_reason(family: Family, model: Any, name: str) -> None:
    needs = trait_of(compressor_class(name), "needs")
    batch = prompt(family, TWO)
    if needs & TOWER and family.name in families.NO_IMPORTANCE:
        with pytest.raises(UnsupportedModelError, match=r"cannot be mapped to its tokens \("):
            patched(model, family, name)
        return
    with patched(model, family, name) as handle:
        if "grid" in needs and family.name in families.NO_GRID:
            with pytest.raises(MissingContextError, match=f"needs grid, and {family.name} gives none here"):
                forward(model, batch.inputs)
            return
        try:
            logits = forward(model, batch.inputs).logits
        except MissingContextError as error:  # several tiles joined to one image make no rectangle
            assert "grid" in needs and "its tokens are no rectangle" in str(error)
            return
        images = handle.last.images
        assert [image.k for image in images] == [K, K]
        assert all(
            len(image.positions) == K and torch.equal(image.positions.unique(), image.positions) for image in images
        )
        assert logits.shape[1] == batch.ids.shape[1] - sum(image.n - K for image in images)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["dpp", "visionzip", "tome", "quecc"])
def test_generation(family: Family, model: Any, name: str) -> None:
    if family.name in families.NO_IMPORTANCE and name == "visionzip":
        return
    batch = prompt(family, TWO)
    with patched(model, family, name):
        ids = generate(model, batch.inputs)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids) and ids.shape[1] == batch.ids.shape[1] + 6
