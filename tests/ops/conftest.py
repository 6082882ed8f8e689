"""Uninitialised memory is NaN here, so that a result which was never written cannot pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """`torch.empty` fills with NaN (integers: the largest value) while a test runs.

    That is part of PyTorch's deterministic mode; its public switch would also import the compiler, which takes seconds.
    """
    torch._C._set_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch._C._set_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test draws the same numbers whatever ran before it."""
    torch.manual_seed(0)
