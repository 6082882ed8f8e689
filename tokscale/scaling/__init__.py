"""Scaling laws: which token budget is enough, and how sure that is. Imports numpy and scipy, never torch."""

from __future__ import annotations

from .binomial import wilson_interval
from .budget import Budget, OptimalBudget
from .compare import Skill
from .fit import fit_power_law
from .laws import LAWS, Law
from .many import ManyFit, fit_many
from .result import RangeAlpha, ScalingFit

__all__ = [
    "LAWS",
    "Budget",
    "Law",
    "ManyFit",
    "OptimalBudget",
    "RangeAlpha",
    "ScalingFit",
    "Skill",
    "fit_many",
    "fit_power_law",
    "wilson_interval",
]
