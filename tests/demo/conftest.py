from __future__ import annotations

import pytest

from tokscale import demo


@pytest.fixture(scope="session")
def packaged():
    """The packaged model and processor; a test that patches the model gives it back."""
    return demo.load()
