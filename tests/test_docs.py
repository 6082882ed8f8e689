"""What the pages under docs/ show runs as written, page by page."""

from __future__ import annotations

import pathlib
import re
import warnings
from typing import Any

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snippet may use what the ones before it defined."""
    monkeypatch.chdir(tmp_path)
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
