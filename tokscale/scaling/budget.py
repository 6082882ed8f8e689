"""Which budget is enough: the smallest n that keeps a share of the score, with its interval; or the best at a price."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from . import fieller, notes
from .law import Array, choose
from .points import check_level
from .serial import encode

if TYPE_CHECKING:
    from .result import ScalingFit

_OF = ("full", "max", "asymptote", "score")


@dataclass(frozen=True)
class Budget:
    """The answer of `ScalingFit.budget_for`.

    `n` is the smallest whole number of tokens that reaches the target by the law, or, where the law cannot say
    (`reachable` False), the smallest measured budget that does; `exact` solves `S(n) = target_score`, `lo` and `hi` are
    its interval. `observed` is the smallest measured budget that reaches the same share of the best observed score.
    """

    n: int | None
    exact: float
    lo: float
    hi: float
    target: float
    reachable: bool
    extrapolated: bool
    observed: float | None
    warnings: tuple[str, ...]
    of: str = "full"
    target_score: float = math.nan
    level: float = 0.95

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON; non-finite numbers are strings."""
        return {name: encode(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class OptimalBudget:
    """The best whole budget at a price: its score, its cost, what was maximised, whether it is an end of the range."""

    n: int
    score: float
    cost: float
    objective: float
    on_bound: bool


@np.errstate(over="ignore")
def find_budget(fit: ScalingFit, target: Any, *, of: str = "full", level: float | None = None) -> Budget:
    """Return the budget that reaches a target; warnings are listed, none is issued."""
    choose("of", of, _OF)
    level = fit.level if level is None else check_level(level)
    target = _read_target(fit, target, of)
    curve = fit._curve
    budgets, means, _ = curve.points.means()
    n_full, best = float(budgets[-1]), float(np.max(means))
    wanted = target if of == "score" else target * best
    observed = next((float(b) for b, s in zip(budgets, means) if s >= wanted), None)
    reference = {"full": float(fit(n_full)), "max": best, "asymptote": fit.asymptote, "score": 1.0}[of]
    score = target * reference
    unreachable = Budget(
        n=None if observed is None else max(1, math.ceil(observed)),
        exact=math.nan,
        lo=math.nan,
        hi=math.nan,
        target=target,
        reachable=False,
        extrapolated=False,
        observed=observed,
        warnings=(),
        of=of,
        target_score=score,
        level=level,
    )
    growth = curve.growth_interval(level)
    if not growth[0] > 0:
        said = [notes.flat(level, growth), notes.no_interval(curve.law, len(budgets))]
        if curve.robust == "lad":
            said.append(notes.robust_interval("lad", len(curve.points), level, False))
        return _replace(unreachable, warnings=tuple(text for text in said if text is not None))
    if of == "asymptote" and not fit.identified.get("asymptote", False):
        return unreachable
    if fit.ceil is not None and score > fit.ceil:
        return _replace(unreachable, warnings=(notes.target_out_of_range(score, fit.ceil),))
    exact, lo, hi = fieller.solve(curve, score, level, growth, target if of == "full" else None)
    if not math.isfinite(exact):
        return unreachable
    far = notes.extrapolation(exact, n_full)
    return _replace(
        unreachable,
        n=max(1, math.ceil(exact * (1 - 1e-9))),  # a measured budget hit exactly is not pushed up by rounding
        exact=exact,
        lo=lo,
        hi=hi,
        reachable=True,
        extrapolated=exact > n_full,
        warnings=() if far is None else (far,),
    )


def _replace(budget: Budget, **changes: Any) -> Budget:
    return Budget(**{**budget.__dict__, **changes})


def _read_target(fit: ScalingFit, target: Any, of: str) -> float:
    try:
        value = float(target)
    except (TypeError, ValueError) as error:
        raise FitError(f"budget_for({target!r}): the target must be a number") from error
    if of != "score" and not 0 < value < 1:
        raise FitError(f'budget_for({target}): a fraction lies in (0, 1); for an absolute score pass of="score"')
    if not math.isfinite(value) or (value <= 0 and fit._curve.law.logarithmic):
        raise FitError(f'budget_for({target}, of="score"): form="{fit.form}" takes scores above 0 only')
    return value


def find_optimum(
    fit: ScalingFit,
    cost: Callable[[int], float],
    *,
    weight: float | None = None,
    max_cost: float | None = None,
    n_max: int | None = None,
) -> OptimalBudget:
    """Return the budget up to `n_max` with the largest `S(n) - weight * cost(n)`, or score at `cost(n) <= max_cost`."""
    if (weight is None) == (max_cost is None):
        raise FitError(
            "optimal_budget takes either weight= (score per unit of cost) or max_cost=, and just one of them"
        )
    for name, value in (("weight", weight), ("max_cost", max_cost)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise FitError(f"{name}={value} must be a finite number >= 0")
    if n_max is None:
        n_max = max(1, math.floor(float(np.max(fit.n))))
    if isinstance(n_max, bool) or not isinstance(n_max, (int, np.integer)) or n_max < 1:
        raise FitError(f"n_max must be an integer >= 1, got {n_max!r}")
    n = np.arange(1, int(n_max) + 1)
    price = np.array([float(cost(int(i))) for i in n])
    if not np.all(np.isfinite(price)):
        bad = int(n[~np.isfinite(price)][0])
        raise FitError(f"cost({bad}) is {price[bad - 1]}; a cost must be a finite number")
    score: Array = np.asarray(fit(n))
    objective = score - weight * price if weight is not None else score
    if max_cost is not None:
        if not np.any(price <= max_cost):
            raise FitError(f"max_cost={max_cost:g} is below the least cost, {price.min():g} at n = {n[price.argmin()]}")
        objective = np.where(price <= max_cost, objective, -np.inf)
    best = int(np.argmax(objective))
    return OptimalBudget(
        n=int(n[best]),
        score=float(score[best]),
        cost=float(price[best]),
        objective=float(objective[best]),
        on_bound=best in (0, len(n) - 1),
    )
