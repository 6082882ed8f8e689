"""The answer to a sweep: per compressor the law, the budget that keeps most of the score, and what it saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import FitError
from ..scaling.notes import ISSUED
from ..sweep.table import BASELINES, Row, SweepResult, tokens_of

if TYPE_CHECKING:
    from ..scaling import Budget, LawComparison, ScalingFit, Skill

_CONSTANT = "a constant"


@dataclass(frozen=True)
class Answer:
    """What a sweep says about one compressor.

    `goal` is the score to reach: `share` of the unpatched model's, or of the best measured where it was not run.
    `observed` is the row of the smallest measured budget that reaches it. `comparison` holds every form of the law,
    `fit` the best of them, `budget` what that says; `why_not` stands where there is no law. `saved` is the share of
    prefill operations and cache bytes that the observed budget saves.
    """

    compressor: str
    share: float
    goal: float
    full: Row | None
    comparison: LawComparison | None
    fit: ScalingFit | None
    budget: Budget | None
    why_not: str | None
    notes: tuple[str, ...]
    observed: Row | None
    saved: dict[str, float]

    @property
    def exponent(self) -> str:
        """The exponent of the power law with its interval."""
        power = None if self.comparison is None else self.comparison.fits.get("power")
        if power is None:
            return "no power law"
        low, high = power.exponent_ci
        if low == high == 0:
            return "flat: one score at every budget"
        return f"{power.exponent:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def law(self) -> str:
        """The best form, with those that explain the data as well."""
        if self.comparison is None:
            return "no law"
        near = [form for form in self.comparison.undecided if form in self.comparison.fits]
        if self.fit is not None and self.fit.growth_ci == (0, 0):
            return _CONSTANT
        return self.comparison.best + (f" (or {', '.join(near)})" if near else "")

    @property
    def by_law(self) -> str:
        """The budget that the best law answers with, or why it gives none."""
        if self.fit is None or self.budget is None:
            return "no law"
        if not self.budget.reachable:
            return "no answer"
        native = tokens_of(self.full) if self.full else None
        if native is not None and self.budget.exact > native:
            return f"more than {native:g}"
        interval = f" [{self.budget.lo:.3g}, {self.budget.hi:.3g}]" if math.isfinite(self.budget.lo) else ""
        return f"{self.budget.n}{interval}" + (" beyond the data" if self.budget.extrapolated else "")

    @property
    def skill(self) -> Skill | None:
        """The error of the best law on the largest budgets, fitted below them, beside carrying the best score on."""
        return None if self.comparison is None else self.comparison.skill[self.comparison.best]

    @property
    def measured(self) -> str:
        """The smallest measured budget that reaches the goal; all tokens where none below them does."""
        if self.observed is not None:
            return f"{tokens_of(self.observed):g}"
        return f"all {tokens_of(self.full):g}" if self.full and tokens_of(self.full) else "none"

    def sentence(self) -> str:
        """Return all of it in one sentence, without the compressor's name."""
        of = "the unpatched score" if self.full else "the best score"
        said = [f"{self.why_not}" if self.fit is None else f"exponent {self.exponent}; best law: {self.law}"]
        if self.budget is not None:
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
    comparison = fit = budget = why_not = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            comparison = one.compare()
            fit = comparison.fits[comparison.best]
            budget = fit.budget_for(goal, of="score")
        except FitError as error:
            comparison = fit = None
            why_not = f"no law: {error}"
    said = [why_not] if why_not else []
    if fit is not None:
        said = [text for text in fit.warnings if text.partition(":")[0] in ISSUED]
    notes = tuple(dict.fromkeys(said + [str(warning.message) for warning in caught]))
    saved = _saved(observed, full)
    return Answer(label, share, goal, full, comparison, fit, budget, why_not, notes, observed, saved)


def which_laws(found: Sequence[Answer], names: Mapping[str, str] | None = None) -> str:
    """Return one line: which form of the law wins for each compressor, and whether the data can tell."""
    called = names or {}
    fitted = [one for one in found if one.comparison is not None]
    if not fitted:
        return "Which law: none can be fitted."
    said = [f"{called.get(one.compressor, one.compressor)}: {one.law}" for one in fitted]
    rising = [one for one in fitted if one.law != _CONSTANT]
    tell = sum(not one.comparison.undecided for one in rising)  # type: ignore[union-attr]
    can = f" The data can tell for {tell} of the {len(rising)} that change." if rising else ""
    return f"Which law (AICc over all forms): {'; '.join(said)}.{can}"


def held_out(found: Sequence[Answer], names: Mapping[str, str] | None = None) -> str:
    """Return one line: does the best law predict budgets that it has not seen better than the best score so far?"""
    called, said, start = names or {}, [], None
    for one in found:
        skill = one.skill
        if skill is None or one.law == _CONSTANT:
            continue
        start = skill.holdout_from
        said.append(
            f"{called.get(one.compressor, one.compressor)}: {skill.mape:.0%} against {skill.baseline_mape:.0%} (skill "
            f"{skill.skill:.2g})"
        )
    if start is None:
        return "Does it predict: too few budgets to hold any out."
    return (
        f"Does it predict: error at {start:g} tokens and up of that law fitted below, against carrying the best score "
        f"on: {'; '.join(said)}."
    )


def _saved(row: Mapping[str, Any] | None, full: Mapping[str, Any] | None) -> dict[str, float]:
    saved = {}
    for column, what in (("prefill_tflop", "the prefill FLOPs"), ("kv_cache_mib", "the KV cache")):
        if row is not None and full is not None and row[column] is not None and full[column]:
            saved[what] = 1 - row[column] / full[column]
    return saved
