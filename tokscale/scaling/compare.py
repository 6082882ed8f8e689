"""`compare_laws`: which form fits best, and whether the data can tell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FitError, ScalingFitWarning
from . import notes, serial
from .fit import fit_power_law
from .law import choose
from .laws import LAWS, get_law
from .result import ScalingFit
from .skill import Skill

CRITERIA = {"aicc": "AICc", "loo": "leave-one-out error", "holdout": "error on held-out budgets"}  # in words
_ALWAYS = ("power", "power_additive", "loglinear", "saturating", "regime")


@dataclass(frozen=True, eq=False, repr=False)
class LawComparison:
    """Fits of several forms to the same scores, and what speaks for each.

    Attributes:
        best: the form with the least value of the criterion.
        criterion: "aicc", "loo" or "holdout".
        values: the criterion by form; smaller is better.
        weights: Akaike weights by form, `exp(-(AICc - min) / 2)` normalised: how far the data support each.
        fits: the fits by form.
        skipped: why a form is missing, by form.
        undecided: forms whose AICc is within 2 of that of the best; empty for the other criteria.
        skill: the held-out `Skill` of each form, None where too few budgets are left to fit.
        warnings: notes, each with its code first.
    """

    best: str
    criterion: str
    values: dict[str, float]
    weights: dict[str, float]
    fits: dict[str, ScalingFit]
    skipped: dict[str, str]
    undecided: tuple[str, ...]
    skill: dict[str, Skill | None]
    warnings: tuple[str, ...]

    def table(self) -> list[dict[str, Any]]:
        """Return one row per form, best first: parameters, AICc above the least, weight, errors, skill."""
        rows = []
        for form in sorted(self.values, key=self.values.__getitem__):
            fit, skill = self.fits[form], self.skill[form]
            rows.append(
                {
                    "form": form,
                    "k": len(fit.law.params),
                    "aicc": fit.aicc,
                    "delta": _above(fit.aicc, min(f.aicc for f in self.fits.values())),
                    "weight": self.weights[form],
                    "loo_rmse": fit.loo_rmse,
                    "holdout_mape": math.nan if skill is None else skill.mape,
                    "skill": math.nan if skill is None else skill.skill,
                }
            )
        return rows

    def summary(self) -> str:
        """Return the table as text, with what was skipped and what the data cannot decide."""
        lines = [f"{self.best} is best by {CRITERIA[self.criterion]}, of {len(self.fits)} forms"]
        head = f"  {'form':15s} {'k':>2s} {'AICc':>10s} {'delta':>8s} {'weight':>7s} {'LOO error':>10s} {'skill':>8s}"
        lines.append(head)
        for row in self.table():
            lines.append(
                f"  {row['form']:15s} {row['k']:2d} {row['aicc']:10.4g} {row['delta']:8.3g} {row['weight']:7.3f} "
                f"{row['loo_rmse']:10.4g} {row['skill']:8.3g}"
            )
        lines += [f"  skipped {form}: {reason}" for form, reason in self.skipped.items()]
        return "\n".join([*lines, *(f"  ! {text}" for text in self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain JSON, each fit as `ScalingFit.to_dict` has it."""
        skill = {form: None if s is None else dict(vars(s)) for form, s in self.skill.items()}
        plain = {name: getattr(self, name) for name in _PLAIN}
        fits = {form: fit.to_dict() for form, fit in self.fits.items()}
        return {"schema": 1, **serial.encode(plain), "fits": fits, "skill": serial.encode(skill)}

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw all forms over the scores; returns the Axes."""
        from ..plotting import plot_comparison

        return plot_comparison(self, ax, **options)

    def __repr__(self) -> str:
        values = ", ".join(f"{form} {value:.4g}" for form, value in sorted(self.values.items(), key=lambda kv: kv[1]))
        return f"LawComparison(best={self.best} by {self.criterion}: {values})"


_PLAIN = ("best", "criterion", "values", "weights", "skipped", "undecided", "warnings")


def compare_laws(
    n: Any,
    score: Any,
    *,
    forms: Sequence[str] | None = None,
    criterion: str = "aicc",
    holdout_from: float | None = None,
    floor: float | None = None,
    ceil: float | None = None,
    **same: Any,
) -> LawComparison:
    """Return the fits of several forms and which of them is best.

    Forms fitted in different spaces compare by a likelihood that is carried to the score scale:
    `AICc = -2 loglik + 2 K + 2 K (K + 1) / (N - K - 1)`, K parameters with sigma. A form within 2 of the best is as
    good an explanation of these data, and is named in `undecided`.

    Args:
        n, score: as in `fit_power_law`.
        forms: names in `LAWS`; default `power`, `power_additive`, `loglinear`, `saturating`, `regime`, with `broken`
            from 8 distinct budgets, and `logit` and `neglog` where floor and ceil are given.
        criterion: "aicc"; "loo", the leave-one-out error on the score scale; or "holdout", the mean relative error on
            budgets from `holdout_from` up of a law fitted below them.
        holdout_from: the first budget held out; default, the third largest.
        floor, ceil: the least and largest possible score.
        same: further options of `fit_power_law`, the same for every form. `ci=None` is quicker.

    Raises:
        FitError: an unknown form or criterion, "binomial" (a quasi-likelihood has nothing to compare), or data that
            no form can take. A form that cannot take the data is in `skipped`.

    Cost: some 5 ms per form; half of that with `ci=None`.

    Example:
        >>> n = [1, 8, 16, 32, 64, 128, 256, 384, 512, 768]
        >>> score = [24, 221, 268, 320, 386, 438, 448, 445, 472, 493]
        >>> found = compare_laws(n, score, floor=0, ceil=1000)
        >>> found.best, found.undecided
        ('saturating', ())

    Source: H. Akaike, "A new look at the statistical model identification", 1974; the correction is that of C. M.
        Hurvich and C.-L. Tsai, "Regression and time series model selection in small samples", 1989.
    """
    choose("criterion", criterion, CRITERIA)
    names = _forms(n, forms, floor, ceil)
    fits: dict[str, ScalingFit] = {}
    skipped: dict[str, str] = {}
    values: dict[str, float] = {}
    skill: dict[str, Skill | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)  # each fit carries its own
        for form in names:
            try:
                fit = fit_power_law(n, score, form=form, floor=floor, ceil=ceil, **same)
                skill[form] = _skill(fit, holdout_from, must=criterion == "holdout")
                values[form] = _value(fit, skill[form], criterion)
            except FitError as error:
                skipped[form] = str(error)
            else:
                fits[form] = fit
    if not fits:
        raise FitError(next(iter(skipped.values())))
    skill = {form: skill[form] for form in fits}
    best = min(values, key=lambda form: (values[form], len(get_law(form).params)))
    aicc = {form: fit.aicc for form, fit in fits.items()}
    near = [form for form in fits if form != best and _above(aicc[form], aicc[best]) <= 2]
    undecided = tuple(sorted(near, key=aicc.__getitem__)) if criterion == "aicc" else ()
    said = notes.undecided(best, undecided)
    if (held := skill[best]) is not None and held.skill < 0:
        said.append(notes.no_skill(held.mape, held.baseline_mape))
    return LawComparison(best, criterion, values, _weights(aicc), fits, skipped, undecided, skill, tuple(said))


def _forms(n: Any, forms: Sequence[str] | None, floor: Any, ceil: Any) -> list[str]:
    if forms is None:
        named = list(_ALWAYS)
        if len(np.unique(np.asarray(n, dtype=float))) >= LAWS["broken"].min_budgets:
            named.append("broken")
        return named + (["logit", "neglog"] if floor is not None and ceil is not None else [])
    if isinstance(forms, str) or not len(forms):
        raise FitError(f"forms must be a list of names of laws, got {forms!r}")
    for form in forms:
        if get_law(form).counted:
            raise FitError(f'form="{form}" is a quasi-likelihood without an AICc; compare_laws cannot take it')
    return list(dict.fromkeys(forms))


def _skill(fit: ScalingFit, holdout_from: float | None, *, must: bool) -> Skill | None:
    try:
        return fit.skill_vs_baseline(holdout_from)
    except FitError:
        if must:
            raise
        return None


def _value(fit: ScalingFit, skill: Skill | None, criterion: str) -> float:
    value = {"aicc": fit.aicc, "loo": fit.loo_rmse, "holdout": math.nan if skill is None else skill.mape}[criterion]
    if math.isnan(value):
        raise FitError(f"{CRITERIA[criterion]} cannot be had from {fit.n_obs} points")
    return value


def _above(value: float, least: float) -> float:
    """Return value - least, where both may be the same infinity."""
    return 0.0 if value == least else value - least


def _weights(aicc: dict[str, float]) -> dict[str, float]:
    least = min(aicc.values())
    raw = {form: math.exp(-_above(value, least) / 2) for form, value in aicc.items()}
    total = sum(raw.values())
    return {form: value / total for form, value in raw.items()}
