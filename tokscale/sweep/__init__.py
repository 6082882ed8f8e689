"""Models x compressors x budgets -> one tidy table: `sweep` returns a `SweepResult`."""

from .run import sweep
from .table import SweepResult

__all__ = ["SweepResult", "sweep"]
