"""`y = E + A N^-a + B T^-b` fitted to ln y, by a summed loss that no tolerance cuts short.

`ln yhat = log-sum-exp(ln A - a ln N, ln B - b ln T, ln E)`, residuals `r = ln y - ln yhat`. The loss is summed over the
points and scaled before the optimiser sees it: an averaged loss of this size meets the default tolerances of BFGS
before it is at its minimum.

Sources: J. Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, arXiv:2203.15556 (the form and
Huber's loss); T. Besiroglu, E. Erdil, M. Barnett, J. You, "Chinchilla Scaling: A replication attempt", 2024,
arXiv:2404.10102 (what an averaged loss does). Differs from the first in the starts: nine exponents, the rest solved for
by linear least squares, in place of a grid over all five parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..law import Array
from .points import JointPoints
from .solved import Solved, no_better_than_zero, silent

_NAMES = ("A", "B", "E", "a", "b")
_STARTS = (0.2, 0.35, 0.5)  # of either exponent
_WIDE = 0.1  # the delta that the starts are polished at
_LADDER = (1e-3, *(step * 10.0**-k for k in range(4, 9) for step in (3.0, 1.0)))  # of Huber's delta, down to |r|
_NOTHING = 1e-6  # of y: a smaller E may be none


@dataclass(frozen=True)
class _Additive:
    """The law on its points, centred in ln N and ln T where A and B are free; E = 0 where `given` says -inf."""

    x: Array
    t: Array
    z: Array  # ln y
    center: tuple[float, float]
    given: Array  # ln A, ln B, ln E (of the centred law), a, b; NaN: free

    @classmethod
    def of(cls, points: JointPoints, fix: Mapping[str, float]) -> _Additive:
        center = (
            0.0 if "A" in fix else float(points.log_n.mean()),
            0.0 if "B" in fix else float(points.log_t.mean()),
        )
        given = np.array([fix.get(name, math.nan) for name in _NAMES])
        with np.errstate(divide="ignore"):
            given[:3] = np.log(given[:3])
        return cls(points.log_n - center[0], points.log_t - center[1], np.log(points.y), center, given)

    @property
    def free(self) -> np.ndarray:
        return np.isnan(self.given)

    def predict(self, theta: Array) -> tuple[Array, Array]:
        """Return ln yhat, (N,), and its derivative by the five parameters, (5, N)."""
        terms = np.stack([theta[0] - theta[3] * self.x, theta[1] - theta[4] * self.t, np.full_like(self.x, theta[2])])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        shares = shares / total
        return top + np.log(total), np.vstack([shares, -shares[0] * self.x, -shares[1] * self.t])

    def residuals(self, theta: Array) -> Array:
        return self.z - self.predict(theta)[0]

    def loss(self, theta: Array, delta: float) -> tuple[float, Array]:
        """Return Huber's loss summed over the points (r^2 / 2 for an infinite delta), and its gradient."""
        level, slopes = self.predict(theta)
        r = self.z - level
        if math.isinf(delta):
            return float(r @ r) / 2, -slopes @ r
        size = np.abs(r)
        inside = size <= delta
        value = np.sum(np.where(inside, r * r / 2, delta * (size - delta / 2)))
        return float(value), -slopes @ np.clip(r, -delta, delta)

    def minimise(self, theta: Array, delta: float, method: str) -> Array:
        """Return where scipy's `method` ends from `theta`, never a worse place."""
        from scipy.optimize import minimize

        free, scale = self.free, 1e4 if math.isinf(delta) else 10 / delta

        def scaled(part: Array) -> tuple[float, Array]:
            full = theta.copy()
            full[free] = part
            value, gradient = self.loss(full, delta)
            if not math.isfinite(value):
                return 1e300, np.zeros_like(part)
            return scale * value, scale * gradient[free]

        tight = {"L-BFGS-B": {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9}, "BFGS": {"gtol": 1e-9}}
        with np.errstate(all="ignore"):
            found = minimize(scaled, theta[free], jac=True, method=method, options=tight[method])
        better = theta.copy()
        better[free] = found.x
        return better if scaled(found.x)[0] <= scaled(theta[free])[0] else theta

    def starts(self) -> list[Array]:
        """Return nine places: two exponents each, and the rest by non-negative least squares relative to y."""
        from scipy.optimize import nnls

        axes = [_STARTS if math.isnan(self.given[k]) else (float(self.given[k]),) for k in (3, 4)]
        free, found = self.free[:3], []
        for a in axes[0]:
            for b in axes[1]:
                with np.errstate(over="ignore"):
                    columns = np.exp(np.stack([-a * self.x, -b * self.t, 0 * self.x]) - self.z)
                    rest = 1.0 - np.exp(self.given[:3][~free]) @ columns[~free]
                theta = np.append(self.given[:3], [a, b])
                if free.any():
                    coef = nnls(columns[free].T, rest)[0]
                    theta[:3][free] = np.log(np.maximum(coef, 1e-3 / columns[free].mean(axis=1)))
                found.append(theta)
        return found

    def search(self, delta: float, extra: tuple[Array, ...] = ()) -> Array:
        """Return the best minimum of the loss from all starts: L-BFGS at a wide delta, at the asked one, then BFGS."""
        found = []
        for start in self.starts():
            wide = self.minimise(start, max(delta, _WIDE), "L-BFGS-B")
            found.append(self.minimise(wide, delta, "L-BFGS-B"))
        found.extend(extra)
        found.sort(key=lambda theta: self.loss(theta, delta)[0])
        return min((self.polish(theta, delta) for theta in found[:3]), key=lambda theta: self.loss(theta, delta)[0])

    def polish(self, theta: Array, delta: float) -> Array:
        """Return where BFGS ends, begun anew until it gains nothing."""
        for _ in range(5):
            before = self.loss(theta, delta)[0]
            theta = self.minimise(theta, delta, "BFGS")
            if self.loss(theta, delta)[0] >= before * (1 - 1e-12):
                break
        return theta

    def objective(self, theta: Array, width: float) -> float:
        """Return the unscaled sum of Huber's loss with this delta; of |r| for 0, of r^2 / 2 for inf."""
        return self.loss(theta, width)[0] if width else float(np.sum(np.abs(self.residuals(theta))))

    def best(self, width: float) -> Array:
        """Return the minimum of `objective`: a narrow loss is reached by way of wider ones."""
        theta = self.search(max(width, _LADDER[0]))
        for delta in (step for step in (*_LADDER[1:], width) if width <= step < _LADDER[0] and step > 0):
            theta = self.polish(self.minimise(theta, delta, "L-BFGS-B"), delta)
        return theta if width else self._vertex(theta)

    def _vertex(self, theta: Array) -> Array:
        """Return the curve through as many of the nearest points as it has parameters, where sum |r| is less."""
        free = self.free
        near = np.argsort(np.abs(self.residuals(theta)), kind="stable")[: free.sum()]
        exact = theta.copy()
        with np.errstate(all="ignore"):
            for _ in range(20):  # Newton, from next to the solution
                level, slopes = self.predict(exact)
                if not np.all(np.isfinite(slopes)):
                    return theta
                exact[free] += np.linalg.lstsq(slopes[free][:, near].T, (self.z - level)[near], rcond=None)[0]
            return exact if self.objective(exact, 0.0) < self.objective(theta, 0.0) else theta

    def params(self, theta: Array) -> dict[str, float]:
        with np.errstate(over="ignore"):
            A, B, E = np.exp(theta[:3] + np.array([theta[3] * self.center[0], theta[4] * self.center[1], 0.0])).tolist()
        return {"E": E, "A": A, "B": B, "a": float(theta[3]), "b": float(theta[4])}


def fit_additive(points: JointPoints, loss: str, delta: float, fix: Mapping[str, float], level: float) -> Solved:
    """Return the additive law fitted to ln y; E is identified where least squares of ln y reject E = 0."""
    law, width = _Additive.of(points, fix), {"huber": delta, "log_mse": math.inf, "lad": 0.0}[loss]
    theta = law.best(width)
    missing, notes = [], []
    if "E" not in fix:
        without = _Additive.of(points, {**fix, "E": 0.0})
        said = _constant(law, without, theta, width, level)
        if said is not None:
            missing.append("E")
            notes.append(f"unidentified: E is not identified: {said}")
            if math.exp(theta[2]) < _NOTHING * points.y.min():  # on its way to 0, which ln E never reaches
                theta = min(without.best(width), theta, key=lambda at: law.objective(at, width))
    params = {**law.params(theta), **fix}
    names, said_too = silent(points, params, fix)
    r = law.residuals(theta)
    return Solved(params, float(r @ r), law.objective(theta, width), (*missing, *names), notes=(*notes, *said_too))


def _constant(law: _Additive, without: _Additive, theta: Array, width: float, level: float) -> str | None:
    """Return why E is not told from 0, or None: an F test by least squares of ln y, whatever the loss."""
    squares = theta if math.isinf(width) else law.polish(theta, math.inf)
    start = theta.copy()
    start[2] = -math.inf
    zero = without.search(math.inf, (start,))
    rss, zero_rss = 2 * law.objective(squares, math.inf), 2 * without.objective(zero, math.inf)
    dof = len(law.z) - int(law.free.sum())
    return no_better_than_zero("E", math.exp(squares[2]), zero_rss, rss, dof, level, len(law.z))
