"""Where the rows of a sweep go: memory, or a CSV file that survives an interruption; alone or as one of many ranks."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .._files import writable
from ..errors import InputError
from .plan import Cell
from .resume import refuse_other_settings, story
from .table import Row, SweepResult, append_rows, read_rows, show, write_rows

_KEY = ("model", "revision", "compressor", "arguments", "num_tokens", "task", "seed", "run")


class Store:
    """The rows that are there, the cells still to do, and the line of progress.

    Args:
        out: the file of the whole table, or None for memory only.
        cells: the plan.
        facts: the columns that are known before anything runs.
        resume: go on with files that are there, else refuse them.
        progress: show a bar and a line per cell on stderr (rank 0 only).
    """

    def __init__(
        self,
        out: str | Path | None,
        cells: Sequence[Cell],
        facts: Mapping[str, Any] | None = None,
        *,
        resume: bool,
        progress: bool,
    ) -> None:
        self.rank, self.world = _rank_and_world()
        self.out = None if out is None else writable(out)
        self.cells, self.facts = list(cells), dict(facts or {})
        self.rows: list[Row] = []
        self.progress = progress and self.rank == 0
        self._bar: Any = None
        self._clock = time.perf_counter()
        self._done = 0
        if self.world > 1:  # the long cells first, so that the ranks end together
            cells = sorted(cells, key=lambda cell: -float("inf") if cell.budget is None else -cell.budget)
        mine = list(cells)[self.rank :: self.world]
        self.file = self.out
        if self.out is not None and self.world > 1:
            self.file = self._rank_file(self.rank)
        finished = self._open(mine, resume)
        self._todo = [cell for cell in mine if cell.run not in finished]

    def __enter__(self) -> Store:
        if self.progress:
            from tqdm import tqdm

            self._bar = tqdm(total=len(self._todo), unit="cell", disable=None, leave=False, file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if kind is KeyboardInterrupt:
            self._say(self._interrupted())

    def todo(self) -> Iterator[Cell]:
        """The cells of this rank that no file holds yet."""
        yield from self._todo

    def add(self, cell: Cell, rows: Sequence[Row]) -> None:
        """Take the rows of a finished cell; they are on the disk when this returns."""
        self.rows += rows
        if self.file is not None:
            append_rows(self.file, rows)
        self._done += 1
        if self.progress:
            self._say(f"[{self._done}/{len(self._todo)}] {cell.title}: {_outcome(rows)} ({self._left()})")
            self._bar.update()

    def result(self) -> SweepResult:
        """Return the whole table: that of the file, or of all ranks together."""
        if self.world == 1:
            return SweepResult(self.rows)
        import torch.distributed as dist

        self._join()
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, self.rows)  # also the barrier: every rank has written its file
        rows = sorted(_unique(row for part in gathered for row in part), key=_sort_key)
        if self.out is not None and self.rank == 0:
            write_rows(self.out, rows)
            for path in self._rank_files():
                path.unlink()
        dist.barrier()
        return SweepResult(rows)

    def _open(self, mine: Sequence[Cell], resume: bool) -> set[str]:
        """Read what is there, leave the file ready for appending, and return the runs that are finished."""
        if self.out is None or self.file is None:
            return set()
        there = [path for path in (self.out, *self._rank_files()) if path.exists()]
        if there and not resume:
            raise InputError(f"{there[0]} exists; pass resume=True to go on with it, or another out=")
        tables = {path: self._whole(path) for path in there}
        everything = list(_unique(row for rows in tables.values() for row in rows))
        for path, rows in tables.items():
            refuse_other_settings(path, rows, self.facts)
        finished = {row["run"] for row in everything if row["status"] in ("ok", "skipped")}
        again = {cell.run for cell in mine} - finished
        self.rows = [row for row in everything if row["run"] not in again]
        if self.world > 1:  # the whole table is another file: here only what this rank had written
            own = [row for row in tables.get(self.file, []) if row["run"] not in again]
            self.rows = own if self.rank else self.rows
            write_rows(self.file, own)
        else:
            write_rows(self.file, self.rows)
        if everything and self.rank == 0:
            self._say(story(self.out, everything, self.cells, finished))
        return finished

    def _whole(self, path: Path) -> list[Row]:
        rows, torn = read_rows(path)
        if torn:
            run = [*torn.split(","), ""][1]
            while run and rows and rows[-1]["run"].startswith(run):  # other tasks of the cell that was cut off
                rows.pop()
            self._say(f"{path}: the last line was torn by an interruption and is dropped; its cell runs again")
        return rows

    def _rank_file(self, rank: int | str) -> Path:
        out = Path(self.out or "")
        return out.with_name(f"{out.stem}.rank{rank}{out.suffix}")

    def _rank_files(self) -> list[Path]:
        if self.out is None or self.world == 1:
            return []
        return sorted(self.out.parent.glob(self._rank_file("[0-9]*").name))

    def _join(self) -> None:
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            # A rank that is done waits for the slowest: for hours, not for the half hour of the default.
            dist.init_process_group(backend, timeout=datetime.timedelta(days=7))

    def _interrupted(self) -> str:
        there = f"{self._done} of {len(self._todo)} cells were finished"
        if self.file is None:
            return f"interrupted: {there}; with an out file the next run would go on from them"
        return f"interrupted: {there} and are in {self.file}; run the same sweep again to go on"

    def _left(self) -> str:
        spent = time.perf_counter() - self._clock
        return f"{_duration(spent / self._done * (len(self._todo) - self._done))} left"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)


def _outcome(rows: Sequence[Row]) -> str:
    said = []
    for row in rows:
        task = f"{row['task']} " if row["task"] and len(rows) > 1 else ""
        said.append(
            f"{task}{row['status']}: {row['error']}" if row["status"] != "ok" else f"{task}score {show(row['score'])}"
        )
    return ", ".join(said)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _unique(rows: Any) -> Iterator[Row]:
    """Each (run, task) once; a finished row wins over a failed one of the same run."""
    rows = list(rows)
    finished = {row["run"] for row in rows if row["status"] in ("ok", "skipped")}
    seen: set[tuple[Any, Any]] = set()
    for row in rows:
        key = (row["run"], row["task"])
        if key not in seen and not (row["status"] == "failed" and row["run"] in finished):
            seen.add(key)
            yield row


def _sort_key(row: Row) -> tuple[Any, ...]:
    return tuple((row[c] is not None, row[c] if row[c] is not None else "") for c in _KEY)


def _rank_and_world() -> tuple[int, int]:
    """Return what the launcher set; asking the accelerator library would say one process on a machine without GPUs."""
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdigit() and world.isdigit() and int(rank) < int(world)):
        raise InputError(f"RANK={rank} and WORLD_SIZE={world} are not a rank and a number of processes")
    return int(rank), int(world)
