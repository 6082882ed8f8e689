"""What the pages under docs/ show runs as written, page by page."""

from __future__ import annotations

import csv
import pathlib
import re
import sys
import warnings
from typing import Any

import pytest

from benchmarks import paper_curves
from tokscale.compressors import registry
from tokscale.errors import ScalingFitWarning

DOCS = pathlib.Path(__file__).parent.parent / "docs"
RESULTS = DOCS.parent / "benchmarks" / "results"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snippet may use what the ones before it defined."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # a page may register a method
    scope: dict[str, Any] = {}
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"),
                                             flags=re.M | re.S)):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what a page shows may warn its reader
            exec(compile(code, f"{page}, snippet {number}", "exec"), scope)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_what_a_page_links_to_is_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (DOCS / target).exists(), target
    assert "<!--" not in text, "a table is missing"


def rows(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(start: str) -> list[str]:
    """Return the cells of the one row of the page about laws that begins so."""
    text = (DOCS / "scaling-laws.md").read_text(encoding="utf-8")
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in found.strip("|").split("|")]


def share(row: dict[str, str]) -> str:
    return f"{float(row['coverage']):.3f}".removeprefix("0")


def test_the_coverage_of_every_form_is_that_of_the_csv() -> None:
    measured = [row for row in rows("law_coverage.csv") if row["part"] == "forms"]
    assert len({row["form"] for row in measured}) == 9
    for row in measured:
        shown = cells(f"| `{row['form']}` | {row['case']} |")
        column = {"mean": 4, "new": 5, "budget": 6}.get(row["what"])
        assert share(row) == shown[column] if column else f"{row['what']} {share(row)}" in shown[3].split(", "), row
        if row["form"] != "binomial":  # which never takes less than the scatter of counts for true
            assert 0.93 <= float(row["coverage"]) <= 0.97, row


def test_the_coverage_of_every_method_is_that_of_the_csv() -> None:
    names = {
        "t": "| t (the default) |",
        "bootstrap_t": "| studentised bootstrap",
        "hc3": '| `ci="hc3"` |',
        "normal z": "| normal z |",
        "bootstrap": "| percentile bootstrap of residuals",
        "pairs percentile": "| percentile bootstrap of points |",
    }
    measured = [row for row in rows("law_coverage.csv") if row["part"] == "methods"]
    cases = list(dict.fromkeys(row["case"] for row in measured))
    for method, start in names.items():
        by_case = {row["case"]: share(row) for row in measured if row["method"] == method}
        assert cells(start)[1:] == [by_case[case] for case in cases]
    gauss = {row["method"]: float(row["coverage"]) for row in measured if row["case"] == "Gauss"}
    assert gauss["bootstrap"] < 0.9 < 0.93 < gauss["t"] < 0.97


def test_the_times_are_those_of_the_csv() -> None:
    for row in rows("law_speed.csv"):
        shown = cells(f"| {row['task']} |")
        assert shown[1:3] == [f"{float(row['ours_ms']):.3g}", f"{float(row['curve_fit_ms']):.3g}"]
        assert float(row["ours_ms"]) < float(row["goal_ms"])


def test_the_eighteen_curves_are_those_that_the_script_prints(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "eighteen.png"
    monkeypatch.setattr(sys, "argv", ["paper_curves", "--out", str(picture)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        paper_curves.main()
    page = (DOCS / "scaling-laws.md").read_text(encoding="utf-8")
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) > 20 and [line for line in printed if line not in page] == []
    assert picture.stat().st_size < 300_000 and paper_curves.PICTURE.stat().st_size < 300_000
