"""Every error and warning that tokscale raises on purpose.

Each error is a `TokscaleError` and also the built-in that a caller would expect (`ValueError`, `TypeError`, `KeyError`,
`RuntimeError`, `ImportError`), so both `except TokscaleError` and `except ValueError` work. A message says what failed,
what was passed, the arithmetic and the remedy, on one line.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BackendError",
    "BudgetError",
    "CompressorError",
    "DtypeError",
    "FitError",
    "InputError",
    "KeywordError",
    "MissingContextError",
    "MissingDependencyError",
    "NonFiniteError",
    "PatchError",
    "RegistryError",
    "ShapeError",
    "TokscaleError",
    "UnknownCompressorError",
    "UnsupportedInputError",
    "UnsupportedModelError",
]


class TokscaleError(Exception):
    """The parent of every error that tokscale raises on purpose."""


class ShapeError(TokscaleError, ValueError):
    """A tensor has the wrong number of axes, or sizes that do not go together."""


class BudgetError(TokscaleError, ValueError):
    """A token budget that is no positive integer, or more than the module or the input can give."""


class ArgumentError(TokscaleError, ValueError):
    """An option has a value that is not among those it takes."""


class NonFiniteError(TokscaleError, ValueError):
    """A tensor holds NaN or infinity where numbers are needed."""


class MissingContextError(TokscaleError, ValueError):
    """A compressor needs context (question, grid, importance, keys) that was not given."""


class RegistryError(TokscaleError, ValueError):
    """A compressor name is taken or malformed."""


class FitError(TokscaleError, ValueError):
    """A scaling law cannot be fitted to these data."""


class InputError(TokscaleError, ValueError):
    """A file, folder or table is missing, malformed or of another kind."""


class UnsupportedModelError(TokscaleError, ValueError):
    """The model has no seam that tokscale can use; the message says why."""


class UnsupportedInputError(TokscaleError, ValueError):
    """This call's inputs cannot be shortened consistently; the message says why."""


class DtypeError(TokscaleError, TypeError):
    """A tensor has a dtype that the operation does not take."""


class KeywordError(TokscaleError, TypeError):
    """An unknown keyword; the message suggests the nearest known one."""


class BackendError(TokscaleError, RuntimeError):
    """The backend asked for by name cannot run here."""


class PatchError(TokscaleError, RuntimeError):
    """A model is already patched, or a handle is used after its removal."""


class CompressorError(TokscaleError, RuntimeError):
    """A compressor broke its contract, such as returning another number of tokens than it promised."""


class UnknownCompressorError(TokscaleError, KeyError):
    """No compressor is registered under this name."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(TokscaleError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class ScalingFitWarning(UserWarning):
    """A fitted law says less than its numbers suggest; the text begins with a code such as `flat`."""


class TileWarning(UserWarning):
    """The tiles of one image are counted as images of their own, because no processor was given."""


class TrainingWarning(UserWarning):
    """A training setting has no effect as given, such as a budget that compresses nothing."""
