"""`fit`, `plot` and `report` on tables: a sweep's, the paper's, and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokscale.scaling import LAWS
from tokscale.sweep.table import SweepResult

PAPER = Path(__file__).parent.parent / "data" / "paper_scores_vqq.csv"


@pytest.fixture
def table(tmp_path):
    common = {"status": "ok", "model": "toy", "task": "cell", "n_items": 200}
    rows = [{**common, "compressor": "none", "mean_tokens": 144.0, "score": 0.98}]
    for name, scale in (("divprune", 0.1), ("random", 0.05)):
        for k, wobble in ((1, 1.0), (4, 1.02), (16, 0.99), (64, 1.0)):
            rows.append({**common, "compressor": name, "mean_tokens": float(k), "score": scale * k**0.5 * wobble})
    rows.append({**common, "status": "failed", "compressor": "dart", "error": "X: y"})
    SweepResult(rows).to_csv(tmp_path / "s.csv")
    return tmp_path / "s.csv"


def write(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


def test_fit_of_a_sweep(tokscale_run, table):
    code, out, err = tokscale_run("fit", table, "--json")
    document = json.loads(out)
    assert code == 0 and f"{table}: left out 1 row of a baseline and 1 whose status is not ok" in err
    assert document["schema"] == 1 and [entry["group"]["compressor"] for entry in document["fits"]] == [
        "divprune",
        "random",
    ]
    first = document["fits"][0]
    assert first["n_obs"] == 4 and first["fit"]["params"]["alpha"] == pytest.approx(-0.5, abs=0.01)
    assert first["fit"]["floor"] == 0 and first["fit"]["ceil"] == 1
    assert first["budget"]["target"] == pytest.approx(0.95 * 0.98) and first["budget"]["of"] == "score"
    assert document["mean"]["exponent"] == pytest.approx(0.5, abs=0.01)
    text = tokscale_run("fit", table, "--retain", "0.5")[1]
    assert "divprune (4 points)\n  c = 0.10" in text and "50% of the unpatched 0.98: " in text
    assert "(growth exponent 0.4978" in text


def test_fit_reproduces_the_paper(tokscale_run):
    code, out, err = tokscale_run("fit", PAPER, "--group", "metric", "--json")
    fits = {entry["group"]["metric"]: entry["fit"]["params"] for entry in json.loads(out)["fits"]}
    assert code == 0 and len(fits) == 18
    assert fits["Final Score@OCRBench"] == pytest.approx({"c": 60.271521, "alpha": -0.37273080}, rel=1e-6)
    assert "n_items is not used, since scores exceed 0 to 100; pass --floor and --ceil" in err


@pytest.mark.parametrize("form", sorted(LAWS))
def test_every_form_has_its_way_in(tokscale_run, form):
    options = ("--group", "metric", "--floor", 0, "--ceil", 3000, "--n-items", 1000)
    code, out, _ = tokscale_run("fit", PAPER, "--form", form, *options, "--json")
    fits = [entry["fit"] for entry in json.loads(out)["fits"]]
    assert code == 0 and {fit["form"] for fit in fits} == {form} and len(fits) == 18
    assert ("mean" in json.loads(out)) == (form == "power")
    code, out, _ = tokscale_run("fit", PAPER, "--form", form, *options)
    assert code == 0 and out.count(f"{form}: ") == 18


def test_an_unknown_form_is_a_mistake_of_the_user(tokscale_run, table):
    code, out, err = tokscale_run("fit", table, "--form", "powr")
    assert (code, out) == (2, "") and 'form="powr" is unknown; choose from binomial, broken, ' in err


def test_compare(tokscale_run, tmp_path):
    header, *rows = [line for line in PAPER.read_text().splitlines() if not line.startswith("#")]
    one = tmp_path / "one.csv"
    one.write_text("\n".join([header, *(row for row in rows if "OCRBench" in row)]))
    code, out, _ = tokscale_run("fit", one, "--compare", "--floor", 0, "--ceil", 1000, "--json")
    (entry,) = json.loads(out)["fits"]
    assert code == 0 and entry["fit"]["form"] == entry["comparison"]["best"] == "saturating"
    code, out, _ = tokscale_run("fit", one, "--compare")
    assert "saturating is best by AICc, of 6 forms" in out and "no-skill: " in out
    code, out, err = tokscale_run("fit", one, "--compare", "--form", "logit")
    assert code == 2 and "--compare tries every form; leave out --form logit" in err
    picture = tmp_path / "laws.png"
    assert tokscale_run("plot", one, "--kind", "compare", "--out", picture)[:2] == (0, f"{picture}\n")
    assert picture.stat().st_size > 10_000


def test_joint(tokscale_run, tmp_path):
    grid = [(size, k) for size in (0.5, 1.8, 4.0, 7.0) for k in (1, 4, 16, 36, 64, 144, 576)]
    wobble = [(1 if i % 2 else -1) * (1 + i % 3) / 2000 for i in range(28)]
    error = [0.5 * size**-0.3 * k**-0.1 + 0.2 + e for (size, k), e in zip(grid, wobble)]
    rows = [f"m{size:g},{size},{k},{y},{1 - y}" for (size, k), y in zip(grid, error)]
    given = write(tmp_path, "model,billion,n,error,accuracy\n" + "\n".join(rows))
    joint = ("--joint", "product", "--size", "billion")
    code, out, _ = tokscale_run("fit", given, "--y", "error", *joint, "--json")
    (entry,) = json.loads(out)["joint"]
    assert code == 0 and entry["fit"]["params"]["D"] == pytest.approx(0.200024, abs=5e-7)
    code, out, _ = tokscale_run("fit", given, "--y", "accuracy", "--ceil", 1, *joint, "--json")
    assert json.loads(out)["joint"][0]["fit"]["params"] == pytest.approx(entry["fit"]["params"], rel=1e-6)
    text = tokscale_run("fit", given, "--y", "accuracy", "--ceil", 1, *joint)[1]
    assert text.startswith("all rows (28 points), y = 1 - accuracy")
    picture = tmp_path / "joint.png"
    done = tokscale_run("plot", given, "--y", "error", "--kind", "joint", *joint, "--out", picture)
    assert done[:2] == (0, f"{picture}\n") and picture.stat().st_size > 10_000
    for options, said in (
        (("--joint", "product"), "a joint law takes both --joint FORM and --size COLUMN"),
        ((*joint, "--compare"), "--joint fits size and tokens together; leave out --form and --compare"),
        (("--joint", "product", "--size", "width"), "has no column 'width'"),
    ):
        code, _, err = tokscale_run("fit", given, "--y", "error", *options)
        assert code == 2 and said in err


def test_strict_says_no_with_1(tokscale_run, tmp_path):
    flat = write(tmp_path, "n,score\n1,50\n4,52\n16,49\n64,51\n")
    assert tokscale_run("fit", flat)[0] == 0
    code, out, err = tokscale_run("fit", flat, "--strict")
    assert code == 1 and "contains 0" in err and "the law gives no answer" in out


@pytest.mark.parametrize(
    "text, options, said",
    [
        ("n,accuracy\n1,2\n", (), "t.csv has no column 'score'; it has n, accuracy. Pass --y accuracy."),
        ("a,score\n1,2\n", (), "t.csv has no column of budgets; it has a, score. Pass --x COLUMN"),
        ("n,score\n1,x\n4,2\n", (), "t.csv: row 2, column score: 'x' is not a number"),
        ("n,score\n1\n", (), "t.csv: row 2 has 1 cells, the header has 2"),
        ("", (), "t.csv holds no rows; a header and at least one row are needed"),
        ("n,score\n1,2\n4,3\n", ("--group", "task"), "t.csv has no column 'task'; it has n, score"),
        ("n,score\n1,2\n4,3\n", ("--form", "powr"), 'form="powr" is unknown; choose from'),
        ("n,score\n1,2\n4,3\n", ("--level", "95"), "level=95.0 must lie in (0, 1); did you mean 0.95?"),
        ("n,score\n1,2\n4,0\n", (), 'form="power" takes the logarithm of the score, which is 0.0 at index [1]'),
        ("status,n,score\nfailed,1,2\n", (), "t.csv holds no row that a law can be fitted to"),
    ],
)
def test_a_table_that_cannot_be_fitted(tokscale_run, tmp_path, text, options, said):
    code, out, err = tokscale_run("fit", write(tmp_path, text), *options)
    assert (
        (code, out) == (2, "")
        and said in err.replace(f"{tmp_path}/", "")
        and err.splitlines()[-1].startswith("tokscale: ")
    )


def test_columns_can_be_named_and_errors_are_used(tokscale_run, tmp_path):
    given = write(tmp_path, "# a note\ntokens,acc,se\n1,10,1\n4,20,1\n16,41,1\n")
    code, out, _ = tokscale_run("fit", given, "--x", "tokens", "--y", "acc", "--json")
    fit = json.loads(out)["fits"][0]["fit"]
    assert code == 0 and fit["chi2_dof"] is not None and fit["weights"] != [1.0] * 3


@pytest.mark.parametrize("kind, ending", [("curve", "png"), ("sweep", "svg"), ("curve", "pdf")])
def test_plot_writes_a_picture(tokscale_run, table, tmp_path, kind, ending):
    out = tmp_path / f"p.{ending}"
    code, said, _ = tokscale_run("plot", table, "--out", out, "--kind", kind)
    assert (code, said) == (0, f"{out}\n")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert out.read_bytes().startswith(start)
    code, _, err = tokscale_run("plot", table, "--out", out, "--kind", kind)
    assert code == 2 and "exists; pass --force to replace it, or another name" in err
    assert tokscale_run("plot", table, "--out", out, "--kind", kind, "--force")[0] == 0


def test_plot_of_residuals_takes_one_curve(tokscale_run, table, tmp_path):
    code, _, err = tokscale_run("plot", table, "--out", tmp_path / "p.png", "--kind", "residuals")
    assert code == 2 and "--kind residuals draws one curve" in err and "divprune; random" in err
    one = write(tmp_path, "n,score\n1,10\n4,20\n16,41\n")
    assert tokscale_run("plot", one, "--out", tmp_path / "p.png", "--kind", "residuals")[0] == 0
    assert "the name must end in .png, .svg, .pdf" in tokscale_run("plot", one, "--out", tmp_path / "p.txt")[2]
    assert 'kind="pie" is unknown' in tokscale_run("plot", one, "--out", tmp_path / "p.png", "--kind", "pie")[2]


def test_report_of_a_table(tokscale_run, table, tmp_path):
    code, out, _ = tokscale_run("report", table, "--out", tmp_path / "r.html", "--title", "Mine")
    assert (code, out) == (0, f"{tmp_path / 'r.html'}\n") and "<title>Mine</title>" in (tmp_path / "r.html").read_text()
    code, _, err = tokscale_run("report", table, "--out", tmp_path / "r.html")
    assert code == 2 and "exists; pass --force" in err
    assert (
        "no such folder" in tokscale_run("report", table, "--out", tmp_path / "q.html", "--images", tmp_path / "x")[2]
    )
    assert "is not the table of a sweep" in tokscale_run("report", PAPER, "--out", tmp_path / "q.html")[2]
