"""A path that cannot be written or read is the user's mistake: one line, exit code 2."""

from __future__ import annotations

import pytest

TABLE = "n,score\n1,0.1\n4,0.2\n16,0.4\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize("name", ["x.png", "deep/x.png"])
def test_an_output_below_a_file_is_refused(tokscale_run, table, name):
    code, said, err = tokscale_run("plot", table, "--out", table / name)
    assert code == 2 and said == "" and len(err.strip().splitlines()) == 1
    assert "scores.csv" in err and "name another path" in err


@pytest.mark.parametrize("command, name", [("plot", "p.png"), ("report", "r.html"), ("profile", "p.csv")])
def test_a_missing_folder_is_not_made(tokscale_run, table, tmp_path, command, name):
    out = tmp_path / "deep" / name
    given = ("--compressor", "uniform", "--budgets", "4") if command == "profile" else (table,)
    code, said, err = tokscale_run(command, *given, "--out", out)
    text = f"--out {out}: its folder {out.parent} does not exist; make the folder, or name another path"
    assert (code, said, err) == (2, "", f"tokscale: InputError: {text}\n") and not out.parent.exists()


def test_a_folder_is_no_table(tokscale_run, tmp_path):
    code, _, err = tokscale_run("fit", tmp_path)
    assert code == 2 and f"{tmp_path} is a folder; name a CSV file" in err


@pytest.mark.parametrize("command", ["fit", "plot"])
def test_a_share_is_no_percentage(tokscale_run, table, tmp_path, command):
    out = ("--out", tmp_path / "x.png") if command == "plot" else ()
    code, _, err = tokscale_run(command, table, "--retain", "95", *out)
    assert code == 2 and "--retain 95 must lie in (0, 1); did you mean 0.95?" in err
