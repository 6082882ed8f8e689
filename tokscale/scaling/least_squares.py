"""Weighted least squares by QR: coefficients, residuals, leverages, and the factor that every interval needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .laws import Array, Law
from .points import Points


@dataclass(frozen=True)
class Solution:
    """The minimiser of `||W^(1/2) (z - X b)||^2`.

    `q` is the orthonormal factor of `W^(1/2) X`, `root` the inverse of its triangular factor: `(X'WX)^-1 = root root'`.
    `residuals` are the weighted ones, `W^(1/2) (z - X b)`.
    """

    x: Array
    z: Array
    weights: Array
    center: float
    coef: Array
    q: Array
    root: Array
    residuals: Array
    leverage: Array

    @property
    def rss(self) -> float:
        return float(self.residuals @ self.residuals)

    @property
    def dof(self) -> int:
        return len(self.z) - len(self.coef)

    @property
    def sigma(self) -> float:
        return float(np.sqrt(self.rss / self.dof)) if self.dof > 0 else float("nan")

    @property
    def new_variance(self) -> float:
        """Variance of a new observation in units of sigma^2: the mean of 1/w, which is 1 without weights."""
        return float(np.mean(1.0 / self.weights))

    def h(self, a: Array) -> Array:
        """Return `a' (X'WX)^-1 a` for each row of `a`."""
        return np.sum((a @ self.root) ** 2, axis=-1)


def solve(law: Law, points: Points) -> Solution:
    """Return the weighted least-squares fit of a law to sorted points."""
    log_n = np.log(points.n)
    center = float(np.mean(log_n))
    x, z = law.basis(log_n, center), law.link(points.score, points.floor, points.ceil)
    if points.score[0] == points.score[-1] and np.all(points.score == points.score[0]):
        return _constant(x, z, points.weights, center)
    return solve_design(x, z, points.weights, center)


def solve_design(x: Array, z: Array, weights: Array, center: float) -> Solution:
    """Return the weighted least-squares solution for a design of full column rank."""
    w = np.sqrt(weights)
    q, r = np.linalg.qr(x * w[:, None])
    root = np.linalg.inv(r)
    target = z * w
    projected = q.T @ target
    # residuals from z - Q Q'z: the difference of two sums of squares cancels on noise-free data
    residuals = target - q @ projected
    return Solution(x, z, weights, center, root @ projected, q, root, residuals, np.sum(q * q, axis=1))


def _constant(x: Array, z: Array, weights: Array, center: float) -> Solution:
    """Return the fit of equal scores without arithmetic on them: slope exactly 0, residuals exactly 0."""
    found = solve_design(x, np.zeros_like(z), weights, center)
    coef = np.zeros_like(found.coef)
    coef[0] = z[0]
    return Solution(x, z, weights, center, coef, found.q, found.root, np.zeros_like(z), found.leverage)
