"""The Triton kernels without a GPU: run by the interpreter, compiled ahead of time. A process each: `TRITON_INTERPRET`
is read when triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODES = {"interpreted": "1", "compiled": "0"}


def run(folder: str, marker: str) -> str:
    """The folder's tests under its mode; their report fails the test that asked for it."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marker, str(HERE / folder)],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": MODES[folder], "TOKSCALE_BACKEND": ""},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("folder", MODES)
def test_kernels(folder: str) -> None:
    assert "passed" in run(folder, "not slow")


@pytest.mark.slow
@pytest.mark.parametrize("folder", MODES)
def test_kernels_over_more_shapes(folder: str) -> None:
    assert "passed" in run(folder, "slow")
