"""Profile-likelihood intervals of a law with one nonlinear number theta.

With `R(theta)` the residual sum of squares, `T = R_min (1 + F(level; 1, N-k) / (N-k))` and
`h(theta) = a' (X'WX)^-1 a`, a likelihood-ratio test at `level` accepts for `v = a(theta)' b` the set

    v in  U_theta { a' b(theta) +- sqrt((h(theta) + e) (T - R(theta))) : R(theta) <= T }

with e = 0 for the mean and the variance of an observation for a new one: its ends are a minimum and a maximum over the
accepted thetas, found on a grid and refined. For theta itself the set is where `R <= T`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .law import Array, Theta
from .projection import Problem, Slices

Vector = Callable[[Array], Array]  # thetas (F, K) or (1, K) -> functionals (F, K, p)
Objective = Callable[[Slices, Array], Array]  # slices at thetas (F, K) or (1, K), the thetas -> values (F, K)
_NODES = 65
_ZOOM = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class Profile:
    """`R(theta)` of one fit, its minimiser, and what follows from it."""

    problem: Problem
    theta: float
    rss: float
    constant: float | None = None  # the level, in the fitted space, of scores that are all equal

    @property
    def search(self) -> Theta:
        return self.problem.law.theta  # type: ignore[return-value]

    @cached_property
    def _nodes(self) -> tuple[Array, Array]:
        """The grid with the minimiser in it, and R there."""
        nodes = np.unique(np.append(self.problem.grid, self.theta))
        rss = self.problem.at(nodes).rss
        rss[nodes == self.theta] = self.rss
        return nodes, rss

    @cached_property
    def _hulls(self) -> dict[float, tuple[float, float, bool, bool]]:
        return {}  # every interval of a fit asks for the same one

    @property
    def at_end(self) -> bool:
        """True where the minimum lies at an end of the search range."""
        return self.constant is None and self.theta in (self.problem.grid[0], self.problem.grid[-1])

    def accepted(self, threshold: float) -> tuple[float, float, bool, bool]:
        """Return the hull of `R <= threshold`, and whether it reaches the lower and the upper end of the range."""
        if threshold not in self._hulls:
            self._hulls[threshold] = self._hull(threshold)
        return self._hulls[threshold]

    def _hull(self, threshold: float) -> tuple[float, float, bool, bool]:
        nodes, rss = self._nodes
        if self.constant is not None:
            if not self.search.free:
                return self.theta, self.theta, False, False
            return float(nodes[0]), float(nodes[-1]), True, True
        inside = np.flatnonzero((rss <= threshold) | (nodes == self.theta))  # rounding must not refuse the minimiser
        first, last = int(inside[0]), int(inside[-1])
        open_low, open_high = first == 0, last == len(nodes) - 1
        outer = np.array([nodes[max(first - 1, 0)], nodes[min(last + 1, len(nodes) - 1)]])
        inner = np.array([nodes[first], nodes[last]])
        for _ in range(9):  # a factor of 20 each
            steps = outer[:, None] + (inner - outer)[:, None] * _ZOOM
            steps[:, -1] = inner
            good = self.problem.at(steps.reshape(-1)).rss.reshape(2, -1) <= threshold
            good[:, -1] = True
            at = np.argmax(good, axis=1)
            inner = steps[[0, 1], at]
            outer = steps[[0, 1], np.maximum(at - 1, 0)]
        return float(inner[0]), float(inner[1]), open_low, open_high

    def theta_interval(self, threshold: float) -> tuple[float, float]:
        """Return the interval of theta, with the ends that mean "no end" where it reaches the end of the range."""
        low, high, open_low, open_high = self.accepted(threshold)
        return self.search.beyond[0] if open_low else low, self.search.beyond[1] if open_high else high

    def ends(
        self, vector: Vector, count: int, threshold: float, *, extra: float = 0.0, above: float = -np.inf
    ) -> tuple[Array, Array]:
        """Return the least and the largest accepted v of `count` functionals; thetas up to `above` are left out."""
        if self.constant is not None:
            value = np.broadcast_to(vector(np.full((1, 1), self.theta))[..., 0, 0] * self.constant, count)
            return value.copy(), value.copy()
        thetas = self.sample(threshold, above)
        if not len(thetas):
            return np.full(count, np.inf), np.full(count, np.inf)

        def objective(sign: int) -> Objective:
            def lower(found: Slices, nodes: Array) -> Array:
                v, h = found.functional(vector(nodes))
                room = threshold - found.rss
                edge = sign * v - np.sqrt((h + extra) * np.maximum(room, 0.0))
                return np.where((room < -1e-9 * threshold) & (nodes != self.theta), np.inf, edge)

            return lower

        return self.least(objective(1), thetas, count), -self.least(objective(-1), thetas, count)

    def sample(self, threshold: float, above: float = -np.inf) -> Array:
        """Return thetas over the hull of those accepted, its ends and the minimiser among them."""
        low, high, _, _ = self.accepted(threshold)
        grid = self.problem.grid
        if low <= above:
            low = float(grid[grid > above][0])
        if high < low:
            return np.empty(0)
        places = np.arange(len(grid), dtype=float)
        first, last = np.interp([low, high], grid, places)  # steps of the grid, which is even in no other unit
        between = np.interp(np.linspace(first, last, max(_NODES, int(last - first) + 2))[1:-1], places, grid)
        return np.unique(np.concatenate([[low, high, np.clip(self.theta, low, high)], between]))

    def least(self, objective: Objective, thetas: Array, count: int, *, zooms: int = 3) -> Array:
        """Return the minimum over theta of each of `count` objectives, on the sample and then between neighbours."""
        nodes, value = thetas[None], np.full(count, np.inf)
        for _ in range(zooms + 1):
            found = np.broadcast_to(objective(self.problem.at(nodes), nodes), (count, nodes.shape[1]))
            best = np.argmin(found, axis=1)[:, None]
            value = np.minimum(value, np.take_along_axis(found, best, 1)[:, 0])
            wide = np.broadcast_to(nodes, found.shape)
            left = np.take_along_axis(wide, np.maximum(best - 1, 0), 1)
            right = np.take_along_axis(wide, np.minimum(best + 1, nodes.shape[1] - 1), 1)
            nodes = left + (right - left) * _ZOOM
        return value
