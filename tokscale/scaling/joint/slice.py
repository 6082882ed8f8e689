"""A joint law at one model size, or at one token budget: a curve over the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import FitError
from .. import notes
from ..law import Array
from .points import positive


def extrapolation(name: str, value: float, fitted: tuple[float, float]) -> str | None:
    """Return the note that a value lies more than a factor of 2 outside what was fitted, or None."""
    lo, hi = fitted
    if value > 2 * hi:
        return f"extrapolation: {name} = {value:.6g} is {value / hi:.1f} times the largest fitted {name}, {hi:.6g}"
    if 0 < value < lo / 2:
        return (
            f"extrapolation: {name} = {value:.6g} is {lo / value:.1f} times below the smallest fitted {name}, {lo:.6g}"
        )
    return None


@dataclass(frozen=True)
class JointSlice:
    """`y(v) = constant + scale * v**-exponent`, or `constant + scale * ln v` where `exponent` is None.

    `over` says what v is, "T" or "N"; `held` is the value of the other, `fitted` the range of v that was measured.
    """

    form: str
    over: str
    held: float
    constant: float
    scale: float
    exponent: float | None
    fitted: tuple[float, float]

    def __call__(self, v: Any) -> Any:
        """Return y at v (a float for a scalar)."""
        return _shaped(self._value(positive(self.over, v)))

    def _value(self, v: Array) -> Array:
        with np.errstate(over="ignore"):
            part = np.log(v) if self.exponent is None else v**-self.exponent
            return self.constant + self.scale * part

    def slope_at(self, v: Any) -> Any:
        """Return `d ln y / d ln v`; NaN where y is not above 0."""
        array = positive(self.over, v)
        y = np.asarray(self._value(array))
        rise = self.scale if self.exponent is None else -self.exponent * (y - self.constant)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _shaped(np.where(y > 0, rise / y, math.nan))

    def marginal(self, v: Any, step: Any = "double") -> Any:
        """Return what more adds: `y(2 v) - y(v)`, or `y(v + step) - y(v)`."""
        array = positive(self.over, v)
        if isinstance(step, str) and step != "double":
            raise FitError(f'step="{step}" is unknown; choose from double, or a number')
        after = 2 * array if isinstance(step, str) else array + float(step)
        return _shaped(np.asarray(self._value(positive(self.over, after))) - np.asarray(self._value(array)))

    @property
    def asymptote(self) -> float:
        """The limit of y as v grows without bound, infinite where there is none."""
        if self.scale == 0 or self.exponent == 0:
            return self.constant + (0.0 if self.scale == 0 else self.scale)
        if self.exponent is not None and self.exponent > 0:
            return self.constant
        return math.copysign(math.inf, self.scale)

    def budget_for(self, y: float) -> float:
        """Return the v at which the curve is at `y`: round up for a whole number of tokens.

        Warns beyond a factor of 2 outside the fitted values.

        Raises:
            FitError: where the curve never is there.
        """
        target = _target(y)
        exact = self._inverse(target)
        if not (math.isfinite(exact) and exact > 0):
            ends = " to ".join(f"{float(self._value(np.array(v))):.6g}" for v in self.fitted)
            raise FitError(
                f"no {self.over} gives y = {target:.6g}: the curve goes from {ends} over the fitted {self.over}, "
                f"and to {self.asymptote:.6g} as {self.over} grows"
            )
        far = extrapolation(self.over, exact, self.fitted)
        notes.issue([] if far is None else [far])
        return exact

    def _inverse(self, y: float) -> float:
        rest = y - self.constant
        if self.scale == 0 or self.exponent == 0:
            return math.nan
        with np.errstate(all="ignore"):
            if self.exponent is None:
                return float(np.exp(rest / self.scale))
            share = rest / self.scale
            return float(np.exp(-np.log(share) / self.exponent)) if share > 0 else math.nan


def _target(y: Any) -> float:
    """Return a finite number of any sign, or raise `FitError`."""
    try:
        value = float(y)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise FitError(f"budget_for({y!r}): the target must be a finite number")
    return value


def _shaped(values: Any) -> Any:
    return float(values) if np.ndim(values) == 0 else values
