"""These tests run in a process of their own, started by `tests/ops/test_triton.py`: triton reads `TRITON_INTERPRET`
once, when it is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What numpy says of the interpreter of triton 3.6 is no fault of a kernel."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"))
