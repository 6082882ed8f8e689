"""The data of a fit: checked, cleared of excluded budgets, and sorted, so that their order changes no bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import FitError
from .law import Array, Law


@dataclass(frozen=True)
class Points:
    """Points sorted by n, then score, then weight. `order[i]` is the place of the i-th in the arrays given."""

    n: Array
    score: Array
    weights: Array  # in the fitted space
    score_se: Array | None  # standard errors on the score scale, given or binomial
    order: np.ndarray
    floor: float | None
    ceil: float | None
    n_items: Array | None = None  # test items behind each score
    excluded: tuple[float, ...] = ()
    excluded_points: tuple[tuple[float, float], ...] = ()

    def __len__(self) -> int:
        return len(self.n)

    @property
    def constant(self) -> bool:
        """True where all scores are equal, to the last bit."""
        return bool(np.all(self.score == self.score[0]))

    @property
    def budgets(self) -> Array:
        """The distinct budgets, ascending."""
        return self.n[np.concatenate([[True], self.n[1:] != self.n[:-1]])]

    def give_back(self, values: Array) -> Array:
        """Return sorted values in the order of the arrays given, read-only."""
        out = np.empty(len(values))
        out[self.order] = values
        out.flags.writeable = False
        return out

    def keep(self, mask: np.ndarray) -> Points:
        """Return the sorted points that `mask` keeps, as if only they had been given."""
        order = np.argsort(np.argsort(self.order[mask], kind="stable"), kind="stable")
        kept = {
            name: None if values is None else values[mask]
            for name in ("n", "score", "weights", "score_se", "n_items")
            for values in (getattr(self, name),)
        }
        return replace(self, order=order, **kept)  # type: ignore[arg-type]

    def means(self) -> tuple[Array, Array, Array | None]:
        """Return distinct budgets, mean score at each, and its standard error (None without errors)."""
        budgets, start, count = np.unique(self.n, return_index=True, return_counts=True)
        mean = np.add.reduceat(self.score, start) / count
        if self.score_se is None:
            return budgets, mean, None
        return budgets, mean, np.sqrt(np.add.reduceat(self.score_se**2, start)) / count


def sort_points(
    n: Array,
    score: Array,
    weights: Array,
    score_se: Array | None,
    floor: float | None,
    ceil: float | None,
    n_items: Array | None = None,
    **rest: Any,
) -> Points:
    """Return the points in their canonical order."""
    order = np.lexsort([key for key in (n_items, score_se, weights, score, n) if key is not None])
    score_se, n_items = (None if values is None else values[order] for values in (score_se, n_items))
    return Points(n[order], score[order], weights[order], score_se, order, floor, ceil, n_items, **rest)


def numbers(name: str, value: Any) -> Array:
    """Return `value` as a float64 array, or raise `FitError`."""
    try:
        if np.iscomplexobj(value) or np.ma.is_masked(value):
            raise TypeError("complex or masked entries have no place in a fit")
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FitError(f"{name} cannot be read as numbers: {error}") from error


def positive_budgets(n: Any) -> Array:
    """Return the budgets of a question about a fit as an array of any shape; each must be finite and positive."""
    array = numbers("n", n)
    flat = array.reshape(-1)
    _finite("n", flat, np.ones(len(flat), bool))
    bad = np.flatnonzero(flat <= 0)
    if len(bad):
        where = f" at index [{bad[0]}]" if array.ndim else ""
        raise FitError(f"n must be positive, got {flat[bad[0]]:g}{where}")
    return array


def check_level(level: Any) -> float:
    """Return a confidence level in (0, 1), or raise `FitError`."""
    try:
        value = float(level)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1:
        hint = f"; did you mean {value / 100:g}?" if 1 < value < 100 else ""
        raise FitError(f"level={level} must lie in (0, 1){hint}")
    return value


def read_points(
    law: Law,
    n: Any,
    score: Any,
    *,
    se: Any = None,
    weights: Any = None,
    n_items: Any = None,
    floor: float | None = None,
    ceil: float | None = None,
    exclude: Any = None,
) -> Points:
    """Return the checked points of a fit. Indices in messages are those of the arrays given."""
    n, score = numbers("n", n), numbers("score", score)
    if n.shape != score.shape or n.ndim != 1:
        raise FitError(
            f"n has shape {n.shape} and score has shape {score.shape}; both must be one-dimensional and of equal length"
        )
    if se is not None and weights is not None:
        raise FitError("se= and weights= both set the weights of the fit; pass one of them")
    if law.counted and (se is not None or weights is not None):
        raise FitError(f'form="{law.form}" is weighted by n_items=; it takes neither se= nor weights=')
    if law.counted and n_items is None:
        raise FitError(f'form="{law.form}" needs n_items=')
    kept, excluded = _exclude(n, exclude)
    _finite("n", n, kept)
    _finite("score", score, kept)
    _positive(
        "n", n, kept, "; to include a budget of no vision tokens count the text tokens too (n + text tokens)", "g"
    )
    se, weights, n_items = (
        _per_point(name, value, kept) for name, value in (("se", se), ("weights", weights), ("n_items", n_items))
    )
    floor, ceil = _bounds(floor, ceil, counted=n_items is not None and (law.counted or not law.bounded))
    _enough(law, n[kept])
    index = np.flatnonzero(kept)
    law.check(law.form, score[kept], index, floor, ceil)

    dropped = tuple(zip(n[~kept].tolist(), score[~kept].tolist()))
    n, score = n[kept], score[kept]
    score_se = None
    if n_items is not None:
        score_se = _binomial_se(score, n_items[kept], index, floor, ceil)
    if se is not None:
        score_se = se[kept]
        with np.errstate(over="ignore", divide="ignore"):
            weights = (1.0 / (score_se * np.abs(law.link_slope(score, floor, ceil)))) ** 2
        if not np.all(np.isfinite(weights) & (weights > 0)):
            raise FitError("se is so small or so large beside the score that the weights are not finite")
    else:
        weights = np.ones(len(n)) if weights is None else weights[kept]
    n_items = None if n_items is None else n_items[kept]
    return sort_points(n, score, weights, score_se, floor, ceil, n_items, excluded=excluded, excluded_points=dropped)


def _exclude(n: Array, exclude: Any) -> tuple[np.ndarray, tuple[float, ...]]:
    if exclude is None:
        return np.ones(len(n), bool), ()
    budgets = np.unique(np.atleast_1d(numbers("exclude", exclude)))
    missing = [f"{b:g}" for b in budgets if b not in n]
    if missing:
        there = ", ".join(f"{b:g}" for b in np.unique(n))
        raise FitError(f"exclude= names budgets that are not in n: {', '.join(missing)}; n has {there}")
    return ~np.isin(n, budgets), tuple(budgets.tolist())


def _finite(name: str, values: Array, kept: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values) & kept)
    if len(bad):
        raise FitError(f"{name} is not finite at index {bad.tolist()}")


def _positive(name: str, values: Array, kept: np.ndarray, remedy: str = "", style: str = "") -> None:
    bad = np.flatnonzero((values <= 0) & kept)
    if len(bad):
        value = float(values[bad[0]])
        shown = format(value, style) if style else repr(value)
        raise FitError(f"{name} must be positive, got {shown} at index [{bad[0]}]{remedy}")


def _per_point(name: str, value: Any, kept: np.ndarray) -> Array | None:
    if value is None:
        return None
    values = numbers(name, value)
    if values.ndim == 0:
        values = np.full(len(kept), float(values))
    if values.shape != kept.shape:
        raise FitError(f"{name} has shape {values.shape}, but there are {len(kept)} points; pass one number for each")
    _finite(name, values, kept)
    _positive(name, values, kept)
    return values


def _bounds(floor: Any, ceil: Any, *, counted: bool) -> tuple[float | None, float | None]:
    try:
        floor, ceil = (None if bound is None else float(bound) for bound in (floor, ceil))
    except (TypeError, ValueError) as error:
        raise FitError(f"floor={floor!r} and ceil={ceil!r} must be numbers") from error
    if counted:  # scores of counted items are percentages unless said otherwise
        floor, ceil = 0.0 if floor is None else floor, 100.0 if ceil is None else ceil
    for name, bound in (("floor", floor), ("ceil", ceil)):
        if bound is not None and not math.isfinite(bound):
            raise FitError(f"{name}={bound:g} is not finite")
    if floor is not None and ceil is not None and ceil <= floor:
        raise FitError(f"ceil={ceil:g} must exceed floor={floor:g}")
    return floor, ceil


def _enough(law: Law, n: Array) -> None:
    distinct = len(np.unique(n))
    if distinct == 0:
        raise FitError(f"there are no points to fit; a law needs at least {law.min_budgets} distinct budgets")
    if distinct == 1:
        points = "the only point has" if len(n) == 1 else f"all {len(n)} points have"
        raise FitError(f"{points} n = {n[0]:g}; a law needs at least 2 distinct budgets")
    if distinct < law.min_budgets:
        raise FitError(
            f'form="{law.form}" has {len(law.params)} parameters and needs at least {law.min_budgets} distinct '
            f"budgets, got {distinct}"
        )


def _binomial_se(score: Array, n_items: Array, index: np.ndarray, floor: float | None, ceil: float | None) -> Array:
    """Return the binomial standard error of each score at its observed share; half an item inside at 0 and 1."""
    low, high = 0.0 if floor is None else floor, 100.0 if ceil is None else ceil
    share = (score - low) / (high - low)
    bad = np.flatnonzero((share < 0) | (share > 1))
    if len(bad):
        raise FitError(
            f"n_items= needs scores between floor and ceil = ({low:g}, {high:g}), but score is "
            f"{float(score[bad[0]])!r} at index [{index[bad[0]]}]; pass the floor= and ceil= of this score"
        )
    share = np.where((share == 0) | (share == 1), (share * n_items + 0.5) / (n_items + 1), share)
    return (high - low) * np.sqrt(share * (1 - share) / n_items)
