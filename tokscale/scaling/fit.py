"""`fit_power_law`: a scaling law fitted to scores at a few token budgets, with intervals, diagnostics and warnings."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from ..errors import FitError
from . import diagnose, notes
from .curve import Curve
from .identified import Verdict, judge
from .law import Array, Law, choose
from .laws import get_law
from .points import Points, check_level, read_points
from .result import ScalingFit
from .robust import METHODS

_CI = ("auto", "t", "profile", "hc3", "bootstrap_t", "bootstrap", None)


def fit_power_law(
    n: Any,
    score: Any,
    *,
    form: str = "power",
    se: Any = None,
    weights: Any = None,
    n_items: Any = None,
    floor: float | None = None,
    ceil: float | None = None,
    robust: str | None = None,
    exclude: Any = None,
    level: float = 0.95,
    ci: str | None = "auto",
    n_boot: int = 1000,
    seed: int = 0,
) -> ScalingFit:
    """Return the law that fits scores at several token budgets, by default `S(n) = c / n**alpha`, with its intervals.

    Least squares in the space of the form: ln S on ln n for "power". Scores that rise with the budget have a negative
    `alpha`; `fit.exponent = -alpha` is positive for growth. The result is the same to the last bit in whatever order
    the points are given.

    Args:
        n: token budgets, positive; repeated budgets are replicates.
        score: the score at each budget; positive for a form in ln S ("power", "regime", "broken").
        form: the form of the law, a name in `tokscale.scaling.LAWS`; its `formula` says what it is.
        se: standard error of each score; sets the weights `1 / se**2`, in ln S `(score / se)**2`, and gives
            `fit.chi2_dof`.
        weights: relative weights in the space where the form is fitted, instead of `se`.
        n_items: test items behind each score (one number or one per point); their binomial errors give `fit.chi2_dof`.
            The form "binomial" needs them.
        floor, ceil: the least and largest possible score; the forms "logit" and "neglog" need them, elsewhere they
            default to 0 and 100 with `n_items`.
        robust: "theil_sen", "huber", "bisquare" or "lad" instead of least squares, for the form "power".
        exclude: budgets to leave out, recorded in `fit.excluded`.
        level: confidence level of every interval.
        ci: how `fit.ci` is made: "auto" and "profile" are the profile likelihood, which for a form that is a line in
            ln n is the exact "t"; for a line also "hc3" (unequal variances) and "bootstrap_t"; "bootstrap" (covers .87
            where .95 is claimed at ten points), or None.
        n_boot, seed: resamples of the bootstraps, and the seed of their generator.

    Raises:
        FitError: for data that no law can be fitted to, and for unknown options.

    Cost: below a millisecond for a line in ln n, about ten for a form that searches a number.

    Example:
        >>> fit = fit_power_law([1, 8, 64, 512], [12.0, 19.7, 32.1, 52.7])
        >>> round(fit.c, 2), round(fit.exponent, 3)
        (12.01, 0.237)
        >>> fit.budget_for(0.9).n
        329

    Source: T. Li, G. Zhou, X. Zhao, Q. Zhao, "Scaling Capability in Token Space: An Analysis of Large Vision Language
        Model", 2025, arXiv:2412.18387; differs from it in giving intervals and diagnostics.
    """
    law = get_law(form)
    level = check_level(level)
    _check_options(law, robust, ci, se, weights, n_boot, seed)
    points = read_points(
        law, n, score, se=se, weights=weights, n_items=n_items, floor=floor, ceil=ceil, exclude=exclude
    )
    fit = estimate(law, points, robust=robust, level=level, ci=ci, n_boot=n_boot, seed=seed)
    notes.issue(fit.warnings)
    return fit


def _check_options(law: Law, robust: Any, ci: Any, se: Any, weights: Any, n_boot: Any, seed: Any) -> None:
    choose("robust", robust, (*METHODS, None))
    choose("ci", ci, _CI)
    for name, value in (("n_boot", n_boot), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
            raise FitError(f"{name} must be an integer >= 0, got {value!r}")
    if robust is not None and law.form != "power":
        raise FitError('robust= works with form="power" only')
    if law.theta is not None and ci in ("t", "hc3", "bootstrap_t"):
        raise FitError(f'ci="{ci}" works with the linear forms only; form="{law.form}" takes "profile" or "bootstrap"')
    if law.counted and ci in ("hc3", "bootstrap_t", "bootstrap"):
        raise FitError(f'ci="{ci}" resamples or weighs scores, and form="{law.form}" models counts; it takes ci="t"')
    if robust is not None and ci not in ("auto", None):
        raise FitError(
            f'ci="{ci}" does not go with robust="{robust}", which has an interval of its own; pass ci="auto"'
        )
    if robust == "theil_sen" and (se is not None or weights is not None):
        raise FitError('robust="theil_sen" takes neither se= nor weights=; use robust="huber", "bisquare" or "lad"')


@np.errstate(over="ignore")  # squares of scores near the largest float are infinite, and so are their sums
def estimate(
    law: Law,
    points: Points,
    *,
    robust: str | None = None,
    level: float = 0.95,
    ci: str | None = "auto",
    n_boot: int = 1000,
    seed: int = 0,
) -> ScalingFit:
    """Return the fit of checked points; its warnings are listed, none is issued."""
    curve = Curve.of(law, points, robust)
    found = curve.parameters(ci, level, n_boot=n_boot, seed=seed)
    verdict = judge(curve, level)
    fitted = points.score if points.constant else curve.predict(points.n)
    spread = diagnose.scale(curve)
    t = diagnose.studentized(curve, spread["rss"])
    outliers = diagnose.outliers(curve, t, level)
    line, leverage = curve.line, curve.solution.leverage
    return ScalingFit(
        form=law.form,
        params={name: math.nan if name in verdict.hidden else v for name, v in found.values.items()},
        se={name: math.nan if name in verdict.hidden else v for name, v in found.se.items()},
        ci=found.ci,
        level=level,
        ci_method=found.method,
        n=points.give_back(points.n),
        score=points.give_back(points.score),
        weights=points.give_back(points.weights),
        excluded=points.excluded,
        fitted=points.give_back(fitted),
        residuals=points.give_back(points.score - fitted),
        n_obs=len(points),
        dof=curve.solution.dof,
        **spread,
        **diagnose.quality(curve, fitted),
        **diagnose.likelihood(curve, spread["rss"]),
        **diagnose.leave_one_out(curve),
        **diagnose.chi_square(curve, fitted),
        leverage=points.give_back(leverage),
        studentized=points.give_back(t),
        outliers=tuple(sorted(int(i) for i in points.order[outliers["where"]])),
        identified=verdict.identified,
        at_bound=verdict.at_bound,
        converged=line is None or line.converged,
        warnings=_warnings(curve, ci, level, verdict, t, outliers),
        robust_weights=None if line is None or line.weights is None else points.give_back(line.weights),
        robust=robust,
        floor=points.floor,
        ceil=points.ceil,
        score_se=None if points.score_se is None else points.give_back(points.score_se),
        excluded_points=points.excluded_points,
        optimum=dict(found.values),
        coef=tuple(float(b) for b in curve.coef),
        center=curve.center,
        theta=curve.theta,
        n_items=None if points.n_items is None else points.give_back(points.n_items),
    )


def _warnings(
    curve: Curve, ci: str | None, level: float, verdict: Verdict, t: Array, outliers: dict[str, Any]
) -> tuple[str, ...]:
    law, points = curve.law, curve.points
    texts: list[str | None] = [notes.no_interval(law, len(points.budgets))]
    if not law.counted:
        texts.append(notes.small_sample(law, len(points)))
    texts += verdict.said
    if curve.determined and ci is not None:
        growth = curve.growth_interval(level)
        texts.append(notes.flat(level, growth))
        if curve.robust not in ("theil_sen", "lad") and not law.bounded:  # these have no interval for a new score
            far = 2 * float(points.n[-1])
            lo, hi = (float(law.inverse(z, None, None)) for z in curve.interval_at(np.log(far), level, new=True))
            texts.append(notes.out_of_range(level, far, (lo, hi), points.floor, points.ceil))
        if curve.robust is not None:
            texts.append(notes.robust_interval(curve.robust, len(points), level, all(map(math.isfinite, growth))))
    if curve.determined and law.derived and curve.theta < 0 and not verdict.at_bound:
        texts.append(notes.accelerating(law.theta.name, curve.theta))  # type: ignore[union-attr]
    if curve.determined:
        texts += notes.leverage(points, curve.solution.leverage)
    texts += notes.outliers(points, t, outliers["where"], outliers["limit"])
    texts += notes.non_monotone(points)
    if curve.line is not None and not curve.line.converged:
        texts.append(f'not-converged: robust="{curve.robust}" did not settle; its last step is given')
    return tuple(text for text in texts if text is not None)
