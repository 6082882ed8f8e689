"""What every joint form returns, the F test of its constant (D or E) against 0, and terms that say nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..intervals import f_cut
from .points import JointPoints

_SILENT = 1e-9  # of y: a term that varies by less is a constant


@dataclass(frozen=True)
class Solved:
    """Parameters of a joint law, what they leave over, and what is said about them."""

    params: dict[str, float]
    rss: float  # in the fitted space
    objective: float
    unidentified: tuple[str, ...] = ()
    profile: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()


def no_better_than_zero(
    name: str, value: float, zero_rss: float, rss: float, dof: int, level: float, scale: float
) -> str | None:
    """Return why the constant of a law is not told from 0, or None where F(1, dof) rejects 0 at `level`.

    Args:
        name: of the constant.
        value: its estimate.
        zero_rss: residual sum of squares with the constant at 0.
        rss: that at the minimum.
        dof: points minus parameters fitted.
        level: of the test.
        scale: sum of squares of the data.
    """
    if dof < 1:
        return f"no degree of freedom is left to test {name} = 0"
    if exact(zero_rss, scale):
        return f"the law with {name} = 0 leaves no residuals to explain"
    if rss >= zero_rss:
        return f"the residuals grow with {name} from {name} = 0 on"
    F = (zero_rss - rss) / (rss / dof) if rss > 1e-300 * scale else math.inf
    if f_cut(level, dof) < F:
        return None
    return (
        f"the law with {name} = {value:.4g} is no better than with {name} = 0 (F = {F:.3g}, p = {_p_value(F, dof):.3g})"
    )


def exact(rss: float, scale: float) -> bool:
    """Return whether residuals are the rounding of data whose squares sum to `scale`."""
    return rss <= 1e-22 * scale


def silent(points: JointPoints, params: Mapping[str, float], fix: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Return the parameters of the additive law that the data cannot tell, as their term is a constant, and notes."""
    names: list[str] = []
    notes: list[str] = []
    for (scale, exponent), axis, values in ((("A", "a"), "N", points.N), (("B", "b"), "T", points.T)):
        with np.errstate(over="ignore"):
            term = params[scale] * values ** -params[exponent]
        if not np.ptp(term) > _SILENT * np.max(np.abs(points.y)):
            names.extend(name for name in (scale, exponent) if name not in fix)
            notes.append(f"unidentified: {scale} and {exponent} are not identified: y does not depend on {axis}")
    return names, notes


def _p_value(F: float, dof: int) -> float:
    """Return the probability of a larger F(1, dof)."""
    from scipy.special import fdtrc

    return float(fdtrc(1, dof, F))
