"""The text of `ScalingFit.summary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import FitError
from . import notes
from .budget import find_budget

if TYPE_CHECKING:
    from .result import ScalingFit


def summary_text(fit: ScalingFit) -> str:
    """Return about a dozen lines on a fit."""
    law, said = fit.law, list(fit.warnings)
    method = "" if fit.robust is None else f', robust="{fit.robust}"'
    low, high = notes.count(float(np.min(fit.n))), notes.count(float(np.max(fit.n)))
    lines = [f"{law.form}: {law.formula}, {fit.n_obs} points, n = {low} to {high}{method}"]
    width = max(map(len, fit.params))
    how = f"{notes.percent(fit.level)} interval ({fit.ci_method})" if fit.ci_method else "no interval"
    for name, value in fit.params.items():
        lo, hi = fit.ci[name]
        tail = f"  {how} {lo:.6g} to {hi:.6g}" if fit.ci_method else f"  {how}"
        lines.append(f"  {name:{width}s} = {value:.6g}{tail}")
    for name in law.derived:
        lo, hi = fit.ci[name]
        tail = f"  {how} {lo:.6g} to {hi:.6g}" if fit.ci_method else ""
        lines.append(f"  {name} = {getattr(fit, name):.6g}{tail}")
    in_log = f", in ln S {fit.r2_log:.4f}" if law.logarithmic else ""
    lines.append(f"  sigma = {fit.sigma:.4g} in {law.space}; r2 {fit.r2:.4f}{in_log}")
    in_link = "" if law.space == "the score" else f", {fit.loo_rmse_link:.4g} in {law.space}"
    lines.append(f"  leave-one-out error {fit.loo_rmse:.4g} in the score{in_link}")
    if fit.chi2_dof is not None:
        verdict = "explain the scatter" if fit.birge == 1 else f"are too small by a factor of {fit.birge:.3g}"
        lines.append(f"  chi2 per degree of freedom {fit.chi2_dof:.4g}: the errors of the scores {verdict}")
    if fit.excluded:
        lines.append(f"  left out: n = {', '.join(map(notes.count, fit.excluded))}")
    if "alpha" in fit.params and (ranges := fit.alpha_by_range()):
        shown = ", ".join(f"{notes.count(r.n_max)}: {r.alpha:.3g}" for r in ranges)
        lines.append(f"  alpha fitted up to n = {shown}")
    try:
        skill = fit.skill_vs_baseline()
    except FitError:
        pass  # too few budgets to hold any out
    else:
        lines.append(
            f"  held out n >= {notes.count(skill.holdout_from)}: law off by {100 * skill.mape:.1f}%, best score so far "
            f"by {100 * skill.baseline_mape:.1f}% (skill {skill.skill:.3g})"
        )
        if skill.skill < 0:
            said.append(notes.no_skill(skill.mape, skill.baseline_mape))
    answer = find_budget(fit, 0.95)
    seen = "no measured one" if answer.observed is None else f"measured {notes.count(answer.observed)}"
    if answer.reachable:
        lines.append(f"  95% of the score at n = {high}: n = {answer.n} ({answer.lo:.4g} to {answer.hi:.4g}); {seen}")
    else:
        lines.append(f"  95% of the score at n = {high}: the law cannot say; {seen}")
    return "\n".join([*lines, *(f"  ! {text}" for text in dict.fromkeys(said))])
