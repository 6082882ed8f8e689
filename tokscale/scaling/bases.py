"""The columns x(n) of each form, with their derivatives in `L = ln n` and in theta.

Every function takes `(log_n, center, theta)`, which broadcast, and returns an array of shape `(..., p)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .law import Array
from .links import expit

WIDTH = 0.3  # of the break in `broken`: one parameter less, which ten points could not give


def _columns(*columns: Any) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


# a + b (L - center)


def line(log_n: Any, center: float, theta: Any) -> Array:
    return _columns(np.ones_like(log_n, dtype=float), np.asarray(log_n) - center)


def line_slope(log_n: Any, center: float, theta: Any) -> Array:
    return _columns(np.zeros_like(log_n, dtype=float), np.ones_like(log_n, dtype=float))


# c exp(theta (L - center))


def power(log_n: Any, center: float, theta: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(theta * (log_n - center))[..., None]


def power_slope(log_n: Any, center: float, theta: Any) -> Array:
    return np.asarray(theta)[..., None] * power(log_n, center, theta)


def power_by_theta(log_n: Any, center: float, theta: Any) -> Array:
    return np.asarray(log_n - center)[..., None] * power(log_n, center, theta)


# a + b (1 - exp(-g L)) / g with L = ln n - center: Box and Cox's transformation, a + b L at g = 0


def _box_cox(x: Any, g: Any) -> Array:
    safe = np.where(np.asarray(g) == 0, 1.0, g)
    with np.errstate(over="ignore"):
        return np.where(np.asarray(g) == 0, x, -np.expm1(-safe * x) / safe)


def box_cox(log_n: Any, center: float, theta: Any) -> Array:
    value = _box_cox(log_n - center, theta)
    return _columns(np.ones_like(value), value)


def box_cox_slope(log_n: Any, center: float, theta: Any) -> Array:
    with np.errstate(over="ignore"):
        value = np.exp(-np.asarray(theta) * (log_n - center))
    return _columns(np.zeros_like(value), value)


def box_cox_by_theta(log_n: Any, center: float, theta: Any) -> Array:
    x, g = log_n - center, np.asarray(theta)
    gx = g * x
    safe = np.where(np.abs(gx) < 1e-3, 1.0, g)
    with np.errstate(over="ignore"):
        far = (x * np.exp(-gx) - _box_cox(x, safe)) / safe
    near = -(x * x) * (0.5 - gx / 3 + gx * gx / 8 - gx**3 / 30)  # where the difference would cancel
    value = np.where(np.abs(gx) < 1e-3, near, far)
    return _columns(np.zeros_like(value), value)


def box_cox_limit(center: float, theta: Any) -> Array:
    """The functional that gives the asymptote, for theta > 0."""
    with np.errstate(divide="ignore"):
        value = 1.0 / np.asarray(theta, float)
    return _columns(np.ones_like(value), value)


# ln c + beta (L + ln((n + m) / (1 + m))) / 2


def regime(log_n: Any, center: float, theta: Any) -> Array:
    m = np.asarray(theta, float)
    value = 0.5 * (log_n + np.log(np.exp(log_n) + m) - np.log1p(m))
    return _columns(np.ones_like(value), value)


def regime_slope(log_n: Any, center: float, theta: Any) -> Array:
    value = 0.5 * (1.0 + 1.0 / (1.0 + np.asarray(theta, float) * np.exp(-np.asarray(log_n))))
    return _columns(np.zeros_like(value), value)


def regime_by_theta(log_n: Any, center: float, theta: Any) -> Array:
    m = np.asarray(theta, float)
    value = 0.5 * (1.0 / (np.exp(log_n) + m) - 1.0 / (1.0 + m))
    return _columns(np.zeros_like(value), value)


# a + p1 (L - center) + (p2 - p1) f softplus((L - theta) / f)


def broken(log_n: Any, center: float, theta: Any) -> Array:
    bend = WIDTH * np.logaddexp(0.0, (log_n - theta) / WIDTH)
    return _columns(np.ones_like(bend), log_n - center, bend)


def broken_slope(log_n: Any, center: float, theta: Any) -> Array:
    bend = expit((log_n - theta) / WIDTH)
    return _columns(np.zeros_like(bend), np.ones_like(bend), bend)


def broken_by_theta(log_n: Any, center: float, theta: Any) -> Array:
    bend = -expit((log_n - theta) / WIDTH)
    return _columns(np.zeros_like(bend), np.zeros_like(bend), bend)
