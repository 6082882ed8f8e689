"""Models of the families, built once per test file, and patches that a test undoes."""

from __future__ import annotations

from typing import Any

import pytest

import tokscale
from tests.hf.helpers import COMPRESSORS, ROWS, ByNorm, K, forward, generate
from tests.tiny_models import FAMILIES, Family, module, prompt


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> Any:
    model = family.model()
    batch = prompt(family, ROWS)
    forward(model, batch.inputs)  # whatever transformers itself installs or memoises on first use is there now
    generate(model, batch.inputs)
    for backend in ("eager", "sdpa"):
        module(model, family.tower).set_attn_implementation(backend)
    return model


@pytest.fixture(scope="module")
def llava() -> Any:
    return FAMILIES["llava"].model()


@pytest.fixture(params=list(COMPRESSORS))
def compressor(request: pytest.FixtureRequest) -> Any:
    return COMPRESSORS[request.param](K)


@pytest.fixture
def patched(family: Family, model: Any, compressor: Any) -> Any:
    """The handle of `model` patched with `compressor` for one test."""
    handle = tokscale.patch(model, compressor, **family.options())
    yield handle
    handle.remove()


@pytest.fixture
def selected(family: Family, model: Any) -> Any:
    """The same with the selector alone, for what does not depend on how tokens are made."""
    handle = tokscale.patch(model, ByNorm(K), **family.options())
    yield handle
    handle.remove()
