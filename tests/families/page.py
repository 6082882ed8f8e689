"""Writes `docs/families.md` from the results of the matrix: `python -m tests.families.page results.json [more.json]`.

Each file is what `python -m tests.families.matrix --json` wrote under one version of transformers.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "families.md"
HEADS = {
    "keep_all": "full budget: bitwise",
    "subset": "subset = reference",
    "original": "original positions",
    "cached": "cached = uncached",
    "own_loop": "own loop = generate",
    "batch": "left-padded = alone",
    "right": "right-padded = alone",
    "gradients": "gradients",
    "beams": "beams",
    "static": "static cache",
    "uncached": "without a cache",
    "returns": "returns",
    "exception": "after an exception",
    "removal": "removal: bitwise",
    "video": "video",
}
SIGNS = {"ok": "yes", "-": "", "up": "(up)", "FAIL": "**no**"}
INTRO = """# Families

`patch` has one mechanism and no list of models it works on. This is what the contract gave on a tiny random model of
every model type in the image-text-to-text mapping of transformers {versions}. `tokscale doctor --model FOLDER --tiny`
runs the short form of it on an architecture of your own.

Made by `make families`. "yes": the check holds. Empty: it has no meaning for this family. "(up)": the unpatched model
does not do it either, so nothing can be said of the patch. The reference of "subset" shares no code with the library:
the unpatched model, with all arguments of its language model gathered at the kept columns. These are architectures with
random weights: nothing here says how well a real checkpoint answers at a small budget.
"""


def cell(result: str) -> str:
    return SIGNS.get(result.split(" ", 1)[0], "")


def supported(results: dict[str, Any]) -> list[str]:
    """The families that build and on which no check fails."""
    return [name for name, row in results.items() if row["build"].startswith("ok")
            and not any(str(v).startswith("FAIL") for v in row.values())]  # fmt: skip


def _short(text: str) -> str:
    """One line, cut where it gets long."""
    line = " ".join(text.split("(no tiny model")[0].split())
    return line if len(line) <= 160 else line[:157] + "..."


def section(version: str, results: dict[str, Any]) -> str:
    checks = [c for c in HEADS if any(c in row for row in results.values())]
    good, built = supported(results), [n for n, row in results.items() if row["build"].startswith("ok")]
    refused = {n: row["build"].removeprefix("refused: ") for n, row in results.items() if "refused" in row["build"]}
    broken = {n: row["build"] for n, row in results.items() if n not in refused and n not in built}
    lines = [f"## transformers {version}", ""]
    lines += [
        f"{len(results)} model types: {len(good)} hold every check that applies, {len(built) - len(good)} fail one, "
        f"{len(refused)} are refused with a reason, of {len(broken)} no tiny model runs.",
        "",
    ]
    lines += ["| family | " + " | ".join(HEADS[c] for c in checks) + " |", "| --- |" + " --- |" * len(checks)]
    lines += [f"| {n} | " + " | ".join(cell(str(results[n].get(c, ""))) for c in checks) + " |" for n in built]
    counts = [sum(str(results[n].get(c, "")).startswith("ok") for n in built) for c in checks]
    lines += ["| **yes** | " + " | ".join(map(str, counts)) + " |", ""]
    failed = [(n, c, _short(str(v)[5:])) for n in built for c, v in results[n].items() if str(v).startswith("FAIL")]
    if failed:
        lines += ["What fails:", "", *(f"- {n}, {HEADS.get(c, c)}: {why}" for n, c, why in failed), ""]
    lines += ["Refused:", "", *(f"- {name}: {_short(text)}" for name, text in refused.items()), ""]
    films = {n: str(row["video"])[11:] for n, row in results.items() if str(row.get("video")).startswith("- refused: ")}
    if films:
        lines += ["Images are shortened, a video is refused:", "", *(f"- {n}: {why}" for n, why in films.items()), ""]
    if broken:
        lines += [
            "No tiny model runs, so nothing is known:",
            "",
            *(f"- {n}: {_short(why)}" for n, why in broken.items()),
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=PAGE)
    given = parser.parse_args()
    read = [json.loads(path.read_text(encoding="utf-8")) for path in given.results]
    versions = " and ".join(each["transformers"] for each in read)
    sections = [section(each["transformers"], each["families"]) for each in read]
    given.out.write_text("\n".join([INTRO.format(versions=versions), *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
