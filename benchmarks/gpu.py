"""Everything there is to measure on a GPU, in one command of less than nine minutes.

    python -m benchmarks.gpu                          # writes to benchmarks/results/gpu/
    python -m benchmarks.gpu --out folder
    python -m benchmarks.gpu --dry-run --out folder   # no GPU: every command line at tiny shapes, by the interpreter

Device facts and rates, the tests marked `gpu`, tiles, all operators, all methods, pictures, the table of goals. Each is
a process of its own with its own time limit and writes its file at once: what is done stays, whatever comes after.
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
from benchmarks.kernels.table import RESULTS, Table

ROOT = pathlib.Path(__file__).parent.parent
SHARES = {"importance": 55, "fusion": 65, "folded": 30, "greedy": 20, "topk": 12}  # seconds
GRACE = 10  # seconds that a step may take beyond the limit that it knows: starting, and the case under way
TOTAL, LAST = 525, 30  # seconds in all, whatever the steps ask for, and of those for pictures and goals


class Step(NamedTuple):
    """`python -m module arguments`, ended after `limit` seconds."""

    name: str
    module: str
    arguments: tuple[str, ...]
    limit: int

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments]


def steps(out: pathlib.Path, dry: bool) -> list[Step]:
    """Return all steps in order; a dry run has the same, on the CPU, at tiny shapes."""
    where = ("--device", "cpu" if dry else "cuda", *(("--tiny",) if dry else ()))
    xml = out / "tests.xml"
    files = (str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/**/test_gpu*.py")))
    tested = (*files, "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={xml}")
    made = [
        Step("device", "benchmarks.device", (*where, "--out", str(out / "device.csv")), 15),
        Step("tests", "pytest", (*tested, *(("--collect-only",) if dry else ())), 150),
        Step(
            "tiles", "benchmarks.run", ("--tune", *where, "--limit", "90", "--out", str(out / "tiles.csv")), 90 + GRACE
        ),
    ]
    for op in OPERATORS:
        limit = SHARES[op]
        options = ("--op", op, *where, "--tested", str(xml), "--limit", str(limit), "--out", str(out / f"{op}.csv"))
        made.append(Step(op, "benchmarks.run", options, limit + GRACE))
    methods: tuple[str, ...] = (*where, "--tokens", "576", "--repeats", "5", "--out", str(out / "compressors.csv"))
    methods += ("--only", "divprune", "--batch", "1") if dry else ("--dtype", "bfloat16")
    made += [
        Step("methods", "benchmarks.compressors", methods, 40),
        Step("pictures", "benchmarks.plot", (str(out),), 20),
        Step("goals", "benchmarks.goals", (str(out), "--out", str(out / "goals.csv")), 10),
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
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    failed = False
    ended_as = Table(out / "steps.csv", ["step", "ended", "seconds", "command"], {})
    with (out / "log.txt").open("w", encoding="utf-8") as log, ended_as as table:
        for step in steps(out, options.dry_run):
            start = time.monotonic()
            left = TOTAL - (start - begin) - (0 if step.name in ("pictures", "goals") else LAST)
            if options.dry_run and step.module != "pytest":
                ended, said = run_here(step)
            elif left < GRACE:
                ended, said = "not run: no time left", ""
            else:
                ended, said = run(step._replace(limit=min(step.limit, int(left))), environment)
            command = " ".join(step.command[1:])
            row = {"step": step.name, "ended": ended, "seconds": time.monotonic() - start, "command": command}
            table.add(row)
            log.write(f"## {command}\n{said}\n")
            log.flush()
            print(f"{step.name:<12}{row['seconds']:>7.1f} s  {ended}", flush=True)
            if ended != "ok":
                failed = True
                print("\n".join(f"    {line}" for line in said.strip().splitlines()[-6:]), flush=True)
            elif step.name in ("tests", "goals"):
                print(said.strip() if step.name == "goals" else said.strip().splitlines()[-1], flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
