"""Variable projection: least squares where the model is linear in its coefficients once a few numbers are fixed.

`min over theta, b of ||z - X(theta) b||^2` is solved over theta alone: at each theta the coefficients b come from a QR,
and the residuals `r(theta) = z - Q Q'z` have the derivative of Golub and Pereyra,
`dr = -(I - Q Q') dX b - Q R'^-1 dX' r`. Steps are those of Levenberg and Marquardt.

Source: G. H. Golub, V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate", 1973.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..law import Array

Columns = Callable[[Array], tuple[Array, Array]]  # theta (K,) -> X (N, p), dX/dtheta (K, N, p)


@dataclass(frozen=True)
class Reduced:
    """The projection at one theta: all coefficients, residuals, and their sum of squares."""

    theta: Array
    coef: Array
    residuals: Array
    rss: float


@dataclass(frozen=True)
class Projection:
    """`z`, the columns, which coefficients are given (NaN: free), and which thetas may move."""

    columns: Columns
    z: Array
    given: Array
    moves: np.ndarray

    def at(self, theta: Array) -> Reduced:
        """Return the projection at theta; rss is inf where the columns overflow."""
        return self._solve(theta)[0]

    def _solve(self, theta: Array) -> tuple[Reduced, Array]:
        """Return the projection, and the derivative of its residuals by the thetas that move."""
        free = np.isnan(self.given)
        with np.errstate(over="ignore", invalid="ignore"):
            x, slopes = self.columns(theta)
            finite = bool(np.all(np.isfinite(x)))
        if not finite:
            return Reduced(theta, self.given, self.z, math.inf), np.zeros((len(self.z), 0))
        coef = self.given.copy()
        target = self.z - x[:, ~free] @ self.given[~free]
        q, r = np.linalg.qr(x[:, free])
        projected = q.T @ target
        residuals = target - q @ projected
        coef[free] = np.linalg.lstsq(r, projected, rcond=None)[0]
        slopes = slopes[self.moves]
        moved = slopes @ coef  # K, N
        jacobian = -(moved - (moved @ q) @ q.T)
        back = np.linalg.lstsq(r.T, (slopes[:, :, free].transpose(0, 2, 1) @ residuals).T, rcond=None)[0]  # p, K
        jacobian = jacobian - (q @ back).T
        return Reduced(theta, coef, residuals, float(residuals @ residuals)), jacobian.T

    def minimise(self, start: Array, steps: int = 200) -> Reduced:
        """Return the minimum reached from `start`."""
        now, jacobian = self._solve(np.asarray(start, float))
        if not self.moves.any() or not math.isfinite(now.rss):
            return now
        damping = 1e-3
        for _ in range(steps):
            size = np.linalg.norm(jacobian, axis=0)
            size[size == 0] = 1.0
            wide = np.vstack([jacobian / size, math.sqrt(damping) * np.eye(len(size))])
            step = np.linalg.lstsq(wide, np.append(-now.residuals, np.zeros(len(size))), rcond=None)[0] / size
            theta = now.theta.copy()
            theta[self.moves] += step
            small = bool(np.all(np.abs(step) <= 1e-10 * (1e-3 + np.abs(now.theta[self.moves]))))
            after, slope = self._solve(theta)
            if after.rss < now.rss:
                stalled = after.rss > now.rss * (1 - 1e-15)
                now, jacobian, damping = after, slope, max(damping / 10, 1e-15)
                if small and stalled:
                    break
            elif small or damping > 1e8:
                break
            else:
                damping *= 10
        return now

    def best(self, starts: list[Array]) -> Reduced:
        """Return the least of the minima reached; the first of equals."""
        return min((self.minimise(start) for start in starts), key=lambda found: found.rss)
