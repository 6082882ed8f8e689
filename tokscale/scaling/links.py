"""The spaces that laws are fitted in: score, ln score, logit and log-log of the share, as keywords for a `Law`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from .law import Array

Index = npt.NDArray[np.intp]
Bound = float | None


def exp_float(v: float) -> float:
    """Return e**v, infinite where it overflows."""
    with np.errstate(over="ignore"):
        return float(np.exp(v))


def _exp(z: Array, floor: Bound, ceil: Bound) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(z)


def share(score: Array, floor: Bound, ceil: Bound) -> Array:
    """Return `u = (S - floor) / (ceil - floor)`."""
    return (score - floor) / (ceil - floor)  # type: ignore[operator]


def expit(z: Any) -> Any:
    """Return `1 / (1 + e**-z)` without overflow."""
    half = np.exp(-np.abs(z))
    return np.where(np.asarray(z) >= 0, 1.0, half) / (1.0 + half)


def any_score(form: str, score: Array, index: Index, floor: Bound, ceil: Bound) -> None:
    """Take every score."""


_SQUARES = (1e-140, 1e140)  # scores whose squares, and sums of them, are neither infinite nor 0


def squarable(form: str, score: Array, index: Index, floor: Bound, ceil: Bound) -> None:
    largest = float(np.max(np.abs(score)))
    if largest and not _SQUARES[0] <= largest <= _SQUARES[1]:
        size = "small" if largest < 1 else "large"
        raise FitError(
            f'form="{form}" squares the scores, and the largest, {largest:g}, is too {size} for that; give them in '
            "another unit"
        )


def positive(form: str, score: Array, index: Index, floor: Bound, ceil: Bound) -> None:
    bad = np.flatnonzero(score <= 0)
    if len(bad):
        raise FitError(
            f'form="{form}" takes the logarithm of the score, which is {float(score[bad[0]])!r} at index '
            f'[{index[bad[0]]}]; use form="power_additive", "loglinear" or "saturating", or form="binomial" with '
            "n_items="
        )


def inside(form: str, score: Array, index: Index, floor: Bound, ceil: Bound) -> None:
    if floor is None or ceil is None:
        raise FitError(f'form="{form}" needs floor= and ceil=')
    bad = np.flatnonzero((score <= floor) | (score >= ceil))
    if len(bad):
        raise FitError(
            f'form="{form}" needs floor < score < ceil = ({floor:g}, {ceil:g}), but score is '
            f'{float(score[bad[0]])!r} at index [{index[bad[0]]}]; use form="binomial" with n_items='
        )


SCORE: dict[str, Any] = {
    "space": "the score",
    "link": lambda score, floor, ceil: np.asarray(score, float),
    "inverse": lambda z, floor, ceil: z,
    "link_slope": lambda score, floor, ceil: np.ones_like(score),
    "log_jacobian": lambda score, floor, ceil: np.zeros_like(score),
    "check": squarable,
}

LOG: dict[str, Any] = {
    "space": "ln S",
    "link": lambda score, floor, ceil: np.log(score),
    "inverse": _exp,
    "link_slope": lambda score, floor, ceil: 1.0 / score,
    "log_jacobian": lambda score, floor, ceil: -np.log(score),
    "check": positive,
    "logarithmic": True,
}


def _logit(score: Array, floor: Bound, ceil: Bound) -> Array:
    return np.log((score - floor) / (ceil - score))  # type: ignore[operator]


def _logit_slope(score: Array, floor: Bound, ceil: Bound) -> Array:
    return (ceil - floor) / ((score - floor) * (ceil - score))  # type: ignore[operator]


LOGIT: dict[str, Any] = {
    "space": "logit u",
    "link": _logit,
    "inverse": lambda z, floor, ceil: floor + (ceil - floor) * expit(z),
    "link_slope": _logit_slope,
    "log_jacobian": lambda score, floor, ceil: np.log(_logit_slope(score, floor, ceil)),
    "check": inside,
    "bounded": True,
}


def _neglog(score: Array, floor: Bound, ceil: Bound) -> Array:
    return np.log(-np.log(share(score, floor, ceil)))


def _neglog_inverse(z: Array, floor: Bound, ceil: Bound) -> Array:
    return floor + (ceil - floor) * np.exp(-_exp(z, None, None))  # type: ignore[operator]


def _neglog_slope(score: Array, floor: Bound, ceil: Bound) -> Array:
    return 1.0 / ((score - floor) * np.log(share(score, floor, ceil)))  # type: ignore[operator]


def _neglog_jacobian(score: Array, floor: Bound, ceil: Bound) -> Array:
    log_u = np.log(share(score, floor, ceil))
    return -log_u - np.log(-log_u) - np.log(ceil - floor)  # type: ignore[operator]


NEGLOG: dict[str, Any] = {
    "space": "ln(-ln u)",
    "link": _neglog,
    "inverse": _neglog_inverse,
    "link_slope": _neglog_slope,
    "log_jacobian": _neglog_jacobian,
    "check": inside,
    "bounded": True,
}
