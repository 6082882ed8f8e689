"""A fit goes through JSON, pickle and copy, and predicts the same bits."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from tokscale.errors import FitError
from tokscale.scaling import LAWS, ScalingFit

from .curves import BUDGETS, CURVES, OCRBENCH, options, quiet, truth

MORE: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    **{form: (*CURVES["Overall@POPE"], options(form)) for form in LAWS},
    **{f"{form}, noise-free": (BUDGETS, truth(form), options(form)) for form in LAWS},
    **{f"{form}, falling": (BUDGETS[::-1], truth(form) + 1e-3, options(form, exclude=[64])) for form in LAWS},
    **{f"{form}, constant": (BUDGETS, [33.0] * 10, options(form)) for form in LAWS},
}
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "plain": (BUDGETS, OCRBENCH, {}),
    "shuffled": (BUDGETS[::-1], OCRBENCH[::-1], {"weights": BUDGETS}),
    "counted": (BUDGETS, OCRBENCH, {"n_items": 1000, "floor": 0, "ceil": 1000, "exclude": [384]}),
    "errors": (BUDGETS, OCRBENCH, {"se": 10.0, "ci": "bootstrap_t", "n_boot": 100}),
    "huber": (BUDGETS, OCRBENCH, {"robust": "huber", "weights": BUDGETS[::-1]}),
    "lad": (BUDGETS, OCRBENCH, {"robust": "lad"}),
    "constant": (BUDGETS, [3.5] * 10, {}),
    "two budgets": ([1, 8], [2, 3], {}),
    **MORE,
    "at bound": (*CURVES["Overall@RealWorldQA"], {"form": "saturating", "weights": BUDGETS}),
    "bootstrap": (*CURVES["Overall@MME"], {"form": "regime", "ci": "bootstrap", "n_boot": 50, "level": 0.9}),
    "few for a bend": ([1, 8, 64], [2, 3, 3.5], {"form": "saturating"}),
    "few for Kendall": (BUDGETS[:4], OCRBENCH[:4], {"robust": "theil_sen"}),
}


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
@pytest.mark.parametrize(
    ("case", "way"),
    [(case, way) for case in CASES for way in ("json", "pickle", "deepcopy") if way == "json" or case not in MORE],
)
def test_round_trip(case: str, way: str) -> None:
    n, score, options = CASES[case]
    fit = quiet(n, score, **options)
    asked = fit.budget_for(0.9)  # before the copy: what it keeps must travel too
    if way == "json":
        other = ScalingFit.from_dict(json.loads(json.dumps(fit.to_dict(), allow_nan=False)))
    else:
        other = copy.deepcopy(fit) if way == "deepcopy" else pickle.loads(pickle.dumps(fit))
    assert json.dumps(other.to_dict()) == json.dumps(fit.to_dict())
    assert other.to_dict()["schema"] == 1
    ask = [0.3, 1, 7, 64, 1000, 5000]
    assert other(ask).tobytes() == fit(ask).tobytes()
    assert other(ask, mean=True).tobytes() == fit(ask, mean=True).tobytes()
    assert repr(other.budget_for(0.9)) == repr(asked)
    for question in (
        lambda f: f.budget_for(20.0, of="score"),
        lambda f: f.skill_vs_baseline(),
        lambda f: f.alpha_at(ask).tolist(),
        lambda f: f.optimal_budget(float, weight=0.001),
    ):
        assert repr(answer(question, other)) == repr(answer(question, fit))
    assert other.summary() == fit.summary() and repr(other) == repr(fit)
    assert type(other.outliers) is tuple and not other.n.flags.writeable
    assert all(type(pair) is tuple for pair in other.ci.values())
    if case not in ("lad", "few for Kendall"):
        for kind in ("mean", "new")[: 1 if fit.law.counted else 2]:
            assert repr(other.interval(ask, kind=kind)) == repr(fit.interval(ask, kind=kind))


def answer(question: Any, fit: ScalingFit) -> Any:
    try:
        return question(fit)
    except FitError as error:
        return str(error)


def test_numbers_that_are_not_finite_are_words() -> None:
    data = quiet([1, 8], [2, 3]).to_dict()
    assert data["sigma"] == "nan" and data["aicc"] == "inf" and data["ci"]["alpha"] == ["nan", "nan"]
    assert quiet(BUDGETS, [3.0] * 10).to_dict()["aicc"] == "-inf"
