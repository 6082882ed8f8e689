"""`fit_joint_law`: one law for model size and token budget together."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import FitError
from .. import notes
from ..law import choose
from ..points import check_level
from .additive import fit_additive
from .allocate import Allocation
from .points import FORMS, LOSSES, JointPoints, correlated, read_delta, read_fix, read_joint
from .product import fit_product
from .result import JointFit, predict
from .score import fit_additive_score, fit_loglinear
from .slice import JointSlice
from .solved import Solved

__all__ = ["Allocation", "JointFit", "JointSlice", "fit_joint_law"]


def fit_joint_law(
    N: Any,
    T: Any,
    y: Any,
    *,
    form: str = "product",
    loss: str = "mse",
    delta: float = 1e-3,
    fix: dict[str, float] | None = None,
    level: float = 0.95,
) -> JointFit:
    """Return the law of y in model size N and vision tokens T that fits the points best.

    `product`: `y = A N**-a T**-b + D`, on an error such as `1 - accuracy`. D is 0 unless its profile over `[0, min y)`
    has an interior minimum and F(1, points - 4) rejects D = 0 at `level`: a free D runs away, to negative exponents.
    `additive`: `y = E + A N**-a + B T**-b`, on a loss. `loglinear`: `y = a + b ln N + c ln T`.

    Args:
        N: model sizes, in any unit, such as billions of parameters; it goes into A.
        T: token budgets.
        y: what was measured: errors, losses or scores.
        form: the law.
        loss: of the residuals. "mse" squares those of y. For `additive` also, of ln y: "huber", "lad" (absolute
            value), "log_mse" (squares). Their optima differ in the third digit: name the loss with every number.
        delta: where Huber's loss turns from square to straight, in ln y.
        fix: parameters with given values, such as `{"D": 0.1}`.
        level: of the test that D (or E, by least squares in the fitted space) is not 0.

    Shape:
        N, T and y: (points,), in any order; repeated (N, T) are replicates.

    Raises:
        FitError: for shapes, values, names or too few sizes and budgets; the message says which.

    Warns:
        ScalingFitWarning: `unidentified` where D or E is not told from 0, or ln N and ln T have a correlation above
            .99; `at-bound` where an exponent of `additive` by "mse" ends at 0.01 or 3.

    Cost:
        On one core 0.1 s for a product law with its profile of D (1 ms where D is fixed), and 0.1 s for an additive one
        of 240 points with "huber".

    Example:
        >>> N = [0.5, 0.5, 0.5, 4, 4, 4, 7, 7, 7]
        >>> T = [4, 36, 576, 4, 36, 576, 4, 36, 576]
        >>> fit = fit_joint_law(N, T, [0.5 * n**-0.3 * t**-0.1 + 0.2 for n, t in zip(N, T)])
        >>> {name: round(value, 6) for name, value in fit.params.items()}
        {'A': 0.5, 'a': 0.3, 'b': 0.1, 'D': 0.2}
        >>> fit.identified["D"], round(fit(2, 64), 3)
        (True, 0.468)

    Source: `product` K. Y. Li, S. Goyal, J. D. Semedo, J. Z. Kolter, "Inference Optimal VLMs Need Only One Visual Token
    but Larger Models", 2024, arXiv:2411.03312; `additive` J. Hoffmann et al., "Training Compute-Optimal Large Language
    Models", 2022, arXiv:2203.15556, with the summed loss of T. Besiroglu et al., 2024, arXiv:2404.10102. Differs from
    them in that D must be shown to be above 0, and in deterministic starts.
    """
    choose("form", form, FORMS)
    choose("loss", loss, LOSSES)
    if loss != "mse" and form != "additive":
        raise FitError(f'loss="{loss}" works with form="additive" only; form="{form}" takes loss="mse"')
    delta, level = read_delta(delta), check_level(level)
    given = read_fix(form, loss, fix)
    points = read_joint(N, T, y, form, loss, given)
    found = _solve(points, form, loss, delta, given, level)
    said = list(found.notes)
    identified = {name: name not in found.unidentified for name in FORMS[form]}
    mixed = correlated(points, form, given)
    if mixed is not None:
        said.append(mixed)
        identified.update(dict.fromkeys(("b", "c") if form == "loglinear" else ("a", "b"), False))
    params = {name: found.params[name] + 0.0 for name in FORMS[form]}
    with np.errstate(invalid="ignore"):
        fitted = points.give_back(predict(form, params, points.N, points.T))
        kept = [points.give_back(values) for values in (points.N, points.T, points.y)]
        residuals = kept[2] - fitted
    residuals.flags.writeable = False
    fit = JointFit(
        form=form,
        loss=loss,
        delta=delta,
        params=params,
        fix=given,
        identified=identified,
        objective=found.objective,
        rss=found.rss,
        n_obs=len(points),
        profile_D=found.profile,
        level=level,
        warnings=tuple(said),
        N=kept[0],
        T=kept[1],
        y=kept[2],
        fitted=fitted,
        residuals=residuals,
    )
    notes.issue(fit.warnings)
    return fit


def _solve(points: JointPoints, form: str, loss: str, delta: float, fix: dict[str, float], level: float) -> Solved:
    if form == "product":
        return fit_product(points, fix, level)
    if form == "loglinear":
        return fit_loglinear(points, fix)
    if loss == "mse":
        return fit_additive_score(points, fix, level)
    return fit_additive(points, loss, delta, fix, level)
