"""What a training run returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class TrainResult:
    """A trained compressor and the record of its steps.

    Attributes:
        compressor: the module that was trained (the caller's own object, in the mode it was given in).
        steps: steps done in all, those before a resume included.
        seconds: wall time of all of them.
        history: a dict per step: step, budget, loss, answer_loss and distill_loss (None where not asked for), lr,
            grad_norm.
    """

    compressor: Any
    steps: int
    seconds: float
    history: list[dict[str, Any]]

    def __repr__(self) -> str:
        name, loss = type(self.compressor).__name__, f", mean loss {self.mean_loss():.4g}" if self.history else ""
        return f"TrainResult({name}, {self.steps} steps, {self.seconds:.1f} s{loss})"

    def mean_loss(self, last: int = 100) -> float:
        """Return the mean loss of the last `last` steps."""
        tail = [entry["loss"] for entry in self.history[-last:]]
        return sum(tail) / max(1, len(tail))

    def summary(self) -> str:
        """Return a few lines: steps, time, first and last losses, and the last loss at each budget."""
        tenth = max(1, len(self.history) // 10)
        first = sum(entry["loss"] for entry in self.history[:tenth]) / tenth
        lines = [
            f"{type(self.compressor).__name__}: {self.steps} steps in {self.seconds:.1f} s",
            f"loss {first:.4f} (first {tenth} steps) -> {self.mean_loss(tenth):.4f} (last {tenth})",
        ]
        half = self.history[len(self.history) // 2 :]
        for budget in sorted({entry["budget"] for entry in half}):
            losses = [entry["loss"] for entry in half if entry["budget"] == budget]
            lines.append(f"  num_tokens {budget:>5}: loss {sum(losses) / len(losses):.4f} ({len(losses)} steps)")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the step, a colour per budget; return the Axes (needs matplotlib)."""
        from ..plotting import plot_training  # late: matplotlib is optional

        return plot_training(self.history, ax=ax)
