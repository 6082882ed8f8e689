"""Tiles tried one against the other on a GPU, and what they propose for the tables in `configs.py`.

The tables stay what they are: a candidate is put in place of the table's answer for the time of a call. Times are those
of a CUDA graph's replays: at these sizes a single call takes the CPU longer than the GPU.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import timing
from tokscale import ops

from .case import EPS
from .table import Table, stamp

FIELDS = (
    "kernel", "shape", "platform", "block_d", "row_block", "rows", "keys", "warps", "stages", "current", "ms_p20",
    "ms_p50", "ms_p80", "ratio", "error", "device", "sm", "torch", "triton", "transformers", "commit", "date",
    "tests",
)  # fmt: skip
WORTH = 1.03  # a proposal is at least so many times faster
Tile = tuple[int, int, int, int]  # rows, keys, warps, stages


class Shape(NamedTuple):
    """b samples, h heads, m rows, n keys, head size d."""

    b: int
    h: int
    m: int
    n: int
    d: int


class Kernel(NamedTuple):
    """A kernel, the table that chooses its tile (a name in a `triton_path` module), what is called, and candidates."""

    name: str
    module: str
    table: str
    call: Callable[[dict[str, Tensor]], Sequence[Tensor]]
    shapes: tuple[Shape, ...]
    tiles: tuple[Tile, ...]  # rows 0: the row block of the shape


FUSER = (Shape(8, 16, 64, 2880, 64), Shape(8, 16, 16, 576, 64), Shape(8, 16, 64, 729, 72), Shape(8, 8, 64, 2880, 128))
TOWER = (
    Shape(8, 16, 2880, 2880, 64),
    Shape(8, 16, 577, 577, 64),
    Shape(8, 16, 729, 729, 72),
    Shape(1, 16, 2880, 2880, 80),
)
BOTH = (*FUSER[:3], TOWER[1], TOWER[3])
TINY = (Shape(1, 2, 17, 33, 16),)
WIDE = (
    *((0, 64, 4, 2), (0, 64, 4, 3), (0, 64, 8, 2), (0, 128, 4, 2), (0, 128, 4, 3), (0, 128, 8, 2), (0, 128, 8, 3)),
    *((0, 32, 4, 3), (64, 64, 4, 3), (64, 128, 4, 2), (64, 128, 8, 2)),
)  # fmt: skip
TALL = (
    *((16, 64, 4, 1), (32, 64, 4, 1), (32, 64, 8, 1), (32, 64, 4, 2), (64, 64, 8, 1), (64, 64, 4, 1), (32, 128, 8, 1)),
    *((64, 128, 8, 1),),
)  # fmt: skip
SAMPLE_MS = 40.0


def forward(x: dict[str, Tensor]) -> Sequence[Tensor]:
    return (ops.fusion_attention(x["q"], x["k"], x["v"], backend="triton").out,)


def row_lse(x: dict[str, Tensor]) -> Sequence[Tensor]:
    return (_importance().log_sum_exp(_scores(x)),)


def column_sum(x: dict[str, Tensor]) -> Sequence[Tensor]:
    return (ops.attention_importance(x["q"], x["k"], lse=x["lse"], backend="triton"),)


def key_gradient(x: dict[str, Tensor]) -> Sequence[Tensor]:
    """dK and dV of an output, by the launch itself: a backward would time its neighbours too."""
    return _backward().key_gradient(_scores(x), _cotangents(x))


def query_gradient(x: dict[str, Tensor]) -> Sequence[Tensor]:
    return _backward().query_gradient(_scores(x), _cotangents(x))[:1]


def _scores(x: dict[str, Tensor]) -> Any:
    from tokscale.ops._scores import Scores

    return Scores(x["q"], x["k"], x["q"].shape[-1] ** -0.5)


def _cotangents(x: dict[str, Tensor]) -> Any:
    return _backward().Cotangents(x["lse"], None, x["v"], x["q"], torch.zeros_like(x["lse"]))


def _importance() -> Any:
    from tokscale.ops.attention_importance import triton_path

    return triton_path


def _backward() -> Any:
    from tokscale.ops.attention_backward import triton_path

    return triton_path


KERNELS = (
    Kernel("fusion forward", "fusion_attention", "forward_tile", forward, (*FUSER, TOWER[3]), WIDE),
    Kernel("row sum", "attention_importance", "row_tile", row_lse, TOWER, WIDE),
    Kernel("column sum", "attention_importance", "column_tile", column_sum, TOWER, WIDE),
    Kernel("key gradient", "attention_backward", "key_tile", key_gradient, BOTH, TALL),
    Kernel("query gradient", "attention_backward", "query_tile", query_gradient, BOTH, WIDE),
)


def _path(kernel: Kernel) -> Any:
    return __import__(f"tokscale.ops.{kernel.module}.triton_path", fromlist=["triton_path"])


@contextlib.contextmanager
def using(kernel: Kernel, tile: Tile) -> Iterator[None]:
    """Within it, the launches of this kernel take this tile."""
    from tokscale.ops.attention_importance.configs import Tile as Entry

    path, entry = _path(kernel), Entry(*tile)
    table = getattr(path, kernel.table)
    setattr(path, kernel.table, lambda *_: entry)
    try:
        yield
    finally:
        setattr(path, kernel.table, table)


def inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random q, k, v and the log-sum-exp of the rows."""
    b, h, m, n, d = shape
    torch.manual_seed(0)
    q, k, v = (torch.randn(b, x, h, d, device=device).to(dtype).transpose(1, 2) for x in (m, n, n))
    lse = ops.fusion_attention(q, k, v, return_lse=True, backend="triton").lse
    assert lse is not None
    return {"q": q, "k": k, "v": v, "lse": lse}


def key_of(kernel: Kernel, shape: Shape, device: torch.device) -> tuple[str, int, int]:
    """What the table is asked for: platform, padded head size, row block."""
    from tokscale.ops import _triton

    return _triton.platform(device), _triton.block_d(shape.d), _triton.row_block(shape.m)


def candidates(kernel: Kernel, shape: Shape, device: torch.device, tiny: bool) -> list[Tile]:
    """The tile of the table first, then the others."""
    key = key_of(kernel, shape, device)
    current = tuple(getattr(_path(kernel), kernel.table)(*key))
    others = [(rows or key[2], *rest) for rows, *rest in kernel.tiles]
    found = list(dict.fromkeys([current, *(tile for tile in others if tile[0] <= key[2])]))
    return found[:2] if tiny else found


def _compile(place: int, shape: Shape, tile: Tile, device: torch.device) -> None:
    """Leave a compiled kernel in triton's cache; what fails here fails again, and is reported, where it is timed."""
    b, h, m, n, d = shape
    torch.set_num_threads(1)
    q, k, v = (torch.zeros(b, x, h, d, device=device, dtype=torch.bfloat16).transpose(1, 2) for x in (m, n, n))
    with contextlib.suppress(Exception), using(KERNELS[place], tile):
        KERNELS[place].call({"q": q, "k": k, "v": v, "lse": torch.zeros(b, h, m, device=device)})


def compile_ahead(jobs: Sequence[tuple[int, Shape, Tile]], device: torch.device, seconds: float) -> None:
    """Compile all candidates on all cores: one after the other they would take longer than their measurement."""
    workers = max(1, min(12, (os.cpu_count() or 2) - 2, len(jobs)))
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    waiting = [pool.submit(_compile, *job, device) for job in jobs]
    concurrent.futures.wait(waiting, timeout=seconds)
    pool.shutdown(wait=False, cancel_futures=True)


def measure(
    kernel: Kernel, shape: Shape, tile: Tile, x: dict[str, Tensor], want: Sequence[Tensor] | None
) -> tuple[dict[str, Any], Sequence[Tensor] | None]:
    """Times of one tile, or why there are none, and its result."""
    q = x["q"]
    try:
        with using(kernel, tile):
            got = kernel.call(x)
            if want is not None:
                off = max(
                    float((a.double() - w.double()).abs().max() / w.double().abs().max()) for a, w in zip(got, want)
                )
                if not off <= 2 * EPS[q.dtype]:
                    return {"error": f"wrong: off by {off:.1e} from the tile of the table"}, None
            if q.device.type == "cuda":
                replayed = timing.Gpu(q.device).replayed(lambda: kernel.call(x), SAMPLE_MS)
                if replayed is None:
                    return {"error": "failed: no CUDA graph of it"}, None
                times = replayed
            else:
                times = timing.in_turn({"": lambda: kernel.call(x)}, 0.0, 1)[""]
    except Exception as error:
        return {"error": f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}"}, None
    return {"ms_p20": times.p20, "ms_p50": times.p50, "ms_p80": times.p80, "error": ""}, got


def main(device: torch.device, out: pathlib.Path, limit: float, tiny: bool) -> int:
    """Measure all candidates, write the file, print the proposals."""
    if device.type != "cuda" and not tiny:
        print(f"--tune: tiles are measured on a GPU; the device is {device}. Pass --device cuda on a machine with one.")
        return 2
    end = time.monotonic() + limit
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    jobs = [
        (place, shape, tile)
        for place, kernel in enumerate(KERNELS)
        for shape in (TINY if tiny else kernel.shapes)
        for tile in candidates(kernel, shape, device, tiny)
    ]
    if device.type == "cuda":
        compile_ahead(jobs, device, 0.6 * limit if math.isfinite(limit) else 1e6)
    with Table(out, FIELDS, stamp(device, "dry run: tiny shapes, not run" if tiny else "not run")) as table:
        last: tuple[int, Shape] | None = None
        for place, shape, tile in jobs:
            kernel, (platform, block_d, row_block) = KERNELS[place], key_of(KERNELS[place], shape, device)
            if (place, shape) != last:
                x, want, base = inputs(shape, device, dtype), None, math.nan
            if time.monotonic() > end:
                found: dict[str, Any] = {"error": "not run: time limit"}
            else:
                found, got = measure(kernel, shape, tile, x, want)
                if (place, shape) != last:
                    want, base = got, found.get("ms_p50", math.nan)
            row = {
                "kernel": kernel.name,
                "shape": " ".join(f"{name}{size}" for name, size in shape._asdict().items()),
                "platform": platform,
                "block_d": block_d,
                "row_block": row_block,
                **dict(zip(("rows", "keys", "warps", "stages"), tile)),
                "current": (place, shape) != last,
                **found,
                "ratio": base / found["ms_p50"] if "ms_p50" in found else "",
            }
            last = place, shape
            table.add(row)
        print("\n".join(proposals(table.rows)))
    return 0


def proposals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines: for each entry of a table the tile that is fastest by the geometric mean over its shapes."""
    lines = []
    for kernel in KERNELS:
        own = [row for row in rows if row["kernel"] == kernel.name and isinstance(row["ratio"], float)]
        for entry in dict.fromkeys((r["platform"], r["block_d"], r["row_block"]) for r in own):
            here = [r for r in own if (r["platform"], r["block_d"], r["row_block"]) == entry]
            shapes = {row["shape"] for row in here}
            ratios: dict[Tile, list[float]] = {}
            for row in here:
                ratios.setdefault((row["rows"], row["keys"], row["warps"], row["stages"]), []).append(row["ratio"])
            means = {
                tile: math.exp(sum(map(math.log, found)) / len(found))
                for tile, found in ratios.items()
                if len(found) == len(shapes) and all(math.isfinite(r) for r in found)
            }
            if not means:
                continue
            best = max(means, key=lambda tile: means[tile])
            said = f"Tile{best}: {means[best]:.2f} times as fast" if means[best] >= WORTH else "stays as it is"
            lines.append(f"{kernel.table}{entry} -> {said}")
    return lines
