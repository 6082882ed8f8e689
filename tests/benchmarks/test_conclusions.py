"""Goals, ratios and pictures from rows made by hand; tests before times; what the commands refuse."""

from __future__ import annotations

import argparse
import ast
import pathlib
from typing import Any

import pytest
import torch

from benchmarks import goals, gpu, plot, run
from benchmarks.cases import OPERATORS
from benchmarks.kernels import table, tests, tune
from benchmarks.kernels.table import FIELDS, RESULTS, Table


def row(op: str, provider: str, ms: float | str, **cells: Any) -> dict[str, Any]:
    made = dict.fromkeys(FIELDS, "") | {
        "op": op,
        "case": "a model",
        "provider": provider,
        "mode": "fwd",
        "dtype": "bfloat16",
    }
    return made | {"ms_p50": ms, "error": 1e-6, "device": "NVIDIA H100", "torch": "2.11", "tests": "passed: 3"} | cells


def written(folder: pathlib.Path, rows: list[dict[str, Any]]) -> pathlib.Path:
    for op in {r["op"] for r in rows}:
        with Table(folder / f"{op}.csv", FIELDS, {}) as file:
            for r in rows:
                if r["op"] == op:
                    file.add(r)
    return folder


def verdicts(folder: pathlib.Path, goal: str) -> list[tuple[str, str]]:
    found = goals.judge(sorted(folder.glob("*.csv")))
    return [(line["measured"], line["verdict"]) for line in found if line["goal"] == goal]


SIZES = {"b": 8, "n": 2880, "m": 64, "t": 64, "h": 16, "g": 16, "d": 64}


def test_a_goal_is_measured_against_the_best_rival(tmp_path: pathlib.Path) -> None:
    rows = [
        row("fusion", "triton", 1.0, roof_percent=60, **SIZES),
        row("fusion", "triton, no mask", 0.5, roof_percent=75, **SIZES),
        row("fusion", "sdpa, cat and mask", 9.0, **SIZES),
        row("fusion", "sdpa, cat and mask, compiled", 1.7, **SIZES),
        row("fusion", "sdpa best case, flash", 0.95, **SIZES),
        row("fusion", "sdpa best case, cudnn", "", error="failed: RuntimeError", **SIZES),
    ]
    folder = written(tmp_path, rows)
    assert verdicts(folder, "GPU, fusion: bytes, share of the copy rate") == [("0.75", "met")]
    assert verdicts(folder, "GPU, fusion: x SDPA with cat and mask") == [("1.7", "missed")]
    assert verdicts(folder, "GPU, fusion: x SDPA best case") == [("1.9", "met")]
    assert verdicts(folder, "GPU, fusion: fwd + bwd, x SDPA with cat") == [("", "not run")]
    assert verdicts(folder, "GPU, greedy: x published loop") == [("", "not run")] * 2


def test_a_cpu_answers_no_goal_of_a_gpu(tmp_path: pathlib.Path) -> None:
    sizes = {"b": 1, "n": 576, "k": 64, "device": "cpu, 2 threads", "dtype": "float32"}
    rows = [row("greedy", "torch", 1.0, **sizes), row("greedy", "published loop", 3.5, **sizes)]
    folder = written(tmp_path, rows)
    assert verdicts(folder, "CPU, greedy: x published loop") == [("3.5", "met")]
    assert verdicts(folder, "GPU, greedy: x published loop") == [("", "not run")] * 2


def test_a_dry_run_meets_nothing(tmp_path: pathlib.Path) -> None:
    sizes = {"b": 1, "n": 576, "k": 64, "tests": "dry run: tiny shapes, not run"}
    rows = [row("greedy", "triton", 1.0, **sizes), row("greedy", "published loop", 99.0, **sizes)]
    assert verdicts(written(tmp_path, rows), "GPU, greedy: x published loop") == [("99", "not run"), ("", "not run")]


def test_every_goal_names_providers_that_exist(tmp_path: pathlib.Path) -> None:
    """A row of every provider in every mode answers every goal."""
    rows = []
    for device in ("NVIDIA H100", "cpu, 2 threads"):
        for op in OPERATORS.values():
            for case in op.cases("cpu" if device.startswith("cpu") else "cuda", False):
                for mode in case.modes:
                    for provider in op.providers:
                        shape = table.of_case(op.name, case) | {"device": device, "mode": mode}
                        cells = {"peak_mib": 1, "roof_percent": 1, "graph_ms": 1}
                        rows.append(row(ms=1.0, provider=provider.name, **(cells | shape)))
    found = goals.judge(sorted(written(tmp_path, rows).glob("*.csv")))
    assert {line["verdict"] for line in found} == {"met", "missed"}
    assert len({line["goal"] + line["aim"] for line in found}) == len(goals.GOALS)


def test_a_bar_is_the_best_baseline_of_the_same_answer() -> None:
    rows = [
        row("fusion", "triton", 2.0, **SIZES),
        row("fusion", "torch", 4.0, **SIZES),
        row("fusion", "eager", 20.0, **SIZES),
        row("fusion", "sdpa best case, flash", 3.0, **SIZES),
        row("fusion", "triton + importance", 5.0, **SIZES),
        row("fusion", "eager + importance", 10.0, **SIZES),
    ]
    found = [found[1:] for found in plot.against_best(rows)]
    assert found == [(1.5, "triton", "sdpa best case, flash"), (2.0, "triton + importance", "eager + importance")]


def test_pictures_of_what_failed_too(tmp_path: pathlib.Path) -> None:
    cells = SIZES | {"gb_s": 900, "tflop_s": 60, "roof_percent": 40}
    rows = [
        row("fusion", "triton", 1.0, **cells),
        row("fusion", "eager", "", error="failed: OutOfMemoryError", **SIZES),
        row("topk", "triton", "", error="not run: time limit", b=1, n=576, k=64),
    ]
    assert plot.main([str(written(tmp_path, rows)), "--out", str(tmp_path / "pictures")]) == 0
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"{kind}-nvidia-h100.png" for kind in ("cost", "roofline", "speedup")]


def test_red_tests_stop_the_clock(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests, "verdict", lambda op, options: "failed: 1 failed, 3 passed in 0.1s")
    assert run.main(["--op", "topk", "--out", str(tmp_path / "topk.csv")]) == 1
    assert not (tmp_path / "topk.csv").exists()


def test_the_verdict_of_an_earlier_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tests.xml"
    assert tests.of_file("fusion", path) == "failed: no tests.xml, its tests did not end"
    path.write_text(
        '<testsuites><testsuite><testcase name="test_importance[a]"/><testcase name="test_importance[b]"/>'
        '<testcase name="test_folded[a]"><failure message="no"/></testcase></testsuite></testsuites>'
    )
    assert tests.of_file("importance", path) == "passed: 2"
    assert tests.of_file("folded", path) == "failed: test_folded[a]"
    assert tests.of_file("topk", path) == "failed: no test of topk in tests.xml"
    assert tests.verdict("fusion", argparse.Namespace(no_tests=True, tested=path)) == "not run"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tiny", "--op", "topk", "--out", str(RESULTS / "topk.csv")], "--tiny measures nothing"),
        (["--op", "all", "--out", "all.csv"], "writes one file per operator: pass a folder, not all.csv"),
        (["--op", "topk", "--device", "cuda", "--out", "topk.csv"], "PyTorch sees no GPU here"),
    ],
)
def test_what_a_run_refuses(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        return
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert reason in capsys.readouterr().err


def test_tiles_need_a_gpu(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--tune", "--out", str(tmp_path / "tiles.csv")]) == 2
    assert "tiles are measured on a GPU; the device is cpu" in capsys.readouterr().out
    assert not (tmp_path / "tiles.csv").exists()


def test_a_tile_is_proposed_by_the_mean_over_its_shapes() -> None:
    def timed(shape: str, keys: int, ratio: float | str) -> dict[str, Any]:
        kernel = {"kernel": "fusion forward", "platform": "sm_90", "block_d": 64, "row_block": 64}
        return {**kernel, "shape": shape, "rows": 64, "keys": keys, "warps": 4, "stages": 2, "ratio": ratio}

    rows = [timed(shape, 64, 1.0) for shape in "ab"] + [timed("a", 128, 1.6), timed("b", 128, 0.9)]
    rows += [timed("a", 32, 5.0), timed("b", 32, "")]  # failed at one shape: not proposed
    assert tune.proposals(rows) == ["forward_tile('sm_90', 64, 64) -> Tile(64, 128, 4, 2): 1.20 times as fast"]
    assert tune.proposals(rows[:2]) == ["forward_tile('sm_90', 64, 64) -> stays as it is"]


def test_the_steps_fit_into_nine_minutes(tmp_path: pathlib.Path) -> None:
    steps = gpu.steps(tmp_path, dry=False)
    last = sum(step.limit for step in steps if step.name in ("pictures", "goals"))
    alone = sum(step.limit for step in steps if step.module != "pytest")  # the tests run side by side
    assert last <= gpu.LAST < gpu.TOTAL < 540 and alone + gpu.TESTED < 600
    assert [step.name for step in steps] == [step.name for step in gpu.steps(tmp_path, dry=True)]
    needs = {op: f"tests of {op}" for op in OPERATORS}
    needs |= dict.fromkeys(("methods", "prefill"), f"tests of {gpu.MODELS}")
    assert needs == {step.name: step.needs for step in steps if step.needs}
    assert not any("--tiny" in step.command for step in steps)


def test_every_gpu_test_belongs_to_one_operator() -> None:
    root = RESULTS.parent.parent
    files = {str(path.relative_to(root)) for path in root.glob("tests/**/test_gpu*.py")}
    assert files == {tests.ON_GPU, tests.MODELS_ON_GPU}

    def names_in(file: str) -> list[str]:
        body = ast.parse((root / file).read_text(encoding="utf-8")).body
        return [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]

    assert all(name.startswith(tests.name(gpu.MODELS)) for name in names_in(tests.MODELS_ON_GPU))
    names = names_in(tests.ON_GPU)
    owners = {name: [op for op in OPERATORS if tests.name(op) in name] for name in names}  # as `pytest -k` chooses
    assert all(len(ops) == 1 and name.startswith(tests.name(ops[0])) for name, ops in owners.items()), owners
    assert {op for ops in owners.values() for op in ops} == set(OPERATORS)


def test_an_operator_whose_tests_are_not_green_is_not_timed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do files of an earlier run pass for this one's."""
    ran: list[str] = []

    def stand_in(step: gpu.Step, environment: dict[str, str]) -> tuple[str, str]:
        ran.append(step.name)
        assert (environment.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8") == (step.module == "pytest")
        return ("ended after 40 s" if step.name == "tests of fusion" else "ok"), "said"

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "run", stand_in)
    for name in ("fusion.csv", "tests-fusion.xml", "cost-a-device.png", "mine.txt"):
        (tmp_path / name).touch()
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert {step.name for step in gpu.steps(tmp_path, dry=False)} - set(ran) == {"fusion"}
    ended = {line["step"]: line["ended"] for line in table.read(tmp_path / "steps.csv")}
    assert ended["fusion"] == "not run: the tests of fusion are not green" and ended["folded"] == "ok"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "mine.txt", "steps.csv"]
