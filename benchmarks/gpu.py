"""Everything there is to measure on a GPU, in one command of less than nine minutes.

    python -m benchmarks.gpu                          # writes to benchmarks/results/gpu/
    python -m benchmarks.gpu --out folder --skip tiles
    python -m benchmarks.gpu --dry-run --out folder   # no GPU: every command line at tiny shapes, by the interpreter

Device facts and rates, the GPU tests of each operator and of patched models, tiles, all operators, all methods, whole
models, pictures, the table of goals. Each is a process of its own with its own time limit and writes its file at once:
what is done stays, whatever comes after. The tests run side by side, as they mostly compile; what is timed runs alone.
What has tests that are not green is not timed. What an earlier run wrote under these names is deleted first. `log.txt`
holds what the steps printed, `steps.csv` how each ended.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import os
import pathlib
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.cases import OPERATORS
from benchmarks.kernels import tests
from benchmarks.kernels.table import RESULTS, Table
from benchmarks.plot import PICTURES

ROOT = pathlib.Path(__file__).parent.parent
TESTED = 110  # seconds for all tests, side by side: mostly compilation
SHARES = {"importance": 50, "fusion": 58, "folded": 26, "greedy": 18, "topk": 12}  # seconds
GRACE = 10  # seconds that a step may take beyond the limit that it knows: starting, and the case under way
TOTAL, LAST = 525, 30  # seconds in all, whatever the steps ask for, and of those for pictures and goals
MODELS = "models"  # the tests of patched models stand before methods and whole models


class Step(NamedTuple):
    """`python -m module arguments`, ended after `limit` seconds; not begun if the step `needs` did not end well."""

    name: str
    module: str
    arguments: tuple[str, ...]
    limit: int
    writes: tuple[str, ...]  # patterns of files in the folder
    needs: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments]


def steps(out: pathlib.Path, dry: bool) -> list[Step]:
    """Return all steps in order; a dry run has the same, on the CPU, at tiny shapes."""
    where = ("--device", "cpu" if dry else "cuda", *(("--tiny",) if dry else ()))
    made = [Step("device", "benchmarks.device", (*where, "--out", str(out / "device.csv")), 20, ("device.csv",))]
    workers = ("-n", "3", "-p", "no:benchmark") if importlib.util.find_spec("xdist") else ()  # that one warns beside it
    for name in (*OPERATORS, MODELS):
        xml = f"tests-{name}.xml"
        tested = (tests.MODELS_ON_GPU if name == MODELS else tests.ON_GPU, "-q", "-m", "gpu", "-k", tests.name(name))
        tested += ("-p", "no:cacheprovider", f"--junitxml={out / xml}", *(("--collect-only",) if dry else workers))
        made.append(Step(f"tests of {name}", "pytest", tested, TESTED, (xml,)))
    tiles = ("--tune", *where, "--limit", "90", "--out", str(out / "tiles.csv"))
    made.append(Step("tiles", "benchmarks.run", tiles, 90 + GRACE, ("tiles.csv",)))
    for op in OPERATORS:
        limit, file = SHARES[op], f"{op}.csv"
        options = ("--op", op, *where, "--tested", str(out / f"tests-{op}.xml"))
        options += ("--limit", str(limit), "--out", str(out / file))
        made.append(Step(op, "benchmarks.run", options, limit + GRACE, (file,), needs=f"tests of {op}"))
    methods: tuple[str, ...] = (*where, "--tokens", "576", "--repeats", "5", "--out", str(out / "compressors.csv"))
    methods += ("--only", "divprune", "--batch", "1") if dry else ("--dtype", "bfloat16")
    whole: tuple[str, ...] = (*where, "--limit", "30", "--out", str(out / "prefill.csv"))
    whole += ("--dtype", "float32", "--only", "llava-1.5-7b") if dry else ()
    made += [
        Step("methods", "benchmarks.compressors", methods, 40, ("compressors.csv",), needs=f"tests of {MODELS}"),
        Step("prefill", "benchmarks.prefill", whole, 60, ("prefill.csv",), needs=f"tests of {MODELS}"),
        Step("pictures", "benchmarks.plot", (str(out),), 20, tuple(f"{name}-*.png" for name in PICTURES)),
        Step("goals", "benchmarks.goals", (str(out), "--out", str(out / "goals.csv")), 10, ("goals.csv",)),
    ]
    return made


def run(step: Step, environment: dict[str, str]) -> tuple[str, str]:
    """Return how a step ended and what it printed."""
    done = subprocess.Popen(
        step.command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = done.communicate(timeout=step.limit)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, 9)  # with the processes that compile for it
        said, _ = done.communicate()
        return f"ended after {step.limit} s", said
    return ("ok" if done.returncode == 0 else f"exit status {done.returncode}"), said


def run_here(step: Step) -> tuple[str, str]:
    """The same within this process: a dry run that starts one process for each step mostly imports."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            status = importlib.import_module(step.module).main(list(step.arguments))
        except SystemExit as stop:
            status = stop.code
        except Exception:
            return "failed", said.getvalue() + traceback.format_exc()
    return ("ok" if not status else f"exit status {status}"), said.getvalue()


def attempt(step: Step, well: set[str], skipped: Sequence[str], end: float, dry: bool) -> tuple[str, str, float]:
    """Return how a step ended, what it printed and its seconds; it is not begun without what it needs, or too late."""
    start = time.monotonic()
    left = end - start - (0 if step.name in ("pictures", "goals") else LAST)
    if step.needs not in well:
        return f"not run: the {step.needs} {'were skipped' if step.needs in skipped else 'are not green'}", "", 0.0
    if dry and step.module != "pytest":
        ended, said = run_here(step)
    elif left < GRACE:
        return "not run: no time left", "", 0.0
    else:
        environment = tests.environment() if step.module == "pytest" else os.environ
        path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        ended, said = run(step._replace(limit=min(step.limit, int(left))), {**environment, **path})
    return ended, said, time.monotonic() - start


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "gpu")
    parser.add_argument("--dry-run", action="store_true", help="every command line at tiny shapes, without a GPU")
    parser.add_argument("--skip", nargs="*", default=[], help="steps, such as tiles; what needs them is not run")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="in all; what is not begun by then is said")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    unknown = [name for name in options.skip if name not in {step.name for step in steps(out, options.dry_run)}]
    if unknown:
        known = ", ".join(step.name for step in steps(out, options.dry_run))
        parser.error(f"--skip {' '.join(unknown)}: no such step; there are {known}")
    if options.dry_run and out.is_relative_to(RESULTS.resolve()):
        parser.error(f"--dry-run measures nothing: choose an --out outside {RESULTS.name}/")
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
    elif os.environ.get("TRITON_INTERPRET"):
        parser.error("TRITON_INTERPRET is set: kernels would be interpreted, not measured. Unset it.")
    else:
        import torch

        if not torch.cuda.is_available():
            parser.error("PyTorch sees no GPU here. --dry-run --out folder proves the commands without one.")
    out.mkdir(parents=True, exist_ok=True)
    every = steps(out, options.dry_run)
    todo = [step for step in every if step.name not in options.skip]
    for earlier in {file for step in every for pattern in step.writes for file in out.glob(pattern)}:
        earlier.unlink()
    well, end = {""}, begin + options.seconds
    ended_as = Table(out / "steps.csv", ["step", "ended", "seconds", "command"], {})
    with (
        (out / "log.txt").open("w", encoding="utf-8") as log,
        ended_as as table,
        concurrent.futures.ThreadPoolExecutor(max(1, len(todo))) as pool,
    ):
        for testing, group in itertools.groupby(todo, lambda step: step.module == "pytest"):
            tried = functools.partial(attempt, well=well, skipped=options.skip, end=end, dry=options.dry_run)
            together = list(group)
            for step, (ended, said, took) in zip(together, (pool.map if testing else map)(tried, together)):
                command = " ".join(step.command[1:])
                table.add({"step": step.name, "ended": ended, "seconds": took, "command": command})
                log.write(f"## {command}\n{said}\n")
                log.flush()
                print(f"{step.name:<20}{took:>7.1f} s  {ended}", flush=True)
                if ended == "ok":
                    well.add(step.name)
                    if step.name == "goals" or testing:
                        print(said.strip() if step.name == "goals" else said.strip().splitlines()[-1], flush=True)
                else:
                    print("\n".join(f"    {line}" for line in said.strip().splitlines()[-6:]), flush=True)
    return int(len(well) <= len(todo))


if __name__ == "__main__":
    raise SystemExit(main())
