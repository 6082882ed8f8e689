"""Time and memory of every registered method, beside the loop over images that its paper's code runs.

    python -m benchmarks.compressors                                     # CPU: 576 and 2880 tokens, batch 1 and 8
    python -m benchmarks.compressors --tokens 10240 --batch 1            # a long video, or a very large picture
    python -m benchmarks.compressors --device cuda --dtype bfloat16

writes `benchmarks/results/compressors.csv`. The loops are written from the formulas (`benchmarks/published/`), without
batch axis, as published code runs them. Ours and theirs are called in turn on the same random tokens; `ratio` is the
median of theirs / ours, pair by pair. `choice_ratio`: the same of the greedy choice alone, on a matrix that both are
given (on the CPU); at d = 1024 the products behind it take longer than either. `same`: the share of images for which
both keep the same positions (near-ties and documented differences apart it is 1). `peak_mib`: how far a call raises the
process above what it held before. Batches of more than 2**27 pairs of tokens are timed without the loop.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tokscale
from benchmarks.kernels.table import Table
from benchmarks.published import choices, loop_of
from benchmarks.timing import peak_mib, seconds
from tokscale import _provenance
from tokscale.compressors.registry import compressor_class, keywords_of

HERE = pathlib.Path(__file__).parent
SQUARES = {576: (24, 24), 2880: (48, 60), 10240: (80, 128)}
CLIPS = {576: (4, 12, 12), 2880: (20, 12, 12), 10240: (40, 16, 16)}
VIDEO = ("evs", "vidcom2", "dycoke", "fastvid")
WIDTH = 1024
FIELDS = (
    "method", "tokens", "batch", "k", "peak_mib", "same", "ms_p20", "ms_p50", "ms_p80", "loop_ms_p50", "ratio",
    "choice_ms_p50", "choice_ratio", "error",
)  # fmt: skip
LONGEST = 60.0  # seconds: what takes longer over all repeats is called once
LOOP_PAIRS = 2**27  # pairs of tokens in a batch up to which the loops are run


def build(name: str, k: int, like: Tensor) -> Any:
    """Return a method of this name for `WIDTH` channels, on the device and in the dtype of `like`."""
    sizes = {"dim": WIDTH, "num_queries": k} if "dim" in keywords_of(compressor_class(name)) else {}
    accepted = {key: value for key, value in sizes.items() if key in keywords_of(compressor_class(name))}
    needed = {} if name in ("topk", "adaptive_pool") else accepted
    return tokscale.create_compressor(name, num_tokens=k, **needed).to(like.device, like.dtype).eval()


def context_of(module: Any, name: str, x: Tensor) -> dict[str, Any]:
    """Return random context of what a method reads."""
    b, n, d = x.shape
    draw = torch.Generator().manual_seed(1)
    made: dict[str, Callable[[], Any]] = {
        "text": lambda: torch.randn(b, 20, d, generator=draw).to(x),
        "importance": lambda: torch.rand(b, n, generator=draw).to(x.device),
        "shallow_importance": lambda: torch.rand(b, n, generator=draw).to(x.device),
        "keys": lambda: torch.randn(b, n, 64, generator=draw).to(x),
        "grid": lambda: CLIPS[n] if name in VIDEO else SQUARES[n],
    }
    reads = {*module.needs, *module.uses} - {"aligned"}
    return {"text_tokens" if key == "text" else key: made[key]() for key in made if key in reads}


def loop(name: str, x: Tensor, k: int, context: dict[str, Any]) -> Callable[[], list[Tensor]] | None:
    """Return a call of the published loop over the images of a batch, or None where there is none."""
    one = loop_of(name)
    if one is None or len(x) * x.shape[1] ** 2 > LOOP_PAIRS:
        return None
    names = {"text_tokens": "text", "grid": "clip" if name in VIDEO else "grid"}

    def run() -> list[Tensor]:
        kept = []
        for i in range(len(x)):
            own = {names.get(key, key): value[i] if torch.is_tensor(value) else value for key, value in context.items()}
            kept.append(one(x[i], k, **own)[0])
        return kept

    return run


def measure(name: str, x: Tensor, k: int, repeats: int) -> dict[str, Any]:
    """Return the row of one method at one size."""
    module = build(name, k, x)
    context = context_of(module, name, x)
    theirs = loop(name, x, k, context)

    kept: dict[str, Any] = {}

    def ours() -> None:
        kept["ours"] = module.compress(x, **context).positions

    def loops() -> None:
        kept["theirs"] = theirs() if theirs is not None else []

    with torch.inference_mode():
        begin = time.perf_counter()
        memory = peak_mib(ours, x.device)
        times = {"ours": [time.perf_counter() - begin], "theirs": [seconds(loops, x.device)]}
        row: dict[str, Any] = {"method": name, "tokens": x.shape[1], "batch": len(x), "k": k, "peak_mib": memory}
        if theirs is not None:
            equal = [torch.equal(mine, other.to(mine.device)) for mine, other in zip(kept["ours"], kept["theirs"])]
            row["same"] = sum(equal) / len(equal)
        again = repeats if times["ours"][0] + times["theirs"][0] < LONGEST / repeats else 0
        if again:  # else the first calls are the only ones
            rounds = [(seconds(ours, x.device), seconds(loops, x.device)) for _ in range(again)]
            times = {who: list(each) for who, each in zip(times, zip(*rounds))}
    low, mid, high = np.percentile(times["ours"], [20, 50, 80])
    row |= {"ms_p20": 1e3 * low, "ms_p50": 1e3 * mid, "ms_p80": 1e3 * high}
    if theirs is not None:
        row["loop_ms_p50"] = 1e3 * float(np.median(times["theirs"]))
        row["ratio"] = float(np.median(np.array(times["theirs"]) / times["ours"]))
        greedy = choices(name, x, k, context) if x.device.type == "cpu" else None
        if greedy is not None:
            pairs = [[seconds(call, x.device) for call in greedy] for _ in range(max(1, again))]
            row["choice_ms_p50"] = 1e3 * float(np.median([mine for mine, _ in pairs]))
            row["choice_ratio"] = float(np.median([other / mine for mine, other in pairs]))
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text."""
    columns = {"ms_p50": 10, "loop_ms_p50": 12, "ratio": 8, "choice_ratio": 13, "same": 6, "peak_mib": 10}
    lines = [f"{'method':<18}{'tokens':>7}{'batch':>6}" + "".join(f"{name:>{w}}" for name, w in columns.items())]
    for row in rows:
        numbers = "".join(f"{row.get(name, math.nan):>{w}.2f}" for name, w in columns.items())
        failed = f"  {row['error']}" if row.get("error") else ""
        lines.append(f"{row['method']:<18}{row['tokens']:>7}{row['batch']:>6}{numbers}{failed}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[576, 2880], choices=list(SQUARES))
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="methods")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tiny", action="store_true", help="dry run: one call each, and the rows say so")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results" / "compressors.csv")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    if options.tiny:
        options.repeats, where = 1, f"dry run, {where}"
    stamp = {"device": where, "dtype": options.dtype, **_provenance.versions(), "commit": _provenance.commit()}
    stamp["started"] = _provenance.now()
    with Table(options.out, [*FIELDS, *stamp], stamp) as rows:
        for n in options.tokens:
            for batch in options.batch:
                x = torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(0)).to(device, dtype)
                for name in options.only or tokscale.list_compressors():
                    try:
                        row = measure(name, x, options.k, options.repeats)
                    except Exception as error:  # one method that fails here takes no other with it
                        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                        row = {"method": name, "tokens": n, "batch": batch, "k": options.k, "error": reason}
                    rows.add(row)
                    print(table(rows.rows[-1:]).splitlines()[1], flush=True)
    print(f"\n{where}, {options.dtype}, d = {WIDTH}, k = {options.k}\n{table(rows.rows)}")
    return int(any("error" in row for row in rows.rows))


if __name__ == "__main__":
    raise SystemExit(main())
