"""Everything there is to measure on a GPU, in one command of less than nine minutes.

    python -m benchmarks.gpu                          # writes to benchmarks/results/gpu/
    python -m benchmarks.gpu --out folder
    python -m benchmarks.gpu --dry-run --out folder   # no GPU: every command line at tiny shapes, by the interpreter

Device facts and rates, the GPU tests of each operator, tiles, all operators, all methods, pictures, the table of goals.
Each is a process of its own with its own time limit and writes its file at once: what is done stays, whatever comes
after. An operator whose tests are not green is not timed. What an earlier run wrote under these names is deleted first.
`log.txt` holds what the steps printed, `steps.csv` how each ended.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import pathlib
import subprocess
import sys
import time
import traceback
from typing import NamedTuple

from benchmarks.cases import OPERATORS
from benchmarks.kernels import tests
from benchmarks.kernels.table import RESULTS, Table
from benchmarks.plot import PICTURES

ROOT = pathlib.Path(__file__).parent.parent
TESTS = {"importance": 65, "fusion": 40, "folded": 30, "greedy": 20, "topk": 20}  # seconds, mostly of compilation
SHARES = {"importance": 55, "fusion": 65, "folded": 30, "greedy": 20, "topk": 12}  # seconds
GRACE = 10  # seconds that a step may take beyond the limit that it knows: starting, and the case under way
TOTAL, LAST = 525, 30  # seconds in all, whatever the steps ask for, and of those for pictures and goals


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
    made = [Step("device", "benchmarks.device", (*where, "--out", str(out / "device.csv")), 15, ("device.csv",))]
    for op in OPERATORS:
        xml = f"tests-{op}.xml"
        tested = (tests.ON_GPU, "-q", "-m", "gpu", "-k", tests.name(op), "-p", "no:cacheprovider")
        tested += (f"--junitxml={out / xml}", *(("--collect-only",) if dry else ()))
        made.append(Step(f"tests of {op}", "pytest", tested, TESTS[op], (xml,)))
    tiles = ("--tune", *where, "--limit", "90", "--out", str(out / "tiles.csv"))
    made.append(Step("tiles", "benchmarks.run", tiles, 90 + GRACE, ("tiles.csv",)))
    for op in OPERATORS:
        limit, file = SHARES[op], f"{op}.csv"
        options = ("--op", op, *where, "--tested", str(out / f"tests-{op}.xml"))
        options += ("--limit", str(limit), "--out", str(out / file))
        made.append(Step(op, "benchmarks.run", options, limit + GRACE, (file,), needs=f"tests of {op}"))
    methods: tuple[str, ...] = (*where, "--tokens", "576", "--repeats", "5", "--out", str(out / "compressors.csv"))
    methods += ("--only", "divprune", "--batch", "1") if dry else ("--dtype", "bfloat16")
    made += [
        Step("methods", "benchmarks.compressors", methods, 40, ("compressors.csv",)),
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


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "gpu")
    parser.add_argument("--dry-run", action="store_true", help="every command line at tiny shapes, without a GPU")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
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
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    todo, well = steps(out, options.dry_run), {""}
    for earlier in {file for step in todo for pattern in step.writes for file in out.glob(pattern)}:
        earlier.unlink()
    ended_as = Table(out / "steps.csv", ["step", "ended", "seconds", "command"], {})
    with (out / "log.txt").open("w", encoding="utf-8") as log, ended_as as table:
        for step in todo:
            start = time.monotonic()
            left = TOTAL - (start - begin) - (0 if step.name in ("pictures", "goals") else LAST)
            if step.needs not in well:
                ended, said = f"not run: the {step.needs} are not green", ""
            elif options.dry_run and step.module != "pytest":
                ended, said = run_here(step)
            elif left < GRACE:
                ended, said = "not run: no time left", ""
            else:
                environment = tests.environment() if step.module == "pytest" else os.environ
                ended, said = run(step._replace(limit=min(step.limit, int(left))), {**environment, **path})
            command = " ".join(step.command[1:])
            row = {"step": step.name, "ended": ended, "seconds": time.monotonic() - start, "command": command}
            table.add(row)
            log.write(f"## {command}\n{said}\n")
            log.flush()
            print(f"{step.name:<12}{row['seconds']:>7.1f} s  {ended}", flush=True)
            if ended == "ok":
                well.add(step.name)
                if step.name == "goals" or step.module == "pytest":
                    print(said.strip() if step.name == "goals" else said.strip().splitlines()[-1], flush=True)
            else:
                print("\n".join(f"    {line}" for line in said.strip().splitlines()[-6:]), flush=True)
    return int(len(well) <= len(todo))


if __name__ == "__main__":
    raise SystemExit(main())
