"""The examples in the docstrings, and `torch.compile` of the modules that need no generator."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from typing import Any

import pytest
import torch

import tokscale.compressors
import tokscale.testing
from tokscale import AdaptivePooler, CrossAttentionFuser, TokenCompressor
from tokscale.compressors import UniformSampler

MODULES = [f"tokscale.compressors.{m.name}" for m in pkgutil.iter_modules(tokscale.compressors.__path__)]


@pytest.mark.parametrize("name", [*MODULES, "tokscale.testing"])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    names = {"torch": torch, **vars(tokscale.compressors), **vars(module)}
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0


def test_every_method_has_an_example_and_a_summary() -> None:
    for name in tokscale.list_compressors():
        doc = type_of(name).__doc__ or ""
        assert ">>>" in doc and "Cost:" in doc and "Shape:" in doc, name


def type_of(name: str) -> type[TokenCompressor]:
    from tokscale.compressors.registry import compressor_class

    return compressor_class(name)


@pytest.mark.parametrize(
    "module, context",
    [
        (AdaptivePooler(5), {}),
        (UniformSampler(5), {}),
        (CrossAttentionFuser(5, 16), {"text_tokens": torch.randn(2, 4, 16)}),
    ],
    ids=["pool", "uniform", "fuser"],
)
def test_modules_compile_into_one_graph(module: TokenCompressor, context: dict[str, Any]) -> None:
    x = torch.randn(2, 36, 16)
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x, **context), module(x, **context))
    torch.compiler.reset()
