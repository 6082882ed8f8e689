"""Times of the operators beside everybody else who computes the same, each checked against float64 first.

    python -m benchmarks.run --op importance --out benchmarks/results/cpu/importance.csv
    python -m benchmarks.run --op all --device cuda --out benchmarks/results/gpu          # a folder: one file each
    python -m benchmarks.run --tune --device cuda --out benchmarks/results/gpu/tiles.csv

The tests of the operator run on that device first; nothing is timed if one fails. On a GPU: CUDA events, L2 flushed,
25 ms of warm-up, at least 100 ms measured, and the replay of a CUDA graph. On the CPU: all providers in turn in one
process, in random order, round after round. Whoever is wrong or fails is a row whose `error` says so. `gb_s`,
`tflop_s` and `roof_percent` count the least work that the answer takes, against rates measured on the device.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import time

import torch

from benchmarks.cases import OPERATORS
from benchmarks.kernels import rates, tests, tune
from benchmarks.kernels.measure import Setting, rows
from benchmarks.kernels.table import FIELDS, RESULTS, Table, stamp, text


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--op", choices=[*OPERATORS, "all"], default="all")
    made.add_argument("--out", type=pathlib.Path, required=True, help="a CSV file; with --op all a folder")
    made.add_argument("--device", default="cpu")
    made.add_argument("--tune", action="store_true", help="try tiles instead and propose entries for the configs.py")
    made.add_argument("--limit", type=float, default=float("inf"), help="seconds; what is not begun by then is said")
    made.add_argument("--no-tests", action="store_true", help="run no tests first; the CSV says so")
    made.add_argument("--tested", type=pathlib.Path, help="JUnit file of an earlier run of the tests, instead of one")
    made.add_argument("--full", action="store_true", help="compiled rivals at every shape, not at the chief ones alone")
    made.add_argument("--tiny", action="store_true", help="dry run: tiny shapes, one call each, every provider called")
    return made


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    options = parser().parse_args(arguments)
    if options.tiny and options.out.resolve().is_relative_to(RESULTS.resolve()):
        parser().error(f"--tiny measures nothing: choose an --out outside {RESULTS.name}/")
    if options.op == "all" and not options.tune and options.out.suffix == ".csv":
        parser().error(f"--op all writes one file per operator: pass a folder, not {options.out.name}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser().error(f"--device {device}: PyTorch sees no GPU here; --device cpu measures this machine's CPU")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if options.tune:
        return tune.main(device, options.out, options.limit, options.tiny)
    measured = rates.measure(device, options.tiny)
    setting = Setting(device, measured, options.tiny, begin + options.limit, options.full)
    for name in OPERATORS if options.op == "all" else [options.op]:
        verdict = "dry run: tiny shapes, not run" if options.tiny else tests.verdict(name, options)
        if verdict.startswith("failed"):
            print(f"{name}: {verdict}; nothing is timed")
            return 1
        op = OPERATORS[name]
        path = options.out if options.op != "all" else options.out / f"{name}.csv"
        print(f"{name}, {rates.device_name(device)}, tests {verdict}\n{text([])}", flush=True)
        with Table(path, FIELDS, stamp(device, verdict)) as table:
            cases = op.cases(device.type, options.tiny)
            for compiled, case in itertools.product((False, True), cases):  # whoever compiles may use up the limit
                for row in rows(op, case, setting, compiled):
                    table.add(row)
                    print(text([row]).splitlines()[1], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
