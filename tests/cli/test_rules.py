"""The rules of every command: exit codes, one line for a mistake, stdout for data, nothing heavy for `--help`."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
import warnings

import pytest

import tokscale
from tokscale.cli import _errors
from tokscale.errors import ArgumentError


def test_version_and_help(tokscale_run):
    assert tokscale_run("--version") == (0, f"{tokscale.__version__}\n", "")
    code, out, _ = tokscale_run("--help")
    assert code == 0
    for command in ("demo", "list", "count", "sweep", "fit", "plot", "profile", "report"):
        assert f"\n  {command} " in out
        assert tokscale_run(command, "--help")[0] == 0


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom tokscale import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy', 'triton', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    best = min(_seconds([sys.executable, "-c", code]) for _ in range(2))
    assert best < 1.5


def _seconds(command):
    before = time.monotonic(), _children()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _children() - before[1]  # CPU seconds: a busy machine is not our import time


def _children():
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_python_dash_m_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "tokscale", "fit", "no.csv"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tokscale: InputError: no.csv: no such file\n"


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ArgumentError("budget=0\n  is none"), 2, "tokscale: ArgumentError: budget=0 is none\n"),
        (KeyboardInterrupt(), 130, "tokscale: interrupted\n"),
    ],
)
def test_how_a_command_ends(capsys, error, code, said):
    def command():
        raise error

    with pytest.raises(SystemExit) as ended:
        _errors.guarded(command)()
    assert ended.value.code == code and capsys.readouterr().err == said


def test_a_defect_shows_its_traceback_and_asks_for_a_report(capsys):
    def command():
        warnings.simplefilter("always")
        warnings.warn("mind this", UserWarning, stacklevel=1)
        raise ZeroDivisionError("ours")

    with pytest.raises(SystemExit) as ended:
        _errors.guarded(command)()
    said = capsys.readouterr().err
    assert ended.value.code == 70 and said.startswith("tokscale: UserWarning: mind this\nTraceback")
    last = f"This is a defect in tokscale {tokscale.__version__}. Please report it with the lines above."
    assert said.splitlines()[-2:] == ["ZeroDivisionError: ours", last]


def test_debug_shows_the_traceback_of_a_mistake(tokscale_run, tmp_path):
    assert "Traceback" in tokscale_run("--debug", "fit", tmp_path / "no.csv")[2]
    assert "Traceback" not in tokscale_run("fit", tmp_path / "no.csv")[2]


def test_a_usage_error_is_2(tokscale_run):
    for arguments in (("nonsense",), ("fit",), ("fit", "a.csv", "--nonsense"), ("fit", "a.csv", "--level", "x")):
        code, out, err = tokscale_run(*arguments)
        assert (code, out) == (2, "") and err


def test_list_is_the_registry(tokscale_run):
    code, out, err = tokscale_run("list", "--json")
    entries = json.loads(out)
    assert (code, err) == (0, "") and [entry["name"] for entry in entries] == tokscale.list_compressors()
    keys = "name class module needs uses trainable question_aware mixture keywords summary cost source"
    assert all(" ".join(entry) == keys for entry in entries)
    fuser = next(entry for entry in entries if entry["name"] == "cross_attention")
    assert fuser["trainable"] and fuser["question_aware"] and fuser["needs"] == ["text"]
    assert next(entry for entry in entries if entry["name"] == "divprune")["source"]
    table = tokscale_run("list")[1].splitlines()
    assert [line.split()[0] for line in table if line[0] != " "] == tokscale.list_compressors()
    assert max(map(len, table)) <= 80
    (line,) = (line for line in table if line.startswith("cross_attention"))
    assert line.split("  ", 1)[1] == "needs text; uses grid; trainable; hears the question; mixture"
    text = " ".join(" ".join(table).split())
    assert "Cost: n^2 d for the distances, k n for the choice. Source: Alvar, Singh, Akbari, Zhang, DivPrune: " in text
    assert "Differs from" not in text and "Source: none" not in text


def test_the_table_of_methods_is_that_of_the_page(tokscale_run):
    table = tokscale_run("list", "--markdown")[1].strip()
    page = pathlib.Path(__file__).parents[2] / "docs" / "compressors.md"
    assert page.read_text(encoding="utf-8").strip().endswith(table)


def test_list_filters(tokscale_run):
    free = [entry["name"] for entry in json.loads(tokscale_run("list", "--json", "--needs", "")[1])]
    assert "divprune" in free and "cross_attention" not in free
    trained = [entry["name"] for entry in json.loads(tokscale_run("list", "--json", "--trainable")[1])]
    assert "cross_attention" in trained and "random" not in trained
    code, out, err = tokscale_run("list", "--needs", "gird")
    assert (code, out) == (2, "") and err.startswith('tokscale: ArgumentError: needs="gird" is unknown; choose from ')
