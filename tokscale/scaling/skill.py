"""Whether a law predicts: its error on budgets it has not seen, beside that of carrying the best score forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import FitError
from .curve import Curve
from .diagnose import relative_error
from .notes import count
from .points import numbers


@dataclass(frozen=True)
class Skill:
    """Mean relative errors (fractions) on held-out budgets, of the law and of the best score so far carried forward.

    `skill = 1 - mape / baseline_mape`: 1 is perfect, 0 no better than the baseline, negative worse.
    """

    mape: float
    baseline_mape: float
    skill: float
    n_train: int
    n_test: int
    holdout_from: float


def held_out_skill(curve: Curve, holdout_from: float | None = None) -> Skill:
    """Return the skill, on budgets from `holdout_from` up (default: the third largest), of a law fitted below it."""
    points, law = curve.points, curve.law
    budgets = points.budgets
    if holdout_from is None:
        holdout_from = float(budgets[max(0, len(budgets) - 3)])
    else:
        holdout_from = float(numbers("holdout_from", holdout_from))
    train = points.n < holdout_from
    left = int(np.sum(budgets < holdout_from))
    if left < law.min_interval:
        word = "budget" if left == 1 else "budgets"
        raise FitError(
            f"holdout_from={count(holdout_from)} leaves {left} {word} to fit; "
            f'form="{law.form}" needs {law.min_interval}'
        )
    if not np.any(~train):
        raise FitError(
            f"holdout_from={count(holdout_from)} leaves no budget to predict; the largest is {count(budgets[-1])}"
        )
    part = Curve.of(law, points.keep(train), curve.robust)
    score = points.score[~train]
    predicted = part.predict(points.n[~train])
    mape = relative_error(predicted, score)
    baseline = relative_error(np.max(points.score[train]), score)
    if baseline > 0:
        skill = 1 - mape / baseline
    else:
        skill = 0.0 if mape < 1e-12 else -math.inf  # equal scores come back to rounding
    return Skill(mape, baseline, skill, int(train.sum()), len(score), holdout_from)
