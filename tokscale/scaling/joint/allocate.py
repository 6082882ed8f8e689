"""How to split a cost `N (Q + T)` between the model's size and its vision tokens, Q text tokens being given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import FitError
from ..law import choose
from ..points import numbers
from ..serial import encode


@dataclass(frozen=True)
class Allocation:
    """The best split of a cost. `N` and `y` are NaN where no cost was given.

    `interior` is True where both more and fewer tokens would be worse, False where the split is at a limit.
    """

    N: float
    T: float
    y: float
    cost: float | None
    text_tokens: float
    interior: bool
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON; non-finite numbers are strings."""
        return {name: encode(value) for name, value in asdict(self).items()}


def split(
    form: str,
    params: Mapping[str, float],
    fitted: tuple[tuple[float, float], tuple[float, float]],
    text_tokens: Any,
    cost: Any,
    N_min: Any,
    T_min: Any,
    T_max: Any,
    goal: str,
) -> tuple[float, float, bool]:
    """Return N (NaN without a cost), T, and whether the optimum is interior.

    `fitted` are the ranges of N and T that were measured: the smallest N and T are the limits where none is given.
    """
    choose("goal", goal, ("max", "min"))
    Q = _number("text_tokens", text_tokens, least=0.0)
    total = None if cost is None else _number("cost", cost)
    size, low, high = (
        None if v is None else _number(k, v) for k, v in (("N_min", N_min), ("T_min", T_min), ("T_max", T_max))
    )
    if low is not None and high is not None and low > high:
        raise FitError(f"T_min={low:g} is above T_max={high:g}")
    sign = 1.0 if goal == "min" else -1.0
    if form == "additive":
        if total is None:
            raise FitError('form="additive": the best split depends on the cost; pass cost=')
        best = _additive(params, sign, Q, total)
    else:
        best = _powers(*_exponents(form, params, sign), Q)
    # limits: those given, and where the optimum is at an end the smallest that was measured
    least_N, least_T = fitted[0][0] if size is None else size, fitted[1][0] if low is None else low
    most_T = math.inf if high is None else high
    if total is not None and (size is not None or best == math.inf):
        room = total / least_N - Q
        if not room > 0:
            raise FitError(
                f"cost={total:g} pays for no vision token: N (Q + T) is {least_N * Q:g} at N = {least_N:g} and T = 0"
            )
        most_T = min(most_T, room)
    if low is not None and low > most_T:
        raise FitError(f"cost={total:g} leaves T = {most_T:g} at N = {least_N:g}, below T_min={low:g}")
    interior = 0 < best <= most_T and best < math.inf and not (low is not None and best < low)
    if interior:
        T = best
    else:
        T = most_T if best > most_T or best == math.inf else min(least_T, most_T)
    return (math.nan if total is None else total / (Q + T)), T, interior


def _number(name: str, value: Any, least: float | None = None) -> float:
    array = numbers(name, value)
    found = float(array) if array.ndim == 0 else math.nan
    good = found > 0 if least is None else found >= least
    if not (math.isfinite(found) and good):
        raise FitError(
            f"{name} must be a finite number {'above 0' if least is None else f'of at least {least:g}'}, got {value!r}"
        )
    return found


def _exponents(form: str, params: Mapping[str, float], sign: float) -> tuple[float, float]:
    """Return (p, q) such that the best split maximises `p ln N + q ln T`."""
    if form == "loglinear":
        return -sign * params["b"], -sign * params["c"]
    sign = sign * math.copysign(1.0, params["A"])
    return sign * params["a"], sign * params["b"]


def _powers(p: float, q: float, Q: float) -> float:
    """Return the T that maximises `q ln T - p ln(Q + T)`: `Q q / (p - q)`, or 0 or inf."""
    if p <= 0 and q <= 0:
        raise FitError(_NEITHER)
    if q <= 0:
        return 0.0
    return Q * q / (p - q) if p > q else math.inf


_NEITHER = 'neither N nor T improves y by this law; is goal= the right way round? "min" is for errors, "max" for scores'


def _additive(params: Mapping[str, float], sign: float, Q: float, cost: float) -> float:
    """Return the T that minimises `sign (A (Q + T)^a / cost^a + B T^-b)`, or 0 or inf."""
    a, b = params["a"], params["b"]
    if a <= 0 or b <= 0:
        raise FitError(
            f'form="additive" splits a cost where both exponents are above 0, but a = {a:.4g} and b = {b:.4g}'
        )
    gain_n, gain_t = sign * a * params["A"], sign * b * params["B"]
    if gain_n <= 0 and gain_t <= 0:
        raise FitError(_NEITHER)
    if gain_t <= 0:
        return 0.0
    if gain_n <= 0:
        return math.inf

    def rises(log_t: float) -> float:
        """ln of what a token costs over what it brings: it grows with T, so one root."""
        log_all = float(np.logaddexp(math.log(Q), log_t)) if Q > 0 else log_t
        return math.log(gain_n / gain_t) + (a - 1) * log_all + (b + 1) * log_t - a * math.log(cost)

    from scipy.optimize import brentq

    lo = hi = 0.0
    while rises(lo) > 0:
        lo -= 10.0
    while rises(hi) < 0:
        hi += 10.0
    return math.exp(brentq(rises, lo, hi, xtol=1e-14, rtol=1e-14)) if lo < hi else 1.0
