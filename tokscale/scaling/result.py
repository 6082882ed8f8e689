"""`ScalingFit`: a fitted law that answers questions, and says what it cannot answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import FitError
from . import notes, serial
from .budget import Budget, OptimalBudget, find_budget, find_optimum
from .curve import Curve, Interval
from .law import Array, Law, choose
from .laws import LAWS, get_law
from .points import check_level, positive_budgets, sort_points
from .skill import Skill, held_out_skill
from .summary import summary_text


class RangeAlpha(NamedTuple):
    """The exponent fitted to the budgets up to `n_max`."""

    n_max: float
    alpha: float
    lo: float
    hi: float


@dataclass(frozen=True, eq=False, repr=False)
class ScalingFit:
    """A scaling law fitted by `fit_power_law`.

    Arrays are in the order given and speak of the points kept. `sigma` and `rss` are in the fitted space (weighted).
    A log form predicts the median; `fit(n, mean=True)` gives the mean.
    """

    form: str
    params: dict[str, float]
    se: dict[str, float]
    ci: dict[str, Interval]
    level: float
    ci_method: str | None
    n: Array
    score: Array
    weights: Array  # in the fitted space
    excluded: tuple[float, ...]
    fitted: Array
    residuals: Array  # score - fitted
    n_obs: int
    dof: int
    sigma: float
    rss: float
    r2: float
    r2_log: float
    mae: float
    mape: float  # a fraction
    loglik: float
    aicc: float
    bic: float
    loo_rmse: float
    loo_rmse_link: float
    chi2_dof: float | None
    birge: float | None
    leverage: Array
    studentized: Array
    outliers: tuple[int, ...]
    identified: dict[str, bool]
    at_bound: tuple[str, ...]
    converged: bool
    warnings: tuple[str, ...]
    robust_weights: Array | None
    robust: str | None
    floor: float | None
    ceil: float | None
    score_se: Array | None  # given or binomial standard errors, on the score scale
    excluded_points: tuple[tuple[float, float], ...]  # (n, score)
    optimum: dict[str, float]
    coef: tuple[float, ...]
    center: float
    theta: float  # 0 for a form without one
    n_items: Array | None

    # What the law is

    @property
    def law(self) -> Law:
        """The form's entry in `LAWS`."""
        return get_law(self.form)

    @cached_property
    def _curve(self) -> Curve:
        points = sort_points(self.n, self.score, self.weights, self.score_se, self.floor, self.ceil, self.n_items)
        return Curve.of(self.law, points, self.robust)

    @cached_property
    def _coef(self) -> Array:
        return np.array(self.coef)

    @property
    def c(self) -> float:
        """The score at one token."""
        return self._constant("c")

    @property
    def alpha(self) -> float:
        """The paper's exponent: negative where scores rise with the budget."""
        return self._constant("alpha")

    @property
    def exponent(self) -> float:
        """`-alpha`: positive for growth."""
        return 0.0 - self.alpha

    @property
    def exponent_ci(self) -> Interval:
        """The interval of `exponent`."""
        self._constant("alpha")
        lo, hi = self.ci["alpha"]
        return 0.0 - hi, 0.0 - lo

    @property
    def growth_ci(self) -> Interval:
        """The interval of what says whether the score grows: exponent, `b`, or the rise of the curve over the data."""
        return self._curve.growth_interval(self.level)

    @property
    def asymptote(self) -> float:
        """The score at an unlimited budget: infinite where the law has no asymptote."""
        if self.law.bounded:
            rising = self.law.exponent_is[1] * self.params["b"]  # type: ignore[index]
            ends = {1.0: self.ceil, -1.0: self.floor, 0.0: float(np.mean(self.score))}
            return float(ends[float(np.sign(rising))])  # type: ignore[arg-type]
        if "asymptote" not in self.law.derived or self.theta <= 0:
            return math.inf
        return float(np.sum(self.law.derived["asymptote"].vector(self.center, np.array(self.theta)) * self._coef))

    def _constant(self, name: str) -> float:
        if name not in self.params:
            raise AttributeError(
                f'form="{self.form}" has no constant {name}; alpha_at(n) gives -ln(S(n)/S(1))/ln n and slope_at(n) '
                "the local slope"
            )
        return self.params[name]

    # What it predicts

    def __call__(self, n: Any, *, mean: bool = False) -> Any:
        """Return the score at `n` (a float for a scalar): the median for a log form, the mean with `mean=True`."""
        budgets = positive_budgets(n)
        score = self.law.predict(self._coef, self.center, self.theta, budgets, self.floor, self.ceil)
        if mean and self.law.logarithmic:
            with np.errstate(over="ignore"):
                score = score * np.exp(self.sigma**2 * np.mean(1 / self.weights) / 2)
        return _shaped(score)

    def interval(self, n: Any, kind: str = "mean", level: float | None = None) -> tuple[Any, Any]:
        """Return the interval of the curve at `n` (kind "mean"), or of a score measured there once (kind "new")."""
        choose("kind", kind, ("mean", "new"))
        budgets = positive_budgets(n)
        level = self.level if level is None else check_level(level)
        law = self.law
        if kind == "new" and law.counted:
            raise FitError(f'form="{self.form}" has no interval for a new score; kind="mean" is that of the curve')
        ends = self._curve.interval_at(np.log(budgets), level, new=kind == "new")
        if budgets.size:
            far = notes.extrapolation(float(np.max(budgets)), float(np.max(self.n)))
            notes.issue([] if far is None else [far])
        a, b = (law.inverse(z, self.floor, self.ceil) for z in ends)
        return _shaped(np.minimum(a, b)), _shaped(np.maximum(a, b))  # a link may fall

    def alpha_at(self, n: Any) -> Any:
        """Return the paper's `alpha(n) = -ln(S(n) / S(1)) / ln n`; at n = 1 its limit, minus the local slope.

        NaN where a score of the curve is negative: it has no logarithm.
        """
        budgets = positive_budgets(n)
        log_n = np.log(budgets)
        at_one = np.abs(log_n) < 1e-6
        with np.errstate(divide="ignore", invalid="ignore"):
            rise = np.log(np.asarray(self(budgets))) - np.log(self(1.0))
            return _shaped(np.where(at_one, -np.asarray(self.slope_at(budgets)), -rise / np.where(at_one, 1.0, log_n)))

    def slope_at(self, n: Any) -> Any:
        """Return `d ln S / d ln n`."""
        return _shaped(self.law.slope(self._coef, self.center, self.theta, positive_budgets(n), self.floor, self.ceil))

    def marginal(self, n: Any, step: Any = "double") -> Any:
        """Return what more tokens add: `S(2 n) - S(n)`, or `S(n + step) - S(n)`."""
        budgets = positive_budgets(n)
        if isinstance(step, str):
            choose("step", step, ("double",))
            after = 2 * budgets
        else:
            after = budgets + float(step)
        with np.errstate(invalid="ignore"):  # two scores that overflow have no difference
            return _shaped(np.asarray(self(after)) - np.asarray(self(budgets)))

    # Which budget to choose

    def budget_for(self, target: float, *, of: str = "full", level: float | None = None) -> Budget:
        """Return the budget that reaches a target score, with its interval.

        The target is `target` times the fitted score at the largest fitted budget (`of="full"`), times the best
        observed score (`"max"`), times the asymptote (`"asymptote"`), or `target` itself (`"score"`). Where the
        exponent's interval does not lie above 0 the law cannot say: `reachable` is False and `n` is the smallest
        measured budget that does.

        Raises:
            FitError: for a fraction outside (0, 1).

        Example:
            >>> import tokscale
            >>> fit = tokscale.fit_power_law([1, 8, 64, 512], [12.0, 19.7, 32.1, 52.7])
            >>> fit.budget_for(40, of="score").n
            161
        """
        answer = find_budget(self, target, of=of, level=level)
        notes.issue(answer.warnings)
        return answer

    def optimal_budget(
        self,
        cost: Callable[[int], float],
        *,
        weight: float | None = None,
        max_cost: float | None = None,
        n_max: int | None = None,
    ) -> OptimalBudget:
        """Return the whole budget that maximises `S(n) - weight * cost(n)`, or the score at `cost(n) <= max_cost`.

        Args:
            cost: what a budget costs, a callable of one int.
            weight: score per unit of cost; or else
            max_cost: the most that may be spent.
            n_max: the largest budget to consider; default, the largest fitted one.
        """
        return find_optimum(self, cost, weight=weight, max_cost=max_cost, n_max=n_max)

    # How far to trust it

    def skill_vs_baseline(self, holdout_from: float | None = None) -> Skill:
        """Return the error from budget `holdout_from` up, fitted below it, and that of the best score carried on."""
        return held_out_skill(self._curve, holdout_from)

    def alpha_by_range(self) -> list[RangeAlpha]:
        """Return alpha and its interval fitted to the first 3, 4, ... budgets: under a law it does not drift."""
        self.alpha  # noqa: B018 - a form without a constant exponent says so
        points, found = self._curve.points, []
        for n_max in points.budgets[self.law.min_interval - 1 :]:
            part = Curve.of(self.law, points.keep(points.n <= n_max), self.robust)
            parameters = part.parameters("auto", self.level)
            found.append(RangeAlpha(float(n_max), parameters.values["alpha"], *parameters.ci["alpha"]))
        return found

    def summary(self) -> str:
        """Return a dozen lines: parameters with intervals, errors, skill, the 95 % budget, and every warning."""
        return summary_text(self)

    def plot(self, ax: Any = None, log: bool = True, **options: Any) -> Any:
        """Draw points, curve and intervals with matplotlib; returns the Axes."""
        from ..plotting import plot_fit

        return plot_fit(self, ax=ax, log=log, **options)

    # Saved and loaded

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain JSON without NaN or infinity; `from_dict` gives it back bit for bit."""
        return serial.saved(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ScalingFit:
        """Return the fit that `to_dict` wrote; it predicts the same numbers bit for bit."""
        return cls(**serial.loaded(cls, data, LAWS, serial.decode))

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], ScalingFit], tuple[dict[str, Any]]]:
        return ScalingFit.from_dict, (self.to_dict(),)  # copies and pickles keep the arrays read-only

    def __repr__(self) -> str:
        parts = [
            f"{name}={value:.5g} ({self.ci[name][0]:.4g}, {self.ci[name][1]:.4g})"
            for name, value in self.params.items()
        ]
        return f"ScalingFit({self.form}: {', '.join(parts)}; {self.n_obs} points)"


def _shaped(values: Array) -> Any:
    """Return a float for a scalar question, else the array."""
    return float(values) if np.ndim(values) == 0 else values
