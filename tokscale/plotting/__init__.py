"""Pictures of laws, sweeps and kept tokens: matplotlib Figures, returned as Axes, never shown and never global.

matplotlib is imported inside the functions, and pyplot is not touched: `axes.figure.savefig(path)` writes a picture.
"""

from __future__ import annotations

from .fit import plot_fit
from .kept import plot_heat, plot_kept
from .ladder import plot_ladder
from .sweep import plot_sweep
from .training import plot_training

__all__ = ["plot_fit", "plot_heat", "plot_kept", "plot_ladder", "plot_sweep", "plot_training"]
