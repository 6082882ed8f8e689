"""Joint laws fitted to y itself: the additive law by variable projection over (a, b), the log-linear one by QR."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..law import Array
from .points import JointPoints
from .projection import Projection, Reduced
from .solved import Solved, no_better_than_zero, silent

BOUNDS = (0.01, 3.0)  # of the exponents of the additive law: below, a term cannot be told from E and a logarithm
_GRID = np.geomspace(*BOUNDS, 30)


def fit_loglinear(points: JointPoints, fix: Mapping[str, float]) -> Solved:
    """Return `y = a + b ln N + c ln T` by least squares of y."""
    names = ("a", "b", "c")
    given = np.array([fix.get(name, math.nan) for name in names])
    free = np.isnan(given)
    x, t = points.log_n, points.log_t
    cx, ct = (0.0, 0.0) if not free[0] else (float(x.mean()), float(t.mean()))
    design = np.stack([np.ones_like(x), x - cx, t - ct], axis=1)
    target = points.y - design[:, ~free] @ given[~free]
    q, r = np.linalg.qr(design[:, free])
    projected = q.T @ target
    residuals = target - q @ projected
    coef = given.copy()
    coef[free] = np.linalg.solve(r, projected)
    if free[0]:
        coef[0] -= coef[1] * cx + coef[2] * ct
    rss = float(residuals @ residuals)
    return Solved(dict(zip(names, coef.tolist())), rss, rss / 2)


class _Additive:
    """The columns 1, N^-a and T^-b, each power centred where its coefficient is free."""

    def __init__(self, points: JointPoints, fix: Mapping[str, float]) -> None:
        self.fix, self.y = fix, points.y
        self.center = (
            0.0 if "A" in fix else float(points.log_n.mean()),
            0.0 if "B" in fix else float(points.log_t.mean()),
        )
        self.x, self.t = points.log_n - self.center[0], points.log_t - self.center[1]
        self.given = np.array([fix.get(name, math.nan) for name in ("E", "A", "B")])

    def columns(self, theta: Array) -> tuple[Array, Array]:
        u, v = np.exp(-theta[0] * self.x), np.exp(-theta[1] * self.t)
        slopes = np.zeros((2, len(u), 3))
        slopes[0, :, 1], slopes[1, :, 2] = -self.x * u, -self.t * v
        return np.stack([np.ones_like(u), u, v], axis=1), slopes

    def problem(self, moves: tuple[bool, bool], E: float | None = None) -> Projection:
        given = self.given.copy()
        if E is not None:
            given[0] = E
        return Projection(self.columns, self.y, given, np.array(moves))

    def solve(self, E: float | None = None) -> tuple[Reduced, tuple[str, ...]]:
        """Return the minimum over the exponents within `BOUNDS`, and which of them are at a bound."""
        free = ("a" not in self.fix, "b" not in self.fix)
        axes = [_GRID if "a" not in self.fix else [self.fix["a"]], _GRID if "b" not in self.fix else [self.fix["b"]]]
        grid = np.array([(a, b) for a in axes[0] for b in axes[1]])
        start = grid[int(np.argmin(self._errors(grid, E)))]
        found = self.problem(free, E).minimise(start)
        if self._inside(found, free):
            return found, ()
        moves = list(free)
        for _ in range(2):  # what left the range is put back on its bound, and the rest moves on
            theta = np.where(free, np.clip(found.theta, *BOUNDS), found.theta)
            moves = [move and bool(value == at) for move, value, at in zip(moves, found.theta, theta)]
            found = self.problem((moves[0], moves[1]), E).minimise(theta)
            if self._inside(found, free):
                break
        return found, tuple(name for name, was, now in zip("ab", free, moves) if was and not now)

    def _inside(self, found: Reduced, free: tuple[bool, bool]) -> bool:
        return all(BOUNDS[0] <= v <= BOUNDS[1] for v, f in zip(found.theta, free) if f)

    def _errors(self, grid: Array, E: float | None) -> Array:
        """Return the residual sum of squares at each pair of exponents, by stacked QR."""
        given = self.given if E is None else np.array([E, *self.given[1:]])
        free, out = np.isnan(given), []
        for part in np.array_split(grid, max(1, len(grid) * len(self.y) // 200_000)):
            u = np.exp(-part[:, :1] * self.x)
            x = np.stack([np.ones_like(u), u, np.exp(-part[:, 1:] * self.t)], axis=2)  # grid, N, 3
            rest = self.y - x[:, :, ~free] @ given[~free]
            if free.any():
                q, _ = np.linalg.qr(x[:, :, free])
                rest = rest - (q @ (q.transpose(0, 2, 1) @ rest[:, :, None]))[:, :, 0]
            out.append(np.sum(rest * rest, axis=1))
        errors = np.concatenate(out)
        return np.where(np.isfinite(errors), errors, np.inf)


def fit_additive_score(points: JointPoints, fix: Mapping[str, float], level: float) -> Solved:
    """Return `y = E + A N^-a + B T^-b` by least squares of y; E is identified where an F test rejects E = 0."""
    law = _Additive(points, fix)
    found, ends = law.solve()
    a, b = found.theta.tolist()
    E, A, B = found.coef.tolist()
    params = {"E": E, "A": A * math.exp(a * law.center[0]), "B": B * math.exp(b * law.center[1]), "a": a, "b": b, **fix}
    lo, hi = BOUNDS
    notes = [
        f"at-bound: {name} = {params[name]:g} is at the bound of its search range [{lo:g}, {hi:g}]" for name in ends
    ]
    missing = list(ends)
    if "E" not in fix:
        zero, _ = law.solve(0.0)
        dof, scale = len(points) - 5 + len(fix), float(points.y @ points.y)
        said = no_better_than_zero("E", E, zero.rss, found.rss, dof, level, scale)
        if said is not None:
            missing.append("E")
            notes.append(f"unidentified: E is not identified: {said}")
    names, said_too = silent(points, params, fix)
    return Solved(params, found.rss, found.rss / 2, (*missing, *names), notes=(*notes, *said_too))
