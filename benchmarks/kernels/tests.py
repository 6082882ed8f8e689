"""The tests that stand before a measurement: run on the device, or read from the file of an earlier run."""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).parent.parent.parent
FILES = {
    "importance": "attention_importance",
    "fusion": "fusion_attention",
    "folded": "fusion_attention",
    "greedy": "greedy_select",
    "topk": "topk_gather",
}
ON_GPU, MODELS_ON_GPU = "tests/ops/test_gpu.py", "tests/hf/test_gpu.py"


def name(op: str) -> str:
    """Return how the names of the tests of an operator, or of models, begin in their file."""
    return f"test_{op}"


def environment() -> dict[str, str]:
    """Return the environment of the tests: they turn on deterministic algorithms, for which cuBLAS asks a setting.

    Not that of what is timed: this workspace is smaller than the default.
    """
    return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ}


def verdict(op: str, options: argparse.Namespace) -> str:
    """Return `passed: <how many>`, `failed: <which>` or `not run`."""
    if options.no_tests:
        return "not run"
    if options.tested is not None:
        return of_file(op, options.tested)
    if options.device == "cpu":
        chosen = [f"tests/ops/test_{FILES[op]}.py", "-m", "not gpu and not slow"]
    else:
        chosen = [ON_GPU, "-m", "gpu", "-k", name(op)]
    return of_run(*chosen)


@functools.cache
def of_run(*chosen: str) -> str:
    """Return the verdict of these tests, run once for all operators that share them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    return f"passed: {lines[-1].split()[0]}" if done.returncode == 0 else f"failed: {lines[-1][:200]}"


def of_file(op: str, path: pathlib.Path) -> str:
    """Return the verdict of the operator's GPU tests in a JUnit file: pytest writes none where it is ended early."""
    if not path.exists():
        return f"failed: no {path.name}, its tests did not end"
    cases = [case for case in ElementTree.parse(path).iter("testcase") if case.get("name", "").startswith(name(op))]
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if bad:
        return f"failed: {bad[0]}"
    return f"passed: {len(cases)}" if cases else f"failed: no test of {op} in {path.name}"
