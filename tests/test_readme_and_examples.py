"""What the README and the examples show runs as written."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

import tokscale

ROOT = pathlib.Path(tokscale.__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_the_first_two_commands_are_demo_and_test() -> None:
    shell = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", README, flags=re.M | re.S)
    lines = [line.split("#")[0].strip() for block in shell for line in block.splitlines() if line.strip()]
    assert lines[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippets_run(
    number: int, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snippet may use what the ones before it defined."""
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "readme"}
    for snippet in SNIPPETS[: number + 1]:
        exec(compile(snippet, "README.md", "exec"), scope)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(path: pathlib.Path) -> None:
    assert len(path.read_text().splitlines()) < 60
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_there_are_four_examples() -> None:
    assert [path.name[:2] for path in EXAMPLES] == ["01", "02", "03", "04"]
