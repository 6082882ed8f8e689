"""The examples in the docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import tokscale.compressors
import tokscale.testing
from tokscale import TokenCompressor

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
