"""The examples in the operators' docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from tokscale import ops

MODULES = sorted(module.name for module in pkgutil.walk_packages(ops.__path__, ops.__name__ + "."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", sorted(set(ops.__all__) - {"FusionOutput", "GreedySelection", "TopKGather"}))
def test_every_function_has_an_example(name: str) -> None:
    assert ">>>" in (getattr(ops, name).__doc__ or "")
