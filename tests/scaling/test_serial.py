"""A fit goes through JSON, pickle and copy, and predicts the same bits."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from tokscale.scaling import ScalingFit

from .curves import BUDGETS, OCRBENCH, quiet

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "plain": (BUDGETS, OCRBENCH, {}),
    "shuffled": (BUDGETS[::-1], OCRBENCH[::-1], {"weights": BUDGETS}),
    "counted": (BUDGETS, OCRBENCH, {"n_items": 1000, "floor": 0, "ceil": 1000, "exclude": [384]}),
    "errors": (BUDGETS, OCRBENCH, {"se": 10.0, "ci": "bootstrap_t", "n_boot": 100}),
    "huber": (BUDGETS, OCRBENCH, {"robust": "huber", "weights": BUDGETS[::-1]}),
    "lad": (BUDGETS, OCRBENCH, {"robust": "lad"}),
    "constant": (BUDGETS, [3.5] * 10, {}),
    "two budgets": ([1, 8], [2, 3], {}),
    "few for Kendall": (BUDGETS[:4], OCRBENCH[:4], {"robust": "theil_sen"}),
}


@pytest.mark.filterwarnings("ignore::tokscale.errors.ScalingFitWarning")
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("way", ["json", "pickle", "deepcopy"])
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
    assert other.summary() == fit.summary()
    assert type(other.outliers) is tuple and type(other.ci["c"]) is tuple and not other.n.flags.writeable
    if case not in ("lad", "few for Kendall"):
        for kind in ("mean", "new"):
            assert repr(other.interval(ask, kind=kind)) == repr(fit.interval(ask, kind=kind))


def test_numbers_that_are_not_finite_are_words() -> None:
    data = quiet([1, 8], [2, 3]).to_dict()
    assert data["sigma"] == "nan" and data["aicc"] == "inf" and data["ci"]["alpha"] == ["nan", "nan"]
    assert quiet(BUDGETS, [3.0] * 10).to_dict()["aicc"] == "-inf"
