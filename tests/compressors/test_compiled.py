"""`torch.compile` takes every method as one graph, and nothing changes. `random` alone breaks it: its generator."""

from __future__ import annotations

import pytest
import torch

from tokscale import list_compressors
from tokscale.compressors.registry import compressor_class
from tokscale.testing import Subject


@pytest.mark.parametrize("name", list_compressors())
def test_a_compiled_method_gives_the_same(name: str) -> None:
    subject = Subject(compressor_class(name), {})
    module, x = subject.build(5), torch.randn(2, 20, 16)
    given = subject.context(module, x, (5, 2, 2))
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=name != "random")
        assert torch.equal(compiled(x, **given), module(x, **given))
    torch.compiler.reset()
