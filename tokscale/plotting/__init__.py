"""Pictures of laws, sweeps and kept tokens: matplotlib Figures, returned as Axes, never shown and never global.

matplotlib is imported inside the functions, and pyplot is not touched: `axes.figure.savefig(path)` writes a picture.
"""

from __future__ import annotations

from .comparison import plot_comparison
from .fit import plot_fit
from .joint import plot_joint
from .kept import plot_heat, plot_kept
from .ladder import plot_ladder
from .many import plot_many
from .ranges import plot_alpha_by_range
from .sweep import plot_sweep
from .training import plot_training

__all__ = [
    "plot_alpha_by_range",
    "plot_comparison",
    "plot_fit",
    "plot_heat",
    "plot_joint",
    "plot_kept",
    "plot_ladder",
    "plot_many",
    "plot_sweep",
    "plot_training",
]
