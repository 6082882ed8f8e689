"""Every command line of `make gpu`, without a GPU."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import gpu
from benchmarks.cases import OPERATORS
from benchmarks.kernels.table import FIELDS, RESULTS, number, read

ROOT = RESULTS.parent.parent


def test_every_step_runs_by_the_interpreter(tmp_path: pathlib.Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = read(tmp_path / "steps.csv")
    assert len(steps) == 7 + 2 * len(OPERATORS) and {step["ended"] for step in steps} == {"ok"}
    for name, op in OPERATORS.items():
        rows = read(tmp_path / f"{name}.csv")
        assert tuple(rows[0]) == FIELDS
        assert {row["tests"] for row in rows} == {"dry run: tiny shapes, not run"}
        assert {row["provider"] for row in rows} == {provider.name for provider in op.providers}
        late = [row["provider"] in {provider.name for provider in op.providers if provider.compiled} for row in rows]
        assert late == sorted(late)  # whoever compiles comes last
        for row in rows:
            assert not row["error"].startswith("wrong"), row
            if row["provider"].startswith(("triton", "torch")):
                assert number(row, "error") is not None and number(row, "ms_p50"), row
    tiles = read(tmp_path / "tiles.csv")
    assert len(tiles) == 10 and all(row["error"] == "" and row["tests"].startswith("dry run") for row in tiles)
    for name in ("compressors", "prefill"):
        assert {row["device"].partition(",")[0].partition(":")[0] for row in read(tmp_path / f"{name}.csv")} == {
            "dry run"
        }
    assert {row["verdict"] for row in read(tmp_path / "goals.csv")} == {"not run"}
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "interpret", "reason"),
    [
        (["--dry-run"], None, "choose an --out outside results/"),
        ([], "1", "TRITON_INTERPRET is set: kernels would be interpreted"),
        (["--skip", "tile"], None, "--skip tile: no such step; there are device, tests of importance"),
    ],
)
def test_what_it_refuses(
    arguments: list[str],
    interpret: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if interpret is not None:
        monkeypatch.setenv("TRITON_INTERPRET", interpret)
    with pytest.raises(SystemExit):
        gpu.main(arguments)
    assert reason in capsys.readouterr().err
