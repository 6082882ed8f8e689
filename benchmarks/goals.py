"""What was aimed at and what was measured: met, missed, incomplete (met, but some rival was not run), or not run.

    python -m benchmarks.goals                                  # all of benchmarks/results/
    python -m benchmarks.goals benchmarks/results/gpu --out benchmarks/results/gpu/goals.csv

Every goal is a ratio or a bound of rows in one file of one run, its own rival beside it; nothing is measured here.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.kernels.table import RESULTS, Table, number, read

Row = dict[str, str]
FIELDS = (
    "goal", "case", "aim", "measured", "verdict", "device", "tests", "file",
)  # fmt: skip


class Goal(NamedTuple):
    """`measured` reads the rows of one case in one file, and is None where one that it needs has no number."""

    op: str
    name: str
    aim: float
    least: bool  # the measured figure is to be at least the aim, or else at most
    applies: Callable[[Row], bool]
    measured: Callable[[Sequence[Row]], float | None]
    gpu: bool = True
    mode: str = "fwd"
    rivals: tuple[str, ...] = ()  # none of which may be left unmeasured where the goal is said to be met


def value(rows: Sequence[Row], provider: str, field: str = "ms_p50", mode: str = "fwd") -> float | None:
    """Return a number of one provider's row."""
    return next((number(row, field) for row in rows if (row["provider"], row["mode"]) == (provider, mode)), None)


def lowest(rows: Sequence[Row], providers: Sequence[str], field: str = "ms_p50", mode: str = "fwd") -> float | None:
    """Return the least number of several providers."""
    found = [value(rows, provider, field, mode) for provider in providers]
    return min((number for number in found if number is not None), default=None)


def ratio(theirs: Sequence[str], ours: Sequence[str], field: str = "ms_p50", mode: str = "fwd") -> Callable:
    """How many times more theirs takes than ours, the better of each."""

    def measured(rows: Sequence[Row]) -> float | None:
        one, other = lowest(rows, theirs, field, mode), lowest(rows, ours, field, mode)
        return None if one is None or not other else one / other

    return measured


def both(
    op: str,
    name: str,
    aim: float,
    applies: Callable[[Row], bool],
    theirs: Sequence[str],
    ours: Sequence[str],
    mode: str = "fwd",
) -> tuple[Goal, Goal]:
    """The same ratio of single calls, in which the CPU may take longer than the GPU, and of CUDA graphs' replays."""
    times = {name: "ms_p50", f"{name}, graph": "graph_ms"}
    return tuple(  # type: ignore[return-value]
        Goal(op, each, aim, True, applies, ratio(theirs, ours, field, mode), mode=mode, rivals=tuple(theirs))
        for each, field in times.items()
    )


def is_(**cells: int) -> Callable[[Row], bool]:
    """Whether the cells of a row are these numbers."""
    return lambda row: all(number(row, name) == cell for name, cell in cells.items())


TRITON, TORCH = ("triton",), ("torch",)
BEST = tuple(f"sdpa best case, {backend}" for backend in ("flash", "efficient", "cudnn"))
WRITTEN = ("sdpa, cat and mask", "sdpa, cat and mask, compiled")
PROJECTED = ("projections, cat, sdpa", "projections, cat, sdpa, compiled")
FOLDED = ("torch, folded", "auto")
UNMASKED = ("triton, no mask",)  # as the best case of SDPA, which is given no mask and keys that lie together
BOTH = "fwd+bwd"
LONG = is_(b=8, n=2880, m=2880, d=64)


def many(row: Row) -> bool:
    return (number(row, "b") or 0) >= 8 and (number(row, "m") or 99) <= 64


def few(row: Row) -> bool:
    return (number(row, "m") or 99) <= 16


GOALS = (
    Goal("importance", "all rows, lse given, ms", 0.45, False, LONG, lambda r: value(r, "triton, lse given")),
    Goal("importance", "x eager, time", 10, True, LONG, ratio(["eager"], ["triton, lse given"])),
    Goal("importance", "x eager, memory", 30, True, LONG, ratio(["eager"], TRITON, "peak_mib")),
    Goal("importance", "error at 577", 1e-3, False, is_(b=8, n=577, d=64), lambda r: value(r, "triton", "error")),
    Goal("importance", "error at d 128", 1e-3, False, is_(b=8, d=128), lambda r: value(r, "triton", "error")),
    Goal(
        "importance",
        "out + importance, x attention alone",
        2.2,
        False,
        LONG,
        ratio(["triton, out too"], ["sdpa alone"]),
    ),
    Goal("fusion", "bytes, share of the copy rate", 0.7, True, many, lambda r: _share(r, *UNMASKED)),
    Goal("fusion", "bytes, share of the copy rate, graph", 0.7, True, many, lambda r: _share(r, *UNMASKED, "graph_ms")),
    *both("fusion", "x SDPA with cat and mask", 1.8, many, WRITTEN, TRITON),
    *both("fusion", "x SDPA best case", 0.9, many, BEST, UNMASKED),
    Goal("fusion", "one sample, x SDPA best case, graph", 0.9, True, is_(b=1), ratio(BEST, UNMASKED, "graph_ms")),
    *both("fusion", "fwd + bwd, x SDPA without cat", 1.0, many, BEST, UNMASKED, BOTH),
    *both("fusion", "fwd + bwd, x SDPA with cat", 1.5, many, WRITTEN, TRITON, BOTH),
    *both("folded", "x projections, cat, SDPA", 2.5, is_(b=8, m=16), PROJECTED, FOLDED),
    *both("folded", "x projections, cat, SDPA", 1.5, is_(b=8, m=32), PROJECTED, FOLDED),
    Goal("folded", "x projections, cat, SDPA", 1.9, True, few, ratio(PROJECTED, FOLDED), gpu=False),
    Goal("greedy", "x published loop", 10, True, is_(b=1), ratio(["published loop"], TRITON)),
    Goal("greedy", "x published loop", 50, True, is_(b=8), ratio(["published loop"], TRITON)),
    Goal("greedy", "x published loop", 3, True, lambda row: True, ratio(["published loop"], TORCH), gpu=False),
    *both("topk", "x topk, sort, gather", 3, lambda row: True, ["topk, sort, gather"], TRITON),
)


def _share(rows: Sequence[Row], provider: str, field: str = "ms_p50") -> float | None:
    """Bytes per second over the copy rate: the roof of a call that is bound by memory."""
    percent, call, time = (value(rows, provider, name) for name in ("roof_percent", "ms_p50", field))
    return None if percent is None or call is None or not time else percent / 100 * call / time


def judge(files: Sequence[pathlib.Path]) -> list[Row]:
    """Return a row per goal and case; a goal that no file has rows for is not run."""
    found: list[Row] = []
    tables = [(path, rows) for path in files if (rows := read(path)) and "provider" in rows[0]]
    for goal in GOALS:
        lines: list[Row] = []
        for path, rows in tables:
            own = [row for row in rows if row["op"] == goal.op and row["device"].startswith("cpu") != goal.gpu]
            wanted = [row for row in own if row["mode"] == goal.mode and goal.applies(row)]
            for case in dict.fromkeys(_case(row) for row in wanted):
                same = [row for row in own if _case(row) == case]
                measured = goal.measured(same)
                verdict = "not run" if "dry run" in same[0]["tests"] else _verdict(goal, measured)
                late = [row for row in wanted if row["provider"] in goal.rivals and row["error"].startswith("not run")]
                if verdict == "met" and any(_case(row) == case for row in late):
                    verdict = "incomplete"
                sizes = ", ".join(f"{name} {size}" for name, size in zip("bnmk", case[1:5]) if size)
                lines.append(_line(goal, f"{case[0]}: {sizes}", measured, verdict, same[0], path))
        found += lines or [_line(goal, "", None, "not run", {}, None)]
    return found


def _case(row: Row) -> tuple[str, ...]:
    return (row["case"], *(row[size] for size in "bnmk"), row["dtype"])


def _verdict(goal: Goal, measured: float | None) -> str:
    if measured is None:
        return "not run"
    return "met" if (measured >= goal.aim if goal.least else measured <= goal.aim) else "missed"


def _line(goal: Goal, case: str, measured: float | None, verdict: str, row: Row, path: pathlib.Path | None) -> Row:
    aim = f"{'>=' if goal.least else '<='} {goal.aim:g}"
    where = "GPU" if goal.gpu else "CPU"
    return {
        "goal": f"{where}, {goal.op}: {goal.name}",
        "case": case,
        "aim": aim,
        "measured": "" if measured is None else f"{measured:.3g}",
        "verdict": verdict,
        "device": row.get("device", ""),
        "tests": row.get("tests", ""),
        "file": "" if path is None else path.name,
    }


def text(lines: Sequence[Row]) -> str:
    """Return the goals for a reader, with their counts."""
    shown = [f"{'goal':<56}{'case':<46}{'aim':>9}{'measured':>10}  verdict"]
    shown += [f"{x['goal']:<56}{x['case']:<46}{x['aim']:>9}{x['measured']:>10}  {x['verdict']}" for x in lines]
    counts = ", ".join(
        f"{sum(x['verdict'] == word for x in lines)} {word}" for word in ("met", "missed", "incomplete", "not run")
    )
    dry = " Dry run: these numbers mean nothing." if any("dry run" in x["tests"] for x in lines) else ""
    return "\n".join([*shown, f"{counts}.{dry}"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, nargs="?", default=RESULTS)
    parser.add_argument("--out", type=pathlib.Path, help="a CSV file of the table")
    options = parser.parse_args(arguments)
    lines = judge(sorted(options.folder.rglob("*.csv")))
    if options.out is not None:
        with Table(options.out, FIELDS, {}) as table:
            for line in lines:
                table.add(line)
    print(text(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
