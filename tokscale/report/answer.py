"""The answer to a sweep: per compressor the law, the budget that keeps most of the score, and what it saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FitError
from ..sweep.table import BASELINES, Row, SweepResult, tokens_of


@dataclass(frozen=True)
class Answer:
    """What a sweep says about one compressor.

    `goal` is the score to reach: `share` of the unpatched model's, or of the best measured where it was not run.
    `observed` is the row of the smallest measured budget that reaches it. `budget` is what the law says; `why_not`
    stands where there is no law. `saved` is the share of prefill operations and cache bytes that the observed budget
    saves.
    """

    compressor: str
    share: float
    goal: float
    full: Row | None
    fit: Any
    budget: Any
    why_not: str | None
    notes: tuple[str, ...]
    observed: Row | None
    saved: dict[str, float]

    @property
    def law(self) -> str:
        """The exponent with its interval."""
        if self.fit is None:
            return "no law"
        low, high = self.fit.exponent_ci
        if low == high == 0:
            return "flat: one score at every budget"
        return f"{self.fit.exponent:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def by_law(self) -> str:
        """The budget that the law answers with, or why it gives none."""
        if self.fit is None:
            return "no law"
        if not self.budget.reachable:
            return "no answer"
        native = tokens_of(self.full) if self.full else None
        if native is not None and self.budget.exact > native:
            return f"more than {native:g}"
        interval = f" [{self.budget.lo:.3g}, {self.budget.hi:.3g}]" if math.isfinite(self.budget.lo) else ""
        return f"{self.budget.n}{interval}" + (" beyond the data" if self.budget.extrapolated else "")

    @property
    def measured(self) -> str:
        """The smallest measured budget that reaches the goal; all tokens where none below them does."""
        if self.observed is not None:
            return f"{tokens_of(self.observed):g}"
        return f"all {tokens_of(self.full):g}" if self.full and tokens_of(self.full) else "none"

    def sentence(self) -> str:
        """Return all of it in one sentence, without the compressor's name."""
        of = "the unpatched score" if self.full else "the best score"
        said = [f"{self.why_not}" if self.fit is None else f"exponent {self.law}"]
        if self.fit is not None:
            answers = f"the law gives {self.by_law} tokens" if self.budget.reachable else "the law has no answer"
            said.append(f"{self.share:.0%} of {of} is {self.goal:.3g}, for which {answers}")
        if self.observed is None:
            said.append(
                "no measured budget below the whole reached it" if self.full else "no measured budget reached it"
            )
        else:
            saves = " and ".join(f"{share:.0%} of {what}" for what, share in self.saved.items())
            said.append(f"measured, {self.measured} reached it" + (f", which saves {saves}" if saves else ""))
        return "; ".join(said) + "."


def answers(result: SweepResult, share: float = 0.95) -> list[Answer]:
    """Return an answer per compressor of a sweep of one model and task, in the order of the table."""
    finished = [row for row in result.rows if row["status"] == "ok" and row["score"] is not None]
    full = next((row for row in finished if row["compressor"] == "none"), None)
    labels = list(dict.fromkeys(row["compressor"] for row in finished if row["compressor"] not in BASELINES))
    return [_answer(result.filter(compressor=label), label, full, share) for label in labels]


def _answer(one: SweepResult, label: str, full: Row | None, share: float) -> Answer:
    rows = sorted(one.fitted, key=lambda row: tokens_of(row) or 0)
    goal = share * (full["score"] if full else max((row["score"] for row in rows), default=math.nan))
    observed = next((row for row in rows if row["score"] >= goal), None)
    fit = budget = why_not = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = one.fit()
            budget = fit.budget_for(goal, of="score")
        except FitError as error:
            fit, why_not = None, f"no law: {error}"
    said = [why_not] if why_not else []
    notes = tuple(dict.fromkeys(said + [str(warning.message) for warning in caught]))
    return Answer(label, share, goal, full, fit, budget, why_not, notes, observed, _saved(observed, full))


def _saved(row: Mapping[str, Any] | None, full: Mapping[str, Any] | None) -> dict[str, float]:
    saved = {}
    for column, what in (("prefill_tflop", "the prefill FLOPs"), ("kv_cache_mib", "the KV cache")):
        if row is not None and full is not None and row[column] is not None and full[column]:
            saved[what] = 1 - row[column] / full[column]
    return saved
