"""The sweep: what a cell's row says, resuming, failures, ranks; and the table it ends in."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import tokscale
from tokscale import cost
from tokscale.demo.model import make_model
from tokscale.errors import (
    ArgumentError,
    BudgetError,
    InputError,
    PatchError,
    UnknownCompressorError,
    UnsupportedModelError,
)
from tokscale.sweep.plan import plan
from tokscale.sweep.store import Store
from tokscale.sweep.table import COLUMNS, HEADER, SweepResult

PROMPT = [1] + [4] * 144 + [5, 8]


@pytest.fixture(scope="module")
def model():
    return make_model().eval()


def ask(model, rows=2):
    ids = torch.tensor([PROMPT] * rows)
    with torch.no_grad():
        return model(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.zeros(rows, 3, 96, 96)
        ).logits


class Evaluate:
    """Scores a model by how many columns its prompt had; remembers its calls and fails where told."""

    def __init__(self, fail=(), tasks=None):
        self.calls, self.fail, self.tasks = [], set(fail), tasks

    def __call__(self, model):
        columns = ask(model).shape[1]
        self.calls.append(columns)
        if columns - 3 in self.fail:
            raise RuntimeError(f"no luck with {columns} columns\nand a second line")
        score = {"score": (columns - 3) / 200, "n_items": 200}
        return score if self.tasks is None else {task: dict(score) for task in self.tasks}


def sweep(model, evaluate, compressors=("divprune",), budgets=(1, 4), **keywords):
    return tokscale.sweep(model, list(compressors), evaluate, budgets=budgets, progress=False, **keywords)


def test_a_row_says_what_ran_and_where(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    meta = {"model": "toy", "task": "cell", "metric": "accuracy"}
    result = sweep(model, Evaluate(), meta=meta, baselines=("none", "native"))
    none, native, _, four = result.rows
    assert list(four) == list(COLUMNS)
    assert [row["status"] for row in result] == ["ok", "skipped", "ok", "ok"]
    assert native["error"] == "native: sweep was given no processor to turn; pass processor="
    assert native["num_tokens"] is native["score"] is native["seconds"] is None
    assert (none["compressor"], none["num_tokens"], none["num_tokens_kept"], none["native_tokens"]) == (
        "none",
        None,
        144,
        144,
    )
    assert (none["images"], none["prompt_tokens"], none["score"]) == (2, 147, 0.72)
    assert (four["num_tokens"], four["num_tokens_kept"], four["mean_tokens"], four["native_tokens"]) == (4, 4, 4, 144)
    assert (four["images"], four["prompt_tokens"], four["score"], four["n_items"]) == (2, 7, 0.02, 200)
    assert (four["compressor"], four["arguments"], four["seed"], four["task"]) == ("divprune", "{}", 0, "cell")
    assert (four["model"], four["device"], four["dtype"], four["attention"]) == ("toy", "cpu", "float32", "sdpa")
    assert four["prefill_tflop"] == cost.prefill_flops(model.config, 4, text_tokens=3) / 1e12
    assert four["kv_cache_mib"] == cost.kv_cache_bytes(model.config, 7, dtype_bytes=4) / 2**20
    assert four["vision_tflop"] == none["vision_tflop"] == cost.vision_flops(model.config) / 1e12
    assert four["compress_ms"] > 0 and four["seconds"] > 0 and none["compress_ms"] is None
    assert four["peak_memory_mib"] is four["stderr"] is four["batch_size"] is None
    assert (four["rank"], four["world_size"]) == (0, 1) and torch.__version__.startswith(four["torch"])
    assert four["started"].endswith("+00:00") and len({row["run"] for row in result}) == 4
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and "forward" not in vars(model)


def test_numbers_for_the_fit_leave_out_baselines_and_failures(model):
    result = sweep(model, Evaluate(fail=[9]), budgets=(1, 4, 9, 16), compressors=["divprune", "uniform"])
    one = result.filter(compressor="divprune")
    np.testing.assert_array_equal(one.num_tokens, [1, 4, 16])
    np.testing.assert_array_equal(one.scores, [0.005, 0.02, 0.08])
    fit = one.fit()
    assert fit.exponent == pytest.approx(1) and (fit.floor, fit.ceil) == (0, 1)
    assert [row["error"] for row in result if row["status"] == "failed"] == [
        "RuntimeError: no luck with 12 columns"
    ] * 2
    with pytest.raises(InputError, match=r"these rows hold 2 values of compressor \(divprune, uniform\)"):
        result.fit()
    assert list(result.groups("compressor")) == ["none", "divprune", "uniform"]  # no knob, no row of it
    assert list(result.groups("compressor", "status"))[-1] == ("uniform", "failed")
    assert result.plot().get_xscale() == "log"
    assert "<table>" in result._repr_html_() and "2 failed" in repr(result)


def test_a_failed_cell_gives_the_model_back_and_strict_raises(model):
    whole = ask(model)
    sweep(model, Evaluate(fail=[1, 4]))
    assert torch.equal(ask(model), whole)
    with pytest.raises(RuntimeError, match="no luck with 7 columns"):
        sweep(model, Evaluate(fail=[4]), strict=True)
    assert torch.equal(ask(model), whole)


def test_an_interrupted_sweep_goes_on_where_it_was(model, tmp_path, capsys):
    class Interrupted(Evaluate):
        def __call__(self, model):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(model)

    out = tmp_path / "s.csv"
    keywords = {"budgets": (1, 4, 9), "out": out, "baselines": ("none",)}
    first = Interrupted(fail=[4])
    with pytest.raises(KeyboardInterrupt):
        sweep(model, first, **keywords)
    assert "forward" not in vars(model)
    said = capsys.readouterr().err
    assert said == f"interrupted: 3 of 4 cells were finished and are in {out}; run the same sweep again to go on\n"
    with open(out, "a") as file:
        file.write("1,abc,ok,,half a li")
    Interrupted.__call__ = Evaluate.__call__
    second = Interrupted()
    result = sweep(model, second, **keywords)
    assert first.calls == [147, 4, 7] and second.calls == [7, 12]  # the failed and the missing one, nothing else
    assert [row["status"] for row in result] == ["ok"] * 4
    assert result.rows == SweepResult.from_csv(out).rows
    said = capsys.readouterr().err
    assert "the last line was torn by an interruption and is dropped" in said
    assert said.endswith(f"2 of 4 cells were already in {out}\n")
    third = Interrupted()
    assert sweep(model, third, **keywords).rows == result.rows and third.calls == []
    with pytest.raises(InputError, match=r"s\.csv exists; pass resume=True to go on with it, or another out="):
        sweep(model, Interrupted(), resume=False, **keywords)


def test_an_interruption_without_a_file_says_what_would_keep_it(model, capsys):
    def interrupted(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(model, interrupted)
    said = capsys.readouterr().err
    assert said == "interrupted: 0 of 3 cells were finished; with an out file the next run would go on from them\n"


@pytest.mark.parametrize(
    "held, asked", [({"n_items": 1000}, {"n_items": 64}), ({"dtype": "bfloat16"}, {}), ({"attention": "eager"}, {})]
)
def test_rows_of_other_settings_are_not_gone_on_with(model, tmp_path, held, asked):
    out, evaluate = tmp_path / "s.csv", Evaluate()
    first = sweep(model, Evaluate(), budgets=[1], out=out, meta={"model": "toy"})
    SweepResult([{**row, **held} for row in first.rows]).to_csv(out)
    before = out.read_bytes()
    ((column, there),) = held.items()
    here = {"n_items": 64, "dtype": "float32", "attention": "sdpa"}[column]
    with pytest.raises(InputError) as caught:
        sweep(model, evaluate, budgets=[1, 4], out=out, meta={"model": "toy", **asked})
    assert str(caught.value) == (
        f"{out} holds rows of {column}={there}, this run asks {column}={here}: they make no one curve. Pass another "
        "out, or begin anew (--force; in Python, remove the file)"
    )
    assert out.read_bytes() == before and evaluate.calls == []
    sweep(model, evaluate, budgets=[1], out=out, meta={"model": "another", **asked}, baselines=())
    assert len(SweepResult.from_csv(out)) == 3  # another model's rows are another curve


def test_another_task_or_seed_is_another_cell_and_that_is_said(model, tmp_path, capsys):
    keywords = {"budgets": [1], "baselines": (), "out": tmp_path / "s.csv"}
    for meta, seed in (({"task": "cell"}, 0), ({"task": "row"}, 0), ({"task": "row"}, 3)):
        evaluate = Evaluate()
        sweep(model, evaluate, meta=meta, seeds=[seed], **keywords)
        assert evaluate.calls == [4]
    assert capsys.readouterr().err.splitlines() == [
        f"0 of 1 cells were already in {tmp_path / 's.csv'}; it also holds 1 row of other cells",
        f"0 of 1 cells were already in {tmp_path / 's.csv'}; it also holds 2 rows of other cells (seed 0)",
    ]


def test_a_folder_that_is_not_there_is_not_made(model, tmp_path):
    evaluate, out = Evaluate(), tmp_path / "deep" / "s.csv"
    text = f"{out}: its folder {out.parent} does not exist; make the folder, or name another path"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        sweep(model, evaluate, out=out)
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        SweepResult().to_csv(out)
    assert evaluate.calls == [] and not out.parent.exists()


def test_an_evaluation_that_calls_no_model_is_a_failed_row(model):
    none, one = sweep(model, lambda m: 0.5, budgets=[1]).rows
    assert none["status"] == "ok" and one["status"] == "failed" and one["score"] is None
    assert one["error"] == (
        "ArgumentError: evaluate() made no call with images of the model it was given: no token was compressed"
    )


def test_a_torn_cell_of_several_tasks_runs_again_as_a_whole(model, tmp_path):
    out = tmp_path / "s.csv"
    result = sweep(model, Evaluate(tasks=["a", "b"]), out=out, baselines=())
    assert [(row["task"], row["num_tokens"]) for row in result] == [("a", 1), ("b", 1), ("a", 4), ("b", 4)]
    text = out.read_text()
    out.write_text(text[: text.rindex("\n", 0, -1) + 30])
    again = Evaluate(tasks=["a", "b"])
    assert len(sweep(model, again, out=out, baselines=())) == 4 and again.calls == [7]


def test_a_file_of_something_else_is_refused_and_left_alone(model, tmp_path):
    out, evaluate = tmp_path / "mine.csv", Evaluate()
    out.write_text("n,score\n1,2\n")
    with pytest.raises(InputError, match=r"is not the table of a sweep: its columns are n,score; nothing was written"):
        sweep(model, evaluate, out=out)
    assert out.read_text() == "n,score\n1,2\n" and evaluate.calls == []
    broken = HEADER + ",".join(["x"] * len(COLUMNS)) + "\n"
    out.write_text(broken)
    with pytest.raises(InputError, match="row 2, column schema: 'x' is not a number"):
        SweepResult.from_csv(out)
    out.write_text(HEADER + "1,2\n")
    with pytest.raises(InputError, match=f"row 2 has 2 cells, the header has {len(COLUMNS)}"):
        SweepResult.from_csv(out)
    with pytest.raises(InputError, match="no such file"):
        SweepResult.from_csv(tmp_path / "none.csv")


def test_a_table_survives_its_file_to_the_bit(tmp_path):
    rows = [
        {
            "status": "ok",
            "compressor": 'a "b", c',
            "score": 0.1 + 0.2,
            "num_tokens": 3,
            "error": None,
            "mean_tokens": 1 / 3,
        }
    ]
    SweepResult(rows).to_csv(tmp_path / "s.csv")
    assert SweepResult.from_csv(tmp_path / "s.csv") == SweepResult(rows)
    with open(tmp_path / "s.csv", newline="") as file:
        assert next(csv.DictReader(file))["vision_ms"] == ""  # unknown is empty, never 0
    with pytest.raises(ArgumentError, match=r"has no column 'scor'\. Did you mean 'score'"):
        SweepResult(rows).filter(scor=1)
    with pytest.raises(ArgumentError, match="has no column 'speed'"):
        SweepResult([{"speed": 1}])


def test_labels_options_ratios_and_seeds(model):
    compressors = {
        "one": tokscale.create_compressor("random", num_tokens=2, seed=5),
        "two": ("random", {"seed": 7}),
        "three": "random",
        "four": (tokscale.create_compressor("uniform", num_tokens=2), {"positions": "original"}),
    }
    result = tokscale.sweep(
        model, compressors, Evaluate(), budgets=[0.5, 3], seeds=[0, 1], baselines=(), progress=False
    )
    assert [row["status"] for row in result] == ["ok"] * 16
    half = result.filter(compressor="one").rows[0]
    assert (half["num_tokens"], half["num_tokens_kept"]) == (None, 72)
    assert json.loads(half["arguments"]) == {"retention_ratio": 0.5, "seed": 5}
    assert {row["arguments"] for row in result.filter(compressor="two", num_tokens=3)} == {'{"seed": 7}'}
    assert {row["arguments"] for row in result.filter(compressor="three", num_tokens=3)} == {"{}"}
    assert {row["arguments"] for row in result.filter(compressor="four", num_tokens=3)} == {'{"positions": "original"}'}
    assert compressors["one"].num_tokens == 2  # the user's object keeps its own budget


def test_a_seed_reaches_the_draw_and_the_callers_generators_stay(model):
    drawn = []

    def evaluate(model):
        ask(model)
        drawn.append(float(torch.rand(())))
        return 0.5

    torch.manual_seed(3)
    state = torch.get_rng_state()
    sweep(model, evaluate, budgets=[1], seeds=[0, 1, 2], baselines=())
    assert torch.equal(torch.get_rng_state(), state) and len(set(drawn)) == 3
    sweep(model, evaluate, budgets=[1], seeds=[1], baselines=())
    assert drawn[3] == drawn[1]


@pytest.mark.parametrize(
    "change, error, text",
    [
        ({"budgets": [0]}, BudgetError, "must be an integer >= 1, got 0"),
        ({"budgets": [1.5]}, BudgetError, "a share of the tokens lies in (0, 1], got 1.5"),
        ({"budgets": [True]}, BudgetError, "got True"),
        ({"budgets": [4, 4]}, BudgetError, "names one twice"),
        ({"budgets": []}, ArgumentError, "budgets is empty: there is nothing to run"),
        ({"budgets": "14"}, ArgumentError, "budgets must be a list, got '14'"),
        (
            {"compressors": ["divprun"]},
            UnknownCompressorError,
            "unknown compressor 'divprun'. Did you mean 'divprune'?",
        ),
        ({"compressors": ["uniform", "uniform"]}, ArgumentError, "two compressors are called 'uniform'"),
        ({"compressors": {"none": "uniform"}}, ArgumentError, "'none' is the name of a baseline"),
        ({"compressors": [3]}, ArgumentError, "a compressor is a name, a TokenCompressor or a pair"),
        ({"baselines": ["full"]}, ArgumentError, 'baselines="full" is unknown; choose from native, none'),
        ({"seeds": [0.5]}, ArgumentError, "seeds must be integers >= 0, got 0.5"),
        ({"meta": {"colour": 1}}, ArgumentError, "meta has no column 'colour'"),
        ({"evaluate": 3}, ArgumentError, "evaluate must be a function of the model, got int"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(model, change, error, text):
    evaluate = Evaluate()
    given = {"compressors": ["uniform"], "evaluate": evaluate, "budgets": [1], **change}
    with pytest.raises(error) as caught:
        tokscale.sweep(model, given.pop("compressors"), given.pop("evaluate"), progress=False, **given)
    assert text in str(caught.value) and evaluate.calls == []


@pytest.mark.parametrize(
    "answer, text",
    [
        (float("nan"), "the score must be a finite number, got float nan"),
        ("0.5", "the score must be a finite number, got str '0.5'"),
        (
            {"score": 50.0, "n_items": 10},
            "with n_items the score is a share in [0, 1], got 50.0; divide it by its scale",
        ),
        ({"score": 0.5, "n_items": 0}, "n_items must be an integer >= 1, got 0"),
        ({"score": 0.5, "colour": 1}, "evaluate() has the key 'colour'"),
        ({"cell": {"scores": 1}}, "evaluate()['cell'] has the key 'scores'"),
        ({}, "evaluate returned an empty dict"),
    ],
)
def test_an_answer_that_is_no_score_fails_its_cell(model, answer, text):
    (row,) = sweep(model, lambda m: answer, budgets=[1], baselines=()).rows
    assert row["status"] == "failed" and text in row["error"]


def test_a_model_that_cannot_be_patched_is_an_error_and_not_forty_rows(model):
    with tokscale.patch(model, "uniform", num_tokens=3), pytest.raises(PatchError, match="is already patched"):
        sweep(model, Evaluate())
    with pytest.raises(UnsupportedModelError):
        sweep(torch.nn.Linear(2, 2), Evaluate())


def test_progress_goes_to_stderr_and_log_gets_each_row(model, capsys):
    seen = []
    tokscale.sweep(model, ["uniform"], Evaluate(), budgets=[1, 4], baselines=(), log=seen.append)
    said = capsys.readouterr()
    assert said.out == "" and "[2/2] uniform, 4 tokens: score 0.02 (0 s left)" in said.err
    assert [row["num_tokens"] for row in seen] == [1, 4]


def test_two_ranks_share_the_cells_and_rank_0_merges(tmp_path):
    script = tmp_path / "ranked.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {os.getcwd()!r})
            import torch, tokscale
            torch.set_num_threads(1)
            result = tokscale.sweep(
                torch.nn.Linear(2, 2), [], lambda model: float(torch.rand(())), budgets=[1], baselines=("none",),
                seeds=range(5), out="s.csv", progress=False,
            )
            print([(row["seed"], row["rank"]) for row in result])
            """
        )
    )
    ranked = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000)}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script)],
            cwd=tmp_path,
            env={**os.environ, **ranked, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [job.communicate(timeout=120)[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert said == ["[(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]"] * 2  # dealt in turn, merged and sorted
    assert len(SweepResult.from_csv(tmp_path / "s.csv")) == 5 and not list(tmp_path.glob("*.rank*"))


def test_the_long_cells_of_a_rank_come_first(model, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    cells = plan(["uniform"], [1, 16, 4, 0.5], ["none"], [0], {}, len)
    with Store(tmp_path / "s.csv", cells, resume=True, progress=False) as store:
        assert [cell.title for cell in store.todo()] == ["none", "uniform, 4 tokens", "uniform, 50%"]
        assert store.file.name == "s.rank0.csv"


def test_a_rank_that_is_none_is_refused(model, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="RANK=2 and WORLD_SIZE=2 are not a rank and a number of processes"):
        sweep(model, Evaluate())


def test_sweep_is_the_function_also_after_its_module_was_imported():
    import tokscale.sweep

    assert callable(tokscale.sweep) and tokscale.SweepResult is SweepResult
