"""Scaling laws: which token budget is enough, and how sure that is. Imports numpy and scipy, never torch."""

from __future__ import annotations

from .binomial import wilson_interval
from .budget import Budget, OptimalBudget
from .compare import LawComparison, compare_laws
from .fit import fit_power_law
from .joint import Allocation, JointFit, JointSlice, fit_joint_law
from .law import Law
from .laws import LAWS
from .many import ManyFit, fit_many
from .result import RangeAlpha, ScalingFit
from .skill import Skill

__all__ = [
    "LAWS",
    "Allocation",
    "Budget",
    "JointFit",
    "JointSlice",
    "Law",
    "LawComparison",
    "ManyFit",
    "OptimalBudget",
    "RangeAlpha",
    "ScalingFit",
    "Skill",
    "compare_laws",
    "fit_joint_law",
    "fit_many",
    "fit_power_law",
    "wilson_interval",
]
