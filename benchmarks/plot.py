"""Pictures of the kernel benchmarks: roofline, speed-up against the best baseline, cost against n.

    python -m benchmarks.plot                                    # every folder of benchmarks/results/
    python -m benchmarks.plot benchmarks/results/gpu --out benchmarks/results/gpu

reads the CSV files that `benchmarks.run` wrote and draws for each device `roofline-*.png`, `speedup-*.png` and
`cost-*.png`. A bar is the time of the fastest baseline of that case over ours: never a slow baseline alone.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.cases import OPERATORS
from benchmarks.kernels.table import RESULTS, number, read
from tokscale.plotting._common import COLORS, GREY, MARKERS, legend_below, new_figure, tidy

Row = dict[str, str]
SIZES = ("case", "dtype", "b", "n", "m", "t", "h", "g", "d", "k", "mode")


def ours(row: Row) -> bool:
    """Whether a row is of one of this library's backends."""
    return any(p.ours and p.name == row["provider"] for p in OPERATORS[row["op"]].providers)


def given(row: Row) -> str:
    """What the provider of a row is handed ready-made."""
    return next(p.given for p in OPERATORS[row["op"]].providers if p.name == row["provider"])


def answers(row: Row) -> tuple[str, ...]:
    """What the provider of a row computes."""
    return next(p.answers for p in OPERATORS[row["op"]].providers if p.name == row["provider"])


def grouped(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of each case and mode."""
    keys = dict.fromkeys((row["op"], *(row[name] for name in SIZES)) for row in rows)
    for key in keys:
        yield [row for row in rows if (row["op"], *(row[name] for name in SIZES)) == key]


def label(row: Row) -> str:
    """A case in few words."""
    sizes = ", ".join(
        f"{name} {row[name]}" for name in "bnmk" if row[name] and not (name == "m" and row["m"] == row["n"])
    )
    mode = "" if row["mode"] == "fwd" else f", {row['mode']}"
    kind = "" if row["dtype"] == "float32" else f", {row['dtype']}"
    return f"{row['op']}, {row['case']}: {sizes}{kind}{mode}"


def device_of(rows: Sequence[Row]) -> str:
    dry = ", dry run: no measurement" if any("dry run" in row["tests"] for row in rows) else ""
    return f"{rows[0]['device']}, torch {rows[0]['torch']}{dry}"


def against_best(rows: Sequence[Row], field: str = "ms_p50") -> Iterator[tuple[str, float, str, str]]:
    """(what, best baseline's time over ours, ours, that baseline) of one case, once for each answer that both give."""
    timed = [row for row in rows if number(row, field) and not given(row)]
    for wanted in dict.fromkeys(answers(row) for row in timed if ours(row)):
        fastest = []
        for own in (True, False):
            same = [row for row in timed if answers(row) == wanted and ours(row) == own]
            fastest.append(min(same, key=lambda row: float(row[field]), default=None))
        mine, best = fastest
        if mine is not None and best is not None:
            what = f"{label(mine)}{', + importance' if len(wanted) > 1 and wanted[-1] == 'importance' else ''}"
            yield what, float(best[field]) / float(mine[field]), mine["provider"], best["provider"]


def speedup(rows: Sequence[Row], facts: Row) -> Any:
    """Return a figure of bars: how many times faster the best of ours is than the best baseline, by case and answer.

    A diamond is the same of CUDA graphs' replays, what the GPU takes without the CPU; the best of either may be others.
    """
    bars = [(group[0]["op"], *found) for group in grouped(rows) for found in against_best(group)]
    replayed = {what: found for group in grouped(rows) for what, *found in against_best(group, "graph_ms")}
    figure = new_figure("benchmarks.plot", width=11.5, height=1.2 + 0.25 * len(bars))
    ax, names = figure.add_subplot(), list(OPERATORS)
    for place, (op, what, ratio, mine, best) in enumerate(bars):
        ax.barh(place, ratio - 1, left=1, color=COLORS[names.index(op) % len(COLORS)], height=0.7)
        said = f"  {ratio:.2f}  {mine} / {best}"
        ends = [ratio, 1.0]
        if (graph := replayed.get(what)) is not None:
            ax.plot(graph[0], place, marker="D", color="black", markersize=3.5)
            ends.append(graph[0])
            pair = "the same" if graph[1:] == [mine, best] else f"{graph[1]} / {graph[2]}"
            said += f"; graph {graph[0]:.2f}  {pair}"
        ax.text(max(ends), place, said, va="center", fontsize=6)
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(bars)), [bar[1] for bar in bars], fontsize=7)
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ratios = [*(bar[2] for bar in bars), *(found[0] for found in replayed.values())] or [1.0]
    ax.set_xscale("log")
    ax.set_xlim(min(0.8, 0.9 * min(ratios)), 300 * max(ratios))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if ax.get_xlim()[0] <= tick <= max(ratios)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7)
    ax.xaxis.minorticks_off()
    graphs = "; diamonds: CUDA graphs" if replayed else ""
    ax.set_xlabel(f"time of the fastest baseline / ours: right of 1 ours is faster{graphs}", fontsize=8)
    ax.set_title(device_of(rows), fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def family(row: Row) -> tuple[str, ...]:
    """What must be one for two rows to differ in n alone, but for heads, their size and samples."""
    rows_too = "all" if row["m"] == row["n"] else row["m"]
    variant = (
        row["case"].rpartition(", ")[2] if row["op"] == "greedy" else row["k"] if row["op"] == "importance" else ""
    )
    return row["dtype"], rows_too, variant


def cost(rows: Sequence[Row], facts: Row) -> Any:
    """Return a figure of milliseconds per image and head against n: by operator, the family with the most sizes."""
    panels: list[tuple[str, list[Row]]] = []
    for op in OPERATORS:
        own = [row for row in rows if row["op"] == op and row["mode"] == "fwd" and number(row, "ms_p50")]
        sizes = {kind: {row["n"] for row in own if family(row) == kind} for kind in map(family, own)}
        if sizes:
            kind = max(sizes, key=lambda kind: len(sizes[kind]))
            panels.append((op, [row for row in own if family(row) == kind]))
    figure = new_figure("benchmarks.plot", width=12.5, height=3.1 * ((len(panels) + 1) // 2) + 0.4)
    for place, (op, own) in enumerate(panels):
        ax = figure.add_subplot((len(panels) + 1) // 2, 2, place + 1)
        for rank, provider in enumerate(dict.fromkeys(row["provider"] for row in own)):
            points: dict[float, float] = {}
            for row in own:
                if row["provider"] == provider:
                    each = float(row["ms_p50"]) / float(row["b"]) / float(row["h"] or 1)
                    points[float(row["n"])] = min(each, points.get(float(row["n"]), each))
            thick = ours(next(row for row in own if row["provider"] == provider))
            style = {"color": COLORS[rank % len(COLORS)], "marker": MARKERS[rank % len(MARKERS)], "markersize": 4}
            ax.plot(*zip(*sorted(points.items())), label=provider, linewidth=2.0 if thick else 0.9,
                    linestyle="-" if thick else (0, (4, 2)), **style)  # fmt: skip
        _log_axes(ax, [float(row["n"]) for row in own])
        kind = family(own[0])
        said = [kind[0], f"m {kind[1]}" if kind[1] not in ("", "all") else "", kind[2]]
        ax.set_title(", ".join([op, *filter(None, said)]), fontsize=9, loc="left")
        ax.set_xlabel("vision tokens n", fontsize=8)
        ax.set_ylabel("ms per image" + (" and head" if own[0]["h"] else ""), fontsize=8)
        ax.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
        tidy(ax)
    figure.suptitle(device_of(rows), fontsize=9, x=0.01, ha="left")
    return figure


def _log_axes(ax: Any, sizes: Sequence[float]) -> None:
    from matplotlib.ticker import NullFormatter

    ax.set_xscale("log")
    ax.set_yscale("log")
    ticks = sorted(set(sizes))
    ticks = [n for i, n in enumerate(ticks) if i == 0 or n > 1.25 * ticks[i - 1]]
    ax.set_xticks(ticks, [f"{n:g}" for n in ticks])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(labelsize=7)


def roofline(rows: Sequence[Row], facts: Row) -> Any:
    """Return a figure of ours: products per second against products per byte, both of the least work of an answer.

    Lines are the measured rates of the device; a dash above a point is its own roof, which exponentials may lower.
    """
    figure = new_figure("benchmarks.plot", width=7.6, height=4.8)
    ax = figure.add_subplot()
    drawn = [row for row in rows if ours(row) and all(number(row, x) for x in ("gb_s", "tflop_s", "roof_percent"))]
    names, reach = list(OPERATORS), [1e3 * float(row["tflop_s"]) / float(row["gb_s"]) for row in drawn] or [1.0]
    for row, intensity in zip(drawn, reach):
        reached, color = float(row["tflop_s"]), COLORS[names.index(row["op"]) % len(COLORS)]
        roof = 100 * reached / float(row["roof_percent"])
        marker = "o" if row["provider"].startswith("triton") else "s"
        ax.plot([intensity] * 2, [reached, roof], color=color, linewidth=0.6, alpha=0.6)
        ax.plot(intensity, roof, marker="_", color="black", markersize=7)
        ax.plot(intensity, reached, marker=marker, color=color, markersize=4)
    if (copy := number(facts, "copy_gb_s")) is not None:
        ends = [0.7 * min(reach), 1.4 * max(reach)]
        for style, dtype in (("-", "float32"), ("--", "bfloat16")):
            peak = number(facts, f"matmul_{dtype}_tflop_s")
            if peak is not None and any(row["dtype"] == dtype for row in drawn):
                x = sorted([*ends, min(max(1e3 * peak / copy, ends[0]), ends[1])])
                y = [min(copy * at / 1e3, peak) for at in x]
                ax.plot(x, y, style, color=GREY, linewidth=1.0, zorder=1, label=f"measured: copy, {dtype} products")
    for op in dict.fromkeys(row["op"] for row in drawn):
        ax.plot([], [], "o", color=COLORS[names.index(op) % len(COLORS)], label=op)
    ax.plot([], [], marker="_", color="black", linestyle="", label="its roof: bytes, products or exponentials")
    ax.plot([], [], "o", color=GREY, label="triton")
    ax.plot([], [], "s", color=GREY, label="torch")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("FLOP per byte of the least work")
    ax.set_ylabel("TFLOP/s of the least work")
    ax.set_title(device_of(rows), fontsize=9, loc="left")
    tidy(ax)
    legend_below(ax)
    return figure


PICTURES = {"roofline": roofline, "speedup": speedup, "cost": cost}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, nargs="?", default=RESULTS)
    parser.add_argument("--out", type=pathlib.Path, help="where the pictures go; by default beside the files")
    options = parser.parse_args(arguments)
    for folder in sorted({path.parent for path in options.folder.rglob("*.csv")}):
        rows = [row for name in OPERATORS for row in read(folder / f"{name}.csv")]
        for device in dict.fromkeys(row["device"] for row in rows):
            own = [row for row in rows if row["device"] == device]
            if not any(number(row, "ms_p50") for row in own):
                continue
            facts = next((row for row in read(folder / "device.csv") if row["device"] == device), {})
            for name, draw in PICTURES.items():
                short = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
                path = (options.out or folder) / f"{name}-{short}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(own, facts).savefig(path)
                print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
