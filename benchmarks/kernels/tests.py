"""The tests that stand before a measurement: run on the device, or read from the file of an earlier run."""

from __future__ import annotations

import argparse
import functools
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
ON_GPU = {
    "importance": "importance",
    "fusion": "fusion",
    "folded": "fusion",
    "greedy": "selection",
    "topk": "selection",
}


def verdict(op: str, options: argparse.Namespace) -> str:
    """Return `passed: <how many>`, `failed: <which>` or `not run`."""
    if options.no_tests:
        return "not run"
    if options.tested is not None:
        return of_file(op, options.tested)
    if options.device == "cpu":
        chosen = [f"tests/ops/test_{FILES[op]}.py", "-m", "not gpu and not slow"]
    else:
        chosen = ["tests/ops/test_gpu.py", "-m", "gpu", "-k", ON_GPU[op]]
    return of_run(*chosen)


@functools.cache
def of_run(*chosen: str) -> str:
    """Return the verdict of these tests, run once for all operators that share them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    return f"passed: {lines[-1].split()[0]}" if done.returncode == 0 else f"failed: {lines[-1][:200]}"


def of_file(op: str, path: pathlib.Path) -> str:
    """Return the verdict of the operator's GPU tests in a JUnit file; `not run` where it holds none of them."""
    if not path.exists():
        return "not run"
    cases = [case for case in ElementTree.parse(path).iter("testcase") if ON_GPU[op] in case.get("name", "")]
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if bad:
        return f"failed: {bad[0]}"
    return f"passed: {len(cases)}" if cases else "not run"
