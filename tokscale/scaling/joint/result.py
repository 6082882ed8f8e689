"""`JointFit`: a law of model size and token budget that predicts, is sliced, and splits a cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FitError
from .. import notes, serial
from ..law import Array
from .allocate import Allocation, split
from .points import FORMS, FORMULAS, positive
from .slice import JointSlice, extrapolation


@dataclass(frozen=True, eq=False, repr=False)
class JointFit:
    """A joint law fitted by `fit_joint_law`.

    Arrays are in the order given; N and T keep the units given, and so do the parameters. `rss` is the residual sum of
    squares in the fitted space: ln y for the losses `huber`, `lad` and `log_mse`, y for `mse`. `objective` is the
    unscaled sum of the loss: of Huber's terms, of `|r|`, or of `r**2 / 2`. `profile_D` holds pairs (D, rss).
    """

    form: str
    loss: str
    delta: float
    params: dict[str, float]
    fix: dict[str, float]
    identified: dict[str, bool]
    objective: float
    rss: float
    n_obs: int
    profile_D: tuple[tuple[float, float], ...]
    level: float  # of the test of D or E
    warnings: tuple[str, ...]
    N: Array
    T: Array
    y: Array
    fitted: Array
    residuals: Array  # y - fitted

    @property
    def log_space(self) -> bool:
        """True where the law was fitted to ln y."""
        return self.loss != "mse"

    @property
    def dof(self) -> int:
        """Points minus parameters fitted; a D that is not identified is none of them."""
        free = [name for name in self.params if name not in self.fix]
        return self.n_obs - len(free) + ("D" in free and not self.identified["D"])

    @property
    def sigma(self) -> float:
        """The standard deviation of the residuals in the fitted space, `sqrt(rss / dof)`."""
        return math.sqrt(self.rss / self.dof) if self.dof > 0 else math.nan

    def __call__(self, N: Any, T: Any) -> Any:
        """Return y at N and T, which broadcast against each other (a float for two scalars)."""
        sizes, budgets = positive("N", N), positive("T", T)
        try:
            sizes, budgets = np.broadcast_arrays(sizes, budgets)
        except ValueError as error:
            raise FitError(f"N of shape {np.shape(N)} and T of shape {np.shape(T)} do not broadcast") from error
        y = predict(self.form, self.params, sizes, budgets)
        return float(y) if np.ndim(y) == 0 else y

    def slice(self, *, N: float | None = None, T: float | None = None) -> JointSlice:
        """Return the curve over T at one `N`, or over N at one `T`.

        Example:
            >>> from tokscale.scaling.joint import fit_joint_law
            >>> N, T = [1, 1, 1, 4, 4, 4], [1, 8, 64, 1, 8, 64]
            >>> fit = fit_joint_law(N, T, [2 * n**-0.5 * t**-0.1 for n, t in zip(N, T)], fix={"D": 0})
            >>> round(fit.slice(N=4)(64), 4), round(fit.slice(N=4).budget_for(0.75), 2)
            (0.6598, 17.76)
        """
        if (N is None) == (T is None):
            raise FitError("slice takes either N= (a curve over T) or T= (a curve over N), and just one of them")
        name, given = ("N", N) if T is None else ("T", T)
        held = positive(name, given)
        if held.ndim:
            raise FitError(f"slice takes one {name}, got shape {held.shape}")
        p, at, first = self.params, float(held), name == "N"
        over, fitted = ("T", self.T) if first else ("N", self.N)
        exponent: float | None
        if self.form == "loglinear":
            here, there = ("b", "c") if first else ("c", "b")
            constant, scale, exponent = p["a"] + p[here] * math.log(at), p[there], None
        elif self.form == "product":
            here, there = ("a", "b") if first else ("b", "a")
            constant, scale, exponent = p["D"], p["A"] * at ** -p[here], p[there]
        else:
            own, other = (("A", "a"), ("B", "b")) if first else (("B", "b"), ("A", "a"))
            constant = p["E"] + p[own[0]] * at ** -p[own[1]]
            scale, exponent = p[other[0]], p[other[1]]
        return JointSlice(self.form, over, at, constant, scale, exponent, (float(fitted.min()), float(fitted.max())))

    def allocate(
        self,
        text_tokens: float,
        *,
        cost: float | None = None,
        N_min: float | None = None,
        T_min: float | None = None,
        T_max: float | None = None,
        goal: str = "min",
    ) -> Allocation:
        """Return how to split `cost = N (Q + T)` between size and vision tokens, with Q text tokens.

        For the product law the optimum is at `T* = Q b / (a - b)` where `a > b > 0`, whatever the cost, which then
        gives N. Where `a <= b` the whole budget goes to T, and N to its least value. The log-linear law has
        `T* = Q c / (b - c)`; the additive one is solved by a bracketed root and needs the cost.

        Args:
            text_tokens: Q, in units of T.
            cost: what may be spent, in units of N times units of T; without it N and y are NaN.
            N_min: the least N; default none, and at an end of the range the smallest fitted N.
            T_min: the least T; default none, and at an end of the range the smallest fitted T.
            T_max: the most T; default none.
            goal: "min" where y is an error or a loss, "max" where it is a score.

        Raises:
            FitError: where the law has no such optimum, or the limits leave none.

        Example:
            >>> from tokscale.scaling.joint import fit_joint_law
            >>> N, T = [1, 1, 1, 4, 4, 4], [1, 8, 64, 1, 8, 64]
            >>> fit = fit_joint_law(N, T, [2 * n**-0.3 * t**-0.1 for n, t in zip(N, T)], fix={"D": 0})
            >>> best = fit.allocate(50, cost=150)
            >>> round(best.T, 3), round(best.N, 3), best.interior
            (25.0, 2.0, True)
        """
        ranges = tuple((float(v.min()), float(v.max())) for v in (self.N, self.T))
        N, T, interior = split(
            self.form, self.params, (ranges[0], ranges[1]), text_tokens, cost, N_min, T_min, T_max, goal
        )
        far = [extrapolation(k, v, r) for k, v, r in zip("NT", (N, T), ranges) if math.isfinite(v)]
        said = tuple(text for text in far if text is not None)
        y = math.nan if cost is None else float(predict(self.form, self.params, np.array(N), np.array(T)))
        notes.issue(said)
        return Allocation(N, T, y, None if cost is None else float(cost), float(text_tokens), interior, said)

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw points and curves over T with matplotlib; returns the Axes."""
        from ...plotting.joint import plot_joint

        return plot_joint(self, ax=ax, **options)

    def summary(self) -> str:
        """Return a dozen lines: parameters, what is identified, errors, and every warning."""
        space = "ln y" if self.log_space else "y"
        how = f"loss={self.loss}" + (f", delta={self.delta:g}" if self.loss == "huber" else "")
        N, T = (f"{name} = {v.min():.6g} to {v.max():.6g}" for name, v in (("N", self.N), ("T", self.T)))
        lines = [f"{self.form}: {FORMULAS[self.form]}, {how}, {self.n_obs} points, {N}, {T}"]
        for name, value in self.params.items():
            tail = "  fixed" if name in self.fix else "" if self.identified[name] else "  not identified"
            lines.append(f"  {name} = {value:.6g}{tail}")
        lines.append(f"  objective {self.objective:.10g}, rss {self.rss:.6g} and sigma {self.sigma:.4g} in {space}")
        worst = int(np.argmax(np.abs(self.residuals)))
        lines.append(
            f"  largest residual {self.residuals[worst]:.4g}, at N = {self.N[worst]:.6g}, T = {self.T[worst]:.6g}"
        )
        return "\n".join([*lines, *(f"  ! {text}" for text in self.warnings)])

    # Saved and loaded

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as plain JSON without NaN or infinity; `from_dict` gives it back bit for bit."""
        return serial.saved(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JointFit:
        """Return the fit that `to_dict` wrote; it predicts the same numbers bit for bit."""
        return cls(**serial.loaded(cls, data, FORMS, _decode))

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], JointFit], tuple[dict[str, Any]]]:
        return JointFit.from_dict, (self.to_dict(),)  # copies and pickles keep the arrays read-only

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:.5g}" for name, value in self.params.items())
        return f"JointFit({self.form}: {shown}; {self.n_obs} points)"


def predict(form: str, params: dict[str, float], N: Array, T: Array) -> Array:
    """Return y of a joint law, the same bits for one point as for many."""
    p = params
    with np.errstate(over="ignore"):
        if form == "product":
            return np.asarray(p["A"] * N ** -p["a"] * T ** -p["b"] + p["D"])
        if form == "additive":
            return np.asarray(p["E"] + p["A"] * N ** -p["a"] + p["B"] * T ** -p["b"])
        return np.asarray(p["a"] + p["b"] * np.log(N) + p["c"] * np.log(T))


def _decode(name: str, value: Any) -> Any:
    if name in ("N", "T", "y", "fitted", "residuals"):
        return serial.array(value)
    if name in ("form", "loss"):
        return str(value)
    if name in ("params", "fix"):
        return {key: float(v) for key, v in value.items()}
    if name == "identified":
        return {key: bool(v) for key, v in value.items()}
    if name == "profile_D":
        return tuple((float(D), float(rss)) for D, rss in value)
    if name == "warnings":
        return tuple(str(text) for text in value)
    return int(value) if name == "n_obs" else float(value)
