"""`y = A N^-a T^-b + D` by variable projection, with D only where the data tell it from 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..law import Array
from .points import JointPoints
from .projection import Projection, Reduced
from .solved import Solved, exact, no_better_than_zero

_GRID = np.linspace(-2.0, 2.0, 21)  # of either exponent, where logarithms give no start
_SHARES = (*np.linspace(0.0, 1.0, 51)[:-1].tolist(), 0.99, 0.999)  # of min y, where the profile of D is evaluated
_NEXT_TO = 1e-6  # of min y: as far as a search that runs to the end of its range may stop short of it


@dataclass(frozen=True)
class _Product:
    """The law on its points, centred in ln N and ln T unless A is fixed."""

    x: Array
    t: Array
    y: Array
    center: tuple[float, float]
    fix: Mapping[str, float]

    def columns(self, theta: Array, constant: bool) -> tuple[Array, Array]:
        v = np.exp(-theta[0] * self.x - theta[1] * self.t)
        rows = [v, np.ones_like(v)] if constant else [v]
        slopes = np.zeros((2, len(v), len(rows)))
        slopes[0, :, 0], slopes[1, :, 0] = -self.x * v, -self.t * v
        return np.stack(rows, axis=1), slopes

    @property
    def moves(self) -> np.ndarray:
        return np.array([name not in self.fix for name in "ab"])

    def problem(self, D: float | None) -> Projection:
        """Return the search over (a, b) at a given D, or with a free one (None)."""
        given = [self.fix.get("A", math.nan)]
        if D is None:
            return Projection(lambda theta: self.columns(theta, True), self.y, np.array([*given, math.nan]), self.moves)
        return Projection(lambda theta: self.columns(theta, False), self.y - D, np.array(given), self.moves)

    def starts(self, D: float, look_around: bool) -> list[Array]:
        """Return (a, b) of the line through `ln |y - D|`, each point weighted as in y, and the best of a grid."""
        z = self.y - D
        sign = np.sign(self.fix.get("A", float(z.sum()))) or 1.0
        good = z * sign > 0
        weight, level = np.where(good, z, 0.0), np.log(np.abs(np.where(good, z, 1.0)))
        design = np.stack([np.ones_like(z), -self.x, -self.t], axis=1)
        given = [
            math.log(abs(self.fix["A"])) if "A" in self.fix else math.nan,
            *(self.fix.get(n, math.nan) for n in "ab"),
        ]
        line = np.array(given)
        free = np.isnan(line)
        level = level - design[:, ~free] @ line[~free]
        line[free] = np.linalg.lstsq(design[:, free] * weight[:, None], level * weight, rcond=None)[0]
        found = [line[1:]]
        if look_around and (not np.all(good) or "A" in self.fix):  # the line is a poor start
            axes = [np.array([self.fix[n]]) if n in self.fix else _GRID for n in "ab"]
            grid = [np.array([a, b]) for a in axes[0] for b in axes[1]]
            problem = self.problem(D)
            found.append(min(grid, key=lambda theta: problem.at(theta).rss))
        return found

    def solve(self, D: float, near: Array | None = None) -> Reduced:
        starts = self.starts(D, look_around=near is None)
        return self.problem(D).best(starts if near is None else [near, *starts])

    def params(self, found: Reduced, D: float) -> dict[str, float]:
        a, b = map(float, found.theta)
        A = self.fix.get("A", float(found.coef[0]) * math.exp(a * self.center[0] + b * self.center[1]))
        return {"A": A, "a": a, "b": b, "D": D}


def fit_product(points: JointPoints, fix: Mapping[str, float], level: float) -> Solved:
    """Return the product law; D is 0 unless its profile has an interior minimum and an F test rejects 0."""
    center = (0.0, 0.0) if "A" in fix else (float(points.log_n.mean()), float(points.log_t.mean()))
    law = _Product(points.log_n - center[0], points.log_t - center[1], points.y, center, fix)
    if "D" in fix:
        found = law.solve(fix["D"])
        return Solved(law.params(found, fix["D"]), found.rss, found.rss / 2)
    grid = [float(share * points.y.min()) for share in _SHARES]
    profile: list[Reduced] = []
    for D in grid:
        profile.append(law.solve(D, near=profile[-1].theta if profile else None))
    pairs = [(D, found.rss) for D, found in zip(grid, profile)]
    zero, best = profile[0], min(range(len(grid)), key=lambda i: profile[i].rss)
    end, scale = float(points.y.min()), float(points.y @ points.y)
    found, D = _interior(law, grid[max(0, best - 1)], [*grid, end][best + 1], profile[best])
    if end - D < _NEXT_TO * end and not exact(zero.rss, scale):
        said: str | None = f"the residuals shrink until D reaches the least y, {end:.6g}"
    else:
        dof = len(points) - 4 + len(fix)
        said = no_better_than_zero("D", D, zero.rss, found.rss, dof, level, scale)
    if said is None:
        pairs = sorted([*pairs, (D, found.rss)])
        return Solved(law.params(found, D), found.rss, found.rss / 2, profile=tuple(pairs))
    note = f"unidentified: D is not identified: {said}; D = 0 is used"
    return Solved(law.params(zero, 0.0), zero.rss, zero.rss / 2, ("D",), tuple(pairs), (note,))


def _interior(law: _Product, lo: float, hi: float, near: Reduced) -> tuple[Reduced, float]:
    """Return the minimum over D in (lo, hi), polished with D among the coefficients."""
    from scipy.optimize import minimize_scalar

    def error(D: float) -> float:
        return law.problem(float(D)).minimise(near.theta).rss

    D = float(minimize_scalar(error, bounds=(lo, hi), method="bounded", options={"xatol": 1e-9 * hi}).x)
    found = law.problem(D).minimise(near.theta)
    polished = law.problem(None).minimise(found.theta)
    if lo < polished.coef[-1] < hi and polished.rss <= found.rss:
        return polished, float(polished.coef[-1])
    return found, D
