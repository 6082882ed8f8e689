"""Variable projection: a law with one nonlinear number theta, minimised over its coefficients for many thetas at once.

`R(theta) = min_b ||W^(1/2) (z - X(theta) b)||^2` is evaluated on the whole grid of the form, the least place is refined
between its neighbours, and what remains is a problem in one number: no start values, no restarts. Everything here takes
many problems at once (the points left out one by one, the resamples of a bootstrap).

Source: G. H. Golub, V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", 1973; the grid is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .law import Array, Law

_AT_ONCE = 1_000_000  # numbers
_ZOOM = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class Slices:
    """Least squares at given thetas: `X = Q R` with weights, `y = Q' W^(1/2) z`; leading axes are those of theta."""

    q: tuple[Array, ...]  # orthonormal columns, each (..., N)
    r: tuple[tuple[Array, ...], ...]  # r[j][i], i <= j: upper triangle, column by column
    y: tuple[Array, ...]
    residuals: Array  # weighted, (..., N)
    rss: Array

    @property
    def coef(self) -> Array:
        """Return b = R^-1 y, shape (..., p)."""
        p = len(self.y)
        b: list[Array] = [self.y[0]] * p
        for j in reversed(range(p)):
            total = self.y[j]
            for k in range(j + 1, p):
                total = total - self.r[k][j] * b[k]
            b[j] = total / self.r[j][j]
        return np.stack(np.broadcast_arrays(*b), axis=-1)

    def functional(self, a: Array) -> tuple[Array, Array]:
        """Return `v = a' b` and `h = a' (X'WX)^-1 a` for functionals `a` (..., p) of these slices."""
        solved: list[Array] = []  # R^-T a
        for j in range(len(self.y)):
            total = a[..., j]
            for i in range(j):
                total = total - self.r[j][i] * solved[i]
            solved.append(total / self.r[j][j])
        v = sum(s * y for s, y in zip(solved, self.y))
        return np.asarray(v), np.asarray(sum(s * s for s in solved))


def slices(law: Law, log_n: Array, center: float, z: Array, root_w: Array, theta: Array) -> Slices:
    """Return the least squares of every theta, by Gram-Schmidt done twice (as exact as Householder's QR, and stacked).

    Args:
        law, log_n, center: the design, N points.
        z, root_w: data and root weights, (..., N) where `...` broadcasts against the shape of theta.
        theta: any shape.
    """
    x = law.basis(log_n, center, theta[..., None])
    q: list[Array] = []
    r: list[tuple[Array, ...]] = []
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for j in range(x.shape[-1]):
            column, column_r = x[..., j] * root_w, [np.zeros(())] * j
            for _ in range(2):
                for i in range(j):
                    part = np.einsum("...n,...n->...", q[i], column)
                    column = column - part[..., None] * q[i]
                    column_r[i] = column_r[i] + part
            norm = np.sqrt(np.einsum("...n,...n->...", column, column))
            q.append(column / norm[..., None])
            r.append((*column_r, norm))
        left, y = z * root_w, []
        for column in q:
            part = np.einsum("...n,...n->...", column, left)
            left = left - part[..., None] * column  # residuals, not the difference of two sums of squares
            y.append(part)
        rss = np.einsum("...n,...n->...", left, left)
    return Slices(tuple(q), tuple(r), tuple(y), left, np.where(np.isfinite(rss), rss, np.inf))


@dataclass(frozen=True)
class Problem:
    """Data of one fit or of many: `z` and `root_w` (..., N), `grid` (..., G) of thetas."""

    law: Law
    log_n: Array
    center: float
    z: Array
    root_w: Array
    grid: Array

    def batches(self, count: int) -> list[slice]:
        """Return slices of `count` problems that are solved at once, so that no array has more than 8 MB a column."""
        size = max(1, _AT_ONCE // (self.grid.shape[-1] * len(self.log_n)))
        return [slice(i, i + size) for i in range(0, count, size)]

    def at(self, theta: Array) -> Slices:
        """Return the slices at `theta`, (..., K) for the leading axes of the problem."""
        z, w = (np.asarray(v)[..., None, :] for v in (self.z, self.root_w))
        return slices(self.law, self.log_n, self.center, z, w, theta)

    def grid_minimum(self) -> Array:
        """Return the minimiser, (...,), by a parabola through the least place of the grid and its neighbours.

        A second one through three places close to it takes away what a coarse grid leaves.
        """
        vertex, step = self._vertex(self.grid)
        near = vertex[..., None] + step[..., None] * np.array([-0.25, 0.0, 0.25])
        return self._vertex(np.clip(near, self.grid[..., :1], self.grid[..., -1:]))[0]

    def _vertex(self, nodes: Array) -> tuple[Array, Array]:
        """Return the vertex of the parabola at the least of the ascending nodes, (...,), and their spacing there."""
        rss = self.at(nodes).rss
        nodes, best = np.broadcast_to(nodes, rss.shape), np.argmin(rss, axis=-1)
        inner = np.clip(best, 1, rss.shape[-1] - 2)

        def pick(values: Array, at: np.ndarray) -> Array:
            return np.take_along_axis(values, at[..., None], axis=-1)[..., 0]

        x0, x1, x2 = (pick(nodes, inner + i) for i in (-1, 0, 1))
        r0, r1, r2 = (pick(rss, inner + i) for i in (-1, 0, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            left, right = (r1 - r0) / (x1 - x0), (r2 - r1) / (x2 - x1)
            vertex = (x0 + x1 - left * (x2 - x0) / (right - left)) / 2
        fits = (inner == best) & (vertex >= x0) & (vertex <= x2)
        return np.where(fits, vertex, pick(nodes, best)), np.minimum(x1 - x0, x2 - x1)

    def minimise(self) -> tuple[Array, Slices]:
        """Return the minimisers of R, and the slices there: theta (...,), slices with a last axis of length 1."""
        rss = self.at(self.grid).rss
        grid = np.broadcast_to(self.grid, rss.shape)
        best = np.argmin(rss, axis=-1)[..., None]
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), axis=-1)
        high = np.take_along_axis(grid, np.minimum(best + 1, grid.shape[-1] - 1), axis=-1)
        theta = np.take_along_axis(grid, best, axis=-1)
        for _ in range(4):
            theta, low, high = self._zoom(low, high)
        theta = self._polish(theta, low, high)
        return theta[..., 0], self.at(theta)

    def _zoom(self, low: Array, high: Array) -> tuple[Array, Array, Array]:
        nodes = low + (high - low) * _ZOOM
        nodes[..., -1:] = high  # the end of the range itself, not a rounding of it
        best = np.argmin(self.at(nodes).rss, axis=-1)[..., None]
        last = nodes.shape[-1] - 1
        return tuple(  # type: ignore[return-value]
            np.take_along_axis(nodes, np.clip(best + step, 0, last), axis=-1) for step in (0, -1, 1)
        )

    def _polish(self, theta: Array, low: Array, high: Array) -> Array:
        """Move to the root of R' by secants: R itself is level to the root of the precision around its minimum."""
        slope_low, slope_high, best = self._slope(low), self._slope(high), self.at(theta).rss
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(4):
                guess = low - slope_low * (high - low) / (slope_high - slope_low)
                good = (guess > low) & (guess < high) & (slope_low < 0) & (slope_high > 0)
                guess = np.where(good, guess, theta)
                slope, rss = self._slope(guess), self.at(guess).rss
                up, down = good & (slope > 0), good & (slope <= 0)
                high, slope_high = np.where(up, guess, high), np.where(up, slope, slope_high)
                low, slope_low = np.where(down, guess, low), np.where(down, slope, slope_low)
                take = good & (rss <= best * (1 + 1e-14))
                theta, best = np.where(take, guess, theta), np.where(take, np.minimum(rss, best), best)
        return theta

    def _slope(self, theta: Array) -> Array:
        """Return R'(theta) / 2 = -e' W^(1/2) (dX/dtheta) b."""
        found, by_theta = self.at(theta), self.law.theta
        moved = by_theta.basis_slope(self.log_n, self.center, theta[..., None])  # type: ignore[union-attr]
        curve = np.einsum("...np,...p->...n", moved, found.coef)
        return -np.einsum("...n,...n->...", found.residuals, curve * np.asarray(self.root_w)[..., None, :])
