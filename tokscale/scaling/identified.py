"""What the data cannot say: parameters that they do not determine are NaN and named, never an edge of the search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import notes
from .curve import Curve
from .laws import POWER
from .least_squares import solve


@dataclass(frozen=True)
class Verdict:
    """Which parameters are identified, which of them are to be shown as NaN, and what is said about it."""

    identified: dict[str, bool]
    hidden: tuple[str, ...]
    at_bound: tuple[str, ...]
    said: tuple[str, ...]


def judge(curve: Curve, level: float) -> Verdict:
    """Return the verdict on every parameter of a curve."""
    law, theta = curve.law, curve.law.theta
    flags = dict.fromkeys((*law.params, *law.derived), curve.determined)
    if theta is None:
        return Verdict(flags, (), (), ())
    profile = curve.solution.profile
    at_end = profile.at_end  # type: ignore[union-attr]
    at_bound = (theta.name,) if at_end else ()
    grid = profile.problem.grid  # type: ignore[union-attr]
    edge = notes.at_bound(theta.name, theta.value(curve.theta), sorted(theta.value(float(t)) for t in grid[[0, -1]]))
    said: list[str] = [edge] if at_end else []
    hidden: tuple[str, ...] = at_bound
    if law.form in _AGAINST_POWER:
        names, extra = _AGAINST_POWER[law.form]
        f, p = _f_test(curve, extra)
        better = curve.determined and p < 1 - level
        flags.update(dict.fromkeys(names, better and not at_end))
        hidden = () if flags[theta.name] else names
        if not better:
            said = [notes.unidentified(theta.name, law.form, f, p)] if curve.determined else []
    elif curve.determined:
        lo, hi = curve.theta_interval(level)
        flags[theta.name] = math.isfinite(lo) and math.isfinite(hi) and not at_end
        for name in law.derived:
            flags[name] = lo > 0
    return Verdict(flags, hidden, at_bound, tuple(said))


# Forms that hold the power law as a limit: the parameters that only the rest identifies, and how many it adds.
_AGAINST_POWER: dict[str, tuple[tuple[str, ...], int]] = {"regime": (("beta", "n_balance"), 1), "broken": (("d",), 2)}


def _f_test(curve: Curve, extra: int) -> tuple[float, float]:
    """Return F and its p value for the law against the power law in the same space."""
    from scipy.special import fdtrc

    solution, dof = curve.solution, curve.solution.dof
    plain = solve(POWER, curve.points).rss
    spread = float(np.max(solution.z) - np.min(solution.z)) * math.sqrt(float(np.mean(solution.weights)))
    if dof <= 0 or math.sqrt(plain / len(solution.z)) <= 1e-9 * spread or spread == 0:
        return 0.0, 1.0  # the power law leaves nothing to explain
    if solution.rss == 0:
        return math.inf, 0.0
    f = max(0.0, (plain - solution.rss) / extra / (solution.rss / dof))
    return f, float(fdtrc(extra, dof, f))
