"""The quasi-binomial law: counts of right answers, fitted by iteratively reweighted least squares.

`logit E u = a + b ln n` for shares u of `n_items`; the dispersion `phi = max(1, Pearson chi2 / (N - 2))` widens what
the binomial errors alone would give.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..errors import FitError
from .law import Array, Law
from .least_squares import Solution, solve_design
from .links import expit, share
from .points import Points

_STEPS = 100


def solve_counts(law: Law, points: Points) -> Solution:
    """Return the quasi-likelihood fit as the weighted least squares of its last step.

    Raises:
        FitError: where no finite coefficients fit best (all shares 0 up to a budget and 1 from it on).
    """
    log_n = np.log(points.n)
    center, items = law.center(log_n), points.n_items
    x, u = law.basis(log_n, center, 0.0), share(points.score, points.floor, points.ceil)
    if points.constant:
        return _constant(x, u, items, center)  # type: ignore[arg-type]
    start = (u * items + 0.5) / (items + 1)  # type: ignore[operator]
    eta, coef = np.log(start / (1 - start)), np.full(2, np.inf)
    for _ in range(_STEPS):
        slope = np.maximum(expit(eta) * expit(-eta), 1e-300)
        found = solve_design(x, eta + (u - expit(eta)) / slope, items * slope, center)  # type: ignore[operator]
        step, coef = float(np.max(np.abs(found.coef - coef))), found.coef
        eta = x @ coef
        if not np.all(np.abs(eta) < 30):
            break
        if step <= 1e-10 * max(1.0, float(np.max(np.abs(coef)))):  # steps shrink as squares
            return replace(found, dispersion=max(1.0, found.rss / found.dof) if found.dof > 0 else math.nan)
    raise FitError(
        f'form="{law.form}" has no best fit for these counts: some budgets have every item right and the others '
        "none; add budgets between them"
    )


def _constant(x: Array, u: Array, items: Array, center: float) -> Solution:
    """Return the fit of equal shares without arithmetic on them: slope exactly 0, residuals exactly 0."""
    total = float(np.sum(items))
    level = min(max(float(u[0]), 0.5 / (total + 1)), 1 - 0.5 / (total + 1))  # half an item inside at 0 and 1
    found = solve_design(x, np.zeros_like(u), items * level * (1 - level), center)
    z = math.log(level / (1 - level))
    return replace(found, z=np.full_like(u, z), coef=np.array([z, 0.0]), residuals=np.zeros_like(u), dispersion=0.0)
