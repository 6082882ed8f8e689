"""`sweep`, `profile` and `demo` on the packaged model."""

from __future__ import annotations

import json
import sys
import textwrap

import pytest

from tokscale import demo
from tokscale.cli import _demo_pictures, _demo_run
from tokscale.sweep.table import HEADER, SweepResult

SMALL = ("--compressor", "uniform", "--budgets", "4,1", "--samples", "8")


def test_sweep_writes_a_table_and_goes_on_with_it(tokscale_run, tmp_path):
    out = tmp_path / "s.csv"
    code, said, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", out)
    assert code == 0 and "uniform" in said and f"wrote {out}" in err and "[3/3] uniform, 1 token: score" in err
    result = SweepResult.from_csv(out)
    assert [(row["compressor"], row["num_tokens"], row["status"]) for row in result] == [
        ("none", None, "ok"),
        ("uniform", 4, "ok"),
        ("uniform", 1, "ok"),
    ]
    assert {(row["model"], row["task"], row["metric"]) for row in result} == {("demo", "cell", "accuracy")}
    code, said, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", out, "--json", "--quiet")
    assert code == 0 and json.loads(said)["rows"] == list(result.rows)
    assert err == f"3 of 3 cells were already in {out}\n"
    before = out.read_bytes()
    code, said, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", out, "--samples", "4")
    assert (code, said, out.read_bytes()) == (2, "", before) and err == (
        f"tokscale: InputError: {out} holds rows of n_items=8, this run asks n_items=4: they make no one curve. Pass "
        "another out, or begin anew (--force; in Python, remove the file)\n"
    )
    code, _, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", out, "--samples", "4", "--force")
    assert code == 0 and {row["n_items"] for row in SweepResult.from_csv(out)} == {4}


def test_an_interrupted_sweep_says_how_to_go_on(tokscale_run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    out = tmp_path / "s.csv"
    code, said, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", out, "--quiet")
    hint = f"interrupted: 0 of 3 cells were finished and are in {out}; run the same sweep again to go on\n"
    assert (code, said, err) == (130, "", hint + "tokscale: interrupted\n")


def test_failed_cells_are_exit_1(tokscale_run, tmp_path, monkeypatch):
    (tmp_path / "mytask.py").write_text(
        textwrap.dedent(
            """
            from tokscale import demo
            def ask(model, processor):
                model(**demo.collate(demo.samples(1), processor))
            def score(model, processor):
                if "forward" in vars(model):
                    raise RuntimeError("no luck")
                return {"score": 0.5, "n_items": 4}
            def one(model):
                ask(model, demo.load()[1])
                return 0.5
            def none(model):
                return 0.5
            word = "no function"
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, out, err = tokscale_run("sweep", *SMALL, "--evaluate", "mytask:score", "--quiet")
    assert code == 1 and err.endswith("2 of 3 cells failed: see status=failed\n")
    assert out.startswith(HEADER) and out.count("RuntimeError: no luck") == 2 and len(out.splitlines()) == 4
    assert tokscale_run("sweep", *SMALL, "--evaluate", "mytask:one", "--quiet")[0] == 0
    code, out, _ = tokscale_run("sweep", *SMALL, "--evaluate", "mytask:none", "--quiet")
    assert code == 1 and out.count("evaluate() made no call with images of the model it was given") == 2
    for text, said in (("mytask:word", "has no function word"), ("nomodule:f", "there is no module nomodule"),
                       ("mytask", "expected MODULE:FUNCTION")):  # fmt: skip
        code, out, err = tokscale_run("sweep", *SMALL, "--evaluate", text)
        assert (code, out) == (2, "") and said in err


@pytest.mark.parametrize(
    "change, said",
    [
        (("--compressor", "divprun"), "unknown compressor 'divprun'. Did you mean 'divprune'?"),
        (("--budgets", "1,x"), "--budgets 1,x: 'x' is no number of tokens"),
        (("--budgets", "4 9"), "--budgets 4 9: separate budgets by commas: --budgets 4,9"),
        (("--compressor", "divprune,random"), "repeat --compressor: --compressor divprune --compressor random"),
        (
            ("--out", "no/such/folder.csv"),
            "--out no/such/folder.csv: its folder no/such does not exist; make the folder",
        ),
        (("--budgets", "0"), "must be an integer >= 1, got 0"),
        (("--budgets", "1.5"), "a share of the tokens lies in (0, 1], got 1.5"),
        (("--arg", "ratio=2"), "uniform has no keyword 'ratio'; it takes num_tokens"),
        (("--arg", "ratio"), "--arg ratio: expected KEY=JSON"),
        (("--task", "poem"), 'task="poem" is unknown; choose from cell, count, most, row'),
        (("--task", "cell", "--evaluate", "a:b"), "give one of --task and --evaluate"),
        (("--model", "org/name"), "--task cell is a task of the demo model; with --model org/name pass --evaluate"),
        (("--samples", "0"), "--samples must be an integer >= 1, got 0"),
        (("--compressor", "uniform"), "--compressor uniform is given twice"),
    ],
)
def test_a_mistake_is_reported_before_a_model_is_loaded(tokscale_run, monkeypatch, change, said):
    monkeypatch.setattr(demo, "load", lambda **_: pytest.fail("the model was loaded"))
    task = () if "--task" in change else ("--task", "cell")
    code, out, err = tokscale_run("sweep", *SMALL, *task, *change)
    assert (code, out) == (2, "") and said in err and err.startswith("tokscale: ") and err.count("\n") == 1


def test_a_file_of_something_else_is_kept(tokscale_run, tmp_path):
    (tmp_path / "mine.csv").write_text("n,score\n1,2\n")
    code, _, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--out", tmp_path / "mine.csv", "--force")
    assert (
        code == 2 and "is not the table of a sweep" in err and (tmp_path / "mine.csv").read_text() == "n,score\n1,2\n"
    )


def test_a_model_that_is_not_there(tokscale_run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = tokscale_run("sweep", *SMALL, "--model", tmp_path / "empty", "--evaluate", "json:dumps")
    assert code == 2 and f"InputError: {tmp_path / 'empty'} holds no config.json; " in err
    for command in (("sweep", "--evaluate", "json:dumps"), ("profile",)):
        code, _, err = tokscale_run(*command, *SMALL[:4], "--model", "modell")
        assert code == 2 and err.startswith("tokscale: InputError: modell does not exist; pass the folder of a saved ")
    code, _, err = tokscale_run("sweep", *SMALL, "--task", "cell", "--device", "cuda")
    assert code == 2 and "--device cuda: PyTorch" in err and "pass --device cpu" in err


def test_profile_prints_a_table_and_writes_all_of_it(tokscale_run, tmp_path):
    out = tmp_path / "p.csv"
    arguments = ("--compressor", "uniform", "--budgets", "36", "--repeats", "2", "--new-tokens", "0")
    code, said, _ = tokscale_run("profile", *arguments, "--out", out)
    assert code == 0 and said.startswith("CPU, for comparison only\n") and "uniform" in said
    assert out.read_text().startswith("# model: digits\n") and "prefill_ms_p80" in out.read_text()
    document = json.loads(tokscale_run("profile", *arguments, "--json")[1])
    assert document["schema"] == 1 and document["header"]["image_size"] == "96x96"
    assert "needs --image" in tokscale_run("profile", *arguments, "--model", "org/name")[2]
    assert (
        "must be an integer >= 1, got 0.5" in tokscale_run("profile", "--compressor", "uniform", "--budgets", "0.5")[2]
    )


def test_the_demo_from_beginning_to_end(tokscale_run, tmp_path, monkeypatch):
    monkeypatch.setattr(_demo_run, "BUDGETS", (1, 16, 36))
    out = tmp_path / "demo-out"
    code, said, err = tokscale_run("demo", "--out", out, "--questions", "24")
    assert code == 0, err
    assert said.startswith("LlavaForConditionalGeneration, 281,984 parameters, 144 vision tokens per image\n")
    assert "it cannot count" in said and "cell r" in said and "CPU, for comparison only" in said
    assert "The budget that keeps 95 % of the unpatched accuracy" in said and "seconds in all" in said
    result = SweepResult.from_csv(out / "sweep.csv")
    assert set(result.groups("compressor")) == {"none", *_demo_run.compressors()} and len(result) == 1 + 3 * len(
        _demo_run.compressors()
    )
    assert {row["status"] for row in result} == {"ok"} and result.rows[0]["score"] > 0.8
    for path in out.iterdir():
        assert f"wrote {path}\n" in said
        start = {".png": b"\x89PNG", ".csv": b"schema,", ".html": b"<!DOCTYPE html>"}[path.suffix]
        assert path.read_bytes().startswith(start) and path.stat().st_size > 1000
    assert {"kept.png", "curve.png", "sweep.csv", "report.html"} <= {path.name for path in out.iterdir()}


def test_the_demo_keeps_what_it_did_not_write(tokscale_run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "load", lambda **_: pytest.fail("the model was loaded"))
    (tmp_path / "kept.png").write_bytes(b"mine")
    code, out, err = tokscale_run("demo", "--out", tmp_path)
    assert (code, out) == (2, "") and "holds kept.png, which no demo wrote; name another folder, or pass --force" in err
    assert "is a file; name a folder" in tokscale_run("demo", "--out", tmp_path / "kept.png")[2]
    assert "--questions must be an integer >= 1, got 0" in tokscale_run("demo", "--questions", "0")[2]


def test_a_thumbnail_shows_where_the_digits_are():
    (sample,) = demo.samples(1)
    lines = _demo_pictures.thumbnail(sample.image)
    assert len(lines) == 12 and {len(line) for line in lines} == {24}
    ink = sum(mark != " " for line in lines for mark in line)
    assert 36 < ink < 144  # every digit of the 6 x 6 cells leaves a mark, most of the picture is background
