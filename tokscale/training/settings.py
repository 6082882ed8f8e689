"""The numbers of a training run, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .. import _checks
from ..errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """The numbers of a run; a resumed one must have the same."""

    steps: int
    budgets: tuple[int, ...]
    budget_exponent: float
    lr: float
    warmup: int
    min_lr: float
    weight_decay: float
    betas: tuple[float, float]
    grad_clip: float
    answer_weight: float
    distill_weight: float
    temperature: float
    seed: int

    def __post_init__(self) -> None:
        _checks.positive_int(self.steps, "steps")
        for name in ("answer_weight", "distill_weight", "warmup"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.answer_weight == 0 and self.distill_weight == 0:
            raise ArgumentError(
                "answer_weight and distill_weight are both 0: there is nothing to learn; set one of them"
            )
        for name in ("lr", "grad_clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} must be positive, got {getattr(self, name)}")

    def arguments(self) -> dict[str, Any]:
        """Return the numbers in JSON types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
