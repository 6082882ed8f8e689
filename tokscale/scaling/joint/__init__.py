"""Joint laws of model size and vision tokens: three forms, their slices, and how to split a cost between the two."""

from __future__ import annotations

from .allocate import Allocation
from .fit import fit_joint_law
from .result import JointFit
from .slice import JointSlice

__all__ = ["Allocation", "JointFit", "JointSlice", "fit_joint_law"]
