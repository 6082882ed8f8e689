"""The budget and the learning rate of a step: pure functions of the seed and the step, so that a run can resume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from .. import _checks
from ..errors import ArgumentError, BudgetError, TrainingWarning


def default_budgets(largest: int) -> list[int]:
    """Return the powers of two up to `largest`: 1, 2, 4, ..."""
    return [2**i for i in range(largest.bit_length())]


def check_budgets(budgets: Sequence[int] | None, largest: int) -> list[int]:
    """Return the budgets to draw from, ascending and distinct, none above `largest`."""
    if budgets is None:
        return default_budgets(largest)
    chosen = sorted({_checks.positive_int(budget, "budgets: each") for budget in budgets})
    if not chosen:
        raise ArgumentError("budgets is empty; pass at least one token budget, or None for powers of two")
    if chosen[-1] > largest:
        raise BudgetError(
            f"budgets reach {chosen[-1]}, but the compressor was built with num_tokens={largest}; "
            f"use budgets <= {largest}, or build it with num_tokens={chosen[-1]}"
        )
    return chosen


def draw_budget(budgets: Sequence[int], step: int, *, seed: int = 0, exponent: float = 0.25) -> int:
    """Return the budget of `step`: `p(k) ~ k^-exponent`, from the generator `default_rng([seed, step])`.

    Every rank draws the same one, so that shapes and collectives are equal.
    """
    weight = np.asarray(budgets, dtype=float) ** -exponent
    generator = np.random.default_rng([seed, step])
    return int(generator.choice(np.asarray(budgets), p=weight / weight.sum()))


def learning_rate(step: int, *, steps: int, lr: float, warmup: int, min_lr: float) -> float:
    """Return the rate of `step`: a linear rise over `warmup` steps, then a cosine down to `min_lr * lr`."""
    if step < warmup:
        return lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return lr * (min_lr + (1 - min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def useful_budgets(budgets: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return the budgets below the largest image of `sizes` (vision tokens each), with a warning for the others."""
    largest = max(sizes)
    useful = [budget for budget in budgets if budget < largest]
    dropped = [budget for budget in budgets if budget >= largest]
    if not useful:
        raise ArgumentError(
            f"the budgets {dropped} compress nothing: the images of the first batch have {largest} vision tokens at "
            f"most; pass budgets < {largest}"
        )
    if dropped:
        warnings.warn(
            f"the budgets {dropped} compress nothing (the images of the first batch have {largest} vision tokens at "
            "most) and are dropped",
            TrainingWarning,
            stacklevel=3,
        )
    return useful
