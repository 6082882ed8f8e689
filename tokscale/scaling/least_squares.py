"""Weighted least squares by QR: coefficients, residuals, leverages, and the factor that every interval needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .law import Array, Law
from .points import Points
from .profile import Profile
from .projection import Problem


@dataclass(frozen=True)
class Solution:
    """The minimiser of `||W^(1/2) (z - X b)||^2`.

    `q` is the orthonormal factor of `W^(1/2) X`, `root` the inverse of its triangular factor: `(X'WX)^-1 = root root'`.
    `residuals` are the weighted ones, `W^(1/2) (z - X b)`. Where the law has a theta, `x` is the design at its
    minimiser, `tangent` its derivative there times b, and the leverage is that of both; `tangent` is None where the
    minimum lies at an end of the search range, since theta then does not move with the data.
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
    theta: float = 0.0
    tangent: Array | None = None
    profile: Profile | None = None
    dispersion: float | None = None  # sigma^2 where it is not rss / dof

    @property
    def rss(self) -> float:
        return float(self.residuals @ self.residuals)

    @property
    def dof(self) -> int:
        return len(self.z) - len(self.coef) - (self.profile is not None)

    @property
    def variance(self) -> float:
        """sigma^2, NaN where no degree of freedom is left."""
        if self.dispersion is not None:
            return self.dispersion
        return self.rss / self.dof if self.dof > 0 else math.nan

    @property
    def sigma(self) -> float:
        return math.sqrt(self.variance)

    @property
    def new_variance(self) -> float:
        """Variance of a new observation in units of sigma^2: the mean of 1/w, which is 1 without weights."""
        return float(np.mean(1.0 / self.weights))

    def h(self, a: Array) -> Array:
        """Return `a' (X'WX)^-1 a` for each row of `a`."""
        return np.sum((a @ self.root) ** 2, axis=-1)

    def joint_covariance(self) -> Array:
        """Return the covariance of the coefficients and of theta, from the design and its tangent; NaN if singular."""
        size = len(self.coef) + 1
        if self.tangent is None:
            cov = np.full((size, size), np.nan)
            cov[:-1, :-1] = self.variance * (self.root @ self.root.T)
            return cov
        design = np.column_stack([self.x, self.tangent]) * np.sqrt(self.weights)[:, None]
        _, r = np.linalg.qr(design)
        if not np.all(np.isfinite(r)) or abs(r[-1, -1]) <= 1e-12 * np.linalg.norm(design[:, -1]):
            return np.full((size, size), np.nan)
        root = np.linalg.inv(r)
        return self.variance * (root @ root.T)


def solve(law: Law, points: Points) -> Solution:
    """Return the weighted least-squares fit of a law to sorted points."""
    log_n = np.log(points.n)
    center = law.center(log_n)
    z = law.link(points.score, points.floor, points.ceil)
    if law.theta is not None:
        return _project(law, points, log_n, center, z)
    x = law.basis(log_n, center, 0.0)
    if points.constant:
        return _level(solve_design(x, np.zeros_like(z), points.weights, center), z)
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


def _level(found: Solution, z: Array) -> Solution:
    """Return the fit of equal scores without arithmetic on them: slopes and residuals exactly 0."""
    coef = np.zeros_like(found.coef)
    coef[0] = z[0]
    return replace(found, z=z, coef=coef, residuals=np.zeros_like(z))


def problem_of(law: Law, points: Points, log_n: Array, center: float, z: Array) -> Problem:
    """Return the search over theta for a law that has one."""
    return Problem(law, log_n, center, z, np.sqrt(points.weights), law.theta.grid(log_n))  # type: ignore[union-attr]


def _project(law: Law, points: Points, log_n: Array, center: float, z: Array) -> Solution:
    problem, search = problem_of(law, points, log_n, center, z), law.theta
    if points.constant:
        theta = search.flat if math.isfinite(search.flat) else float(np.median(problem.grid))  # type: ignore[union-attr]
        profile = Profile(problem, theta, 0.0, constant=float(z[0]))
    else:
        minimiser, slices = problem.minimise()
        theta = float(minimiser)
        profile = Profile(problem, theta, float(slices.rss[..., 0]))
    plain = solve_design(law.basis(log_n, center, theta), z, points.weights, center)
    found = replace(plain, theta=theta, profile=profile)
    if points.constant:
        return _level(found, z)
    if profile.at_end:
        return found
    tangent = law.theta.basis_slope(log_n, center, theta) @ plain.coef  # type: ignore[union-attr]
    q, _ = np.linalg.qr(np.column_stack([plain.x, tangent]) * np.sqrt(points.weights)[:, None])
    return replace(found, tangent=tangent, leverage=np.sum(q * q, axis=1))
