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


def against_best(rows: Sequence[Row]) -> tuple[float, str, str] | None:
    """(best baseline's time over ours, our provider, that baseline) of one case; whoever gives the same answers."""
    timed = [row for row in rows if number(row, "ms_p50")]
    found = []
    for mine in filter(ours, timed):
        rivals = [row for row in timed if not ours(row) and answers(row) == answers(mine)]
        if rivals:
            best = min(rivals, key=lambda row: float(row["ms_p50"]))
            found.append((float(best["ms_p50"]) / float(mine["ms_p50"]), mine["provider"], best["provider"]))
    return max(found, default=None)


def speedup(rows: Sequence[Row]) -> Any:
    """Return a figure of bars, one per case: how many times faster the best of ours is than the best baseline."""
    bars = [(label(group[0]), group[0]["op"], *found) for group in grouped(rows) if (found := against_best(group))]
    figure = new_figure("benchmarks.plot", width=8.6, height=1.2 + 0.26 * len(bars))
    ax, names = figure.add_subplot(), list(OPERATORS)
    for place, (_, op, ratio, mine, best) in enumerate(bars):
        ax.barh(place, ratio, color=COLORS[names.index(op) % len(COLORS)], height=0.7)
        ax.text(ratio, place, f" {ratio:.2f}  {mine} / {best}", va="center", fontsize=6.5)
    ax.axvline(1, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.75 * max((bar[2] for bar in bars), default=1))
    ax.set_xlabel("time of the fastest baseline / ours (more is faster)", fontsize=8)
    ax.set_title(device_of(rows), fontsize=9, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def cost(rows: Sequence[Row]) -> Any:
    """Return a figure of milliseconds per image against n, a panel per operator, forward, in the commonest dtype."""
    panels = {}
    for op in OPERATORS:
        own = [row for row in rows if row["op"] == op and row["mode"] == "fwd" and number(row, "ms_p50")]
        kinds = [row["dtype"] for row in own]
        own = [row for row in own if row["dtype"] == max(set(kinds), key=kinds.count)]
        if own:
            panels[op] = own
    figure = new_figure("benchmarks.plot", width=9.5, height=3.1 * ((len(panels) + 1) // 2) + 0.4)
    for place, (op, own) in enumerate(panels.items()):
        ax = figure.add_subplot((len(panels) + 1) // 2, 2, place + 1)
        for rank, provider in enumerate(dict.fromkeys(row["provider"] for row in own)):
            points: dict[float, float] = {}
            for row in own:
                if row["provider"] == provider:
                    each = float(row["ms_p50"]) / float(row["b"])
                    points[float(row["n"])] = min(each, points.get(float(row["n"]), each))
            thick = ours(next(row for row in own if row["provider"] == provider))
            style = {"color": COLORS[rank % len(COLORS)], "marker": MARKERS[rank % len(MARKERS)], "markersize": 4}
            ax.plot(*zip(*sorted(points.items())), label=provider, linewidth=2.0 if thick else 0.9,
                    linestyle="-" if thick else (0, (4, 2)), **style)  # fmt: skip
        ax.set_xscale("log")
        ax.set_yscale("log")
        ticks = sorted({float(row["n"]) for row in own})
        ticks = [n for i, n in enumerate(ticks) if i == 0 or n > 1.25 * ticks[i - 1]]
        ax.set_xticks(ticks, [f"{n:g}" for n in ticks], fontsize=7)
        ax.xaxis.minorticks_off()
        ax.tick_params(axis="y", labelsize=7)
        ax.set_title(f"{op}, {own[0]['dtype']}", fontsize=9, loc="left")
        ax.set_xlabel("vision tokens n", fontsize=8)
        ax.set_ylabel("ms per image, best case", fontsize=8)
        ax.legend(frameon=False, fontsize=5.5)
        tidy(ax)
    figure.suptitle(device_of(rows), fontsize=9, x=0.01, ha="left")
    return figure


def roofline(rows: Sequence[Row]) -> Any:
    """Return a figure of ours: products per second against products per byte, the least work of each answer.

    The roof is what `roof_percent` says: the measured rates of the device, of which a row gives the one that bounds it.
    """
    figure = new_figure("benchmarks.plot", width=7.6, height=4.8)
    ax = figure.add_subplot()
    drawn = [row for row in rows if ours(row) and all(number(row, x) for x in ("gb_s", "tflop_s", "roof_percent"))]
    names = list(OPERATORS)
    for row in drawn:
        intensity = 1e3 * float(row["tflop_s"]) / float(row["gb_s"])
        reached, color = float(row["tflop_s"]), COLORS[names.index(row["op"]) % len(COLORS)]
        roof = 100 * reached / float(row["roof_percent"])
        marker = "o" if row["provider"].startswith("triton") else "s"
        ax.plot([intensity] * 2, [reached, roof], color=color, linewidth=0.6, alpha=0.6)
        ax.plot(intensity, roof, marker="_", color="black", markersize=7)
        ax.plot(intensity, reached, marker=marker, color=color, markersize=4)
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
            for name, draw in PICTURES.items():
                short = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
                path = (options.out or folder) / f"{name}-{short}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(own).savefig(path)
                print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
