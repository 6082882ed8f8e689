"""The cells of a sweep: which compressor at which budget under which seed, checked before anything runs."""

from __future__ import annotations

import functools
import hashlib
import json
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._checks import one_of, positive_int
from ..errors import ArgumentError, BudgetError
from .table import BASELINES

NONE, NATIVE = BASELINES
_PATCH_KEYWORDS = {"allocate", "layer", "positions", "question", "unit"}


@dataclass(frozen=True)
class Cell:
    """One evaluation: a compressor (a name with its keywords, or an object) at one budget under one seed.

    A cell with a `reason` is not run: it is a row that says why.
    """

    label: str
    compressor: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    arguments: str | None = None
    budget: float | None = None
    seed: int | None = None
    run: str = ""
    reason: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of the table that a cell fixes."""
        asked = self.budget if isinstance(self.budget, int) else None
        return {
            "run": self.run,
            "compressor": self.label,
            "arguments": self.arguments,
            "num_tokens": asked,
            "seed": self.seed,
        }

    @property
    def title(self) -> str:
        """What a line of progress calls it."""
        if self.budget is None:
            return self.label
        unit = "token" + "s" * (self.budget != 1)
        return (
            f"{self.label}, {self.budget} {unit}"
            if isinstance(self.budget, int)
            else f"{self.label}, {self.budget:.0%}"
        )


def plan(
    compressors: Any,
    budgets: Sequence[float],
    baselines: Sequence[str] | None,
    seeds: Sequence[int],
    facts: Mapping[str, Any],
    evaluate: Callable[[Any], Any],
    processor: Any = None,
) -> list[Cell]:
    """Return the cells in the order in which one process runs them: baselines, then compressors x budgets x seeds.

    With `baselines=None` they are those that can run.
    """
    if not callable(evaluate):
        raise ArgumentError(f"evaluate must be a function of the model, got {type(evaluate).__name__}")
    known = [check_budget(value) for value in _several("budgets", budgets)]
    if len(set(map(repr, known))) < len(known):
        raise BudgetError(f"budgets={list(budgets)!r} names one twice")
    for name in baselines or ():
        one_of("baselines", name, BASELINES)
    wanted = BASELINES if baselines is None else baselines
    for seed in _several("seeds", seeds):
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
            raise ArgumentError(f"seeds must be integers >= 0, got {seed!r}")
    cells = [Cell(NONE, seed=int(seed)) for seed in seeds if NONE in wanted]
    if NATIVE in wanted:
        from .native import native_cells

        native = native_cells(processor, known, seeds)
        cells += [cell for cell in native if baselines is not None or cell.reason is None]
    for label, compressor, options in labelled(compressors):
        arguments = _arguments(compressor, options)
        for budget in known:
            shown = arguments if isinstance(budget, int) else {**arguments, "retention_ratio": budget}
            for seed in seeds:
                own = {"seed": int(seed)} if _takes_seed(compressor, options) else {}
                text = json.dumps(shown, sort_keys=True, default=str)
                cells.append(Cell(label, compressor, {**options, **own}, text, budget, int(seed)))
    name = _name(evaluate)
    return [_identified(cell, facts, name) for cell in cells]


def labelled(compressors: Any) -> list[tuple[str, Any, dict[str, Any]]]:
    """Return (label, name or compressor, keywords) for every way in which compressors can be given, checked."""
    from ..compressors import TokenCompressor
    from ..compressors.registry import compressor_class

    if isinstance(compressors, (str, TokenCompressor)):
        compressors = [compressors]
    pairs = list(compressors.items()) if isinstance(compressors, Mapping) else [(None, c) for c in compressors]
    found: list[tuple[str, Any, dict[str, Any]]] = []
    for label, entry in pairs:
        compressor, options = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
        if isinstance(compressor, str):
            compressor_class(compressor)  # an unknown name raises here, with a suggestion
            name = compressor
        elif isinstance(compressor, TokenCompressor) and set(options) <= _PATCH_KEYWORDS:
            name = getattr(compressor, "registered_name", None) or type(compressor).__name__
        else:
            raise ArgumentError(
                f"a compressor is a name, a TokenCompressor or a pair of one of them and a dict of keywords "
                f"(with a TokenCompressor: {', '.join(sorted(_PATCH_KEYWORDS))}), got {entry!r}"
            )
        found.append((str(label) if label is not None else name, compressor, dict(options)))
    labels = [label for label, _, _ in found]
    for label in labels:
        if labels.count(label) > 1:
            raise ArgumentError(f"two compressors are called {label!r}; pass {{label: compressor}} to tell them apart")
        if label in BASELINES:
            raise ArgumentError(f"{label!r} is the name of a baseline; give this compressor another label")
    return found


def _takes_seed(compressor: Any, options: Mapping[str, Any]) -> bool:
    from ..compressors.registry import compressor_class, keywords_of

    return isinstance(compressor, str) and "seed" not in options and "seed" in keywords_of(compressor_class(compressor))


def _arguments(compressor: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    own = {} if isinstance(compressor, str) else compressor.config()
    shown = {**own, **{key: _name(value) if callable(value) else value for key, value in options.items()}}
    return {key: value for key, value in shown.items() if key != "num_tokens"}


def check_budget(value: Any) -> float:
    """Return a budget as it is if it is a number of tokens (an int >= 1) or a share of them (a float in (0, 1])."""
    if isinstance(value, (numbers.Integral, bool)) or not isinstance(value, numbers.Real):
        return positive_int(value, "budgets: a number of tokens")
    if not 0 < float(value) <= 1:
        raise BudgetError(f"budgets: a share of the tokens lies in (0, 1], got {value!r}; a number of tokens is an int")
    return float(value)


def _several(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ArgumentError(f"{name} must be a list, got {values!r}")
    values = list(values)
    if not values:
        raise ArgumentError(f"{name} is empty: there is nothing to run")
    return values


def _name(evaluate: Any) -> str:
    while isinstance(evaluate, functools.partial):
        evaluate = evaluate.func
    named = evaluate if hasattr(evaluate, "__qualname__") else type(evaluate)
    return f"{named.__module__}:{named.__qualname__}"


def _identified(cell: Cell, facts: Mapping[str, Any], evaluate: str) -> Cell:
    """Give the cell the id that a resumed sweep finds it by: a digest of all that decides its outcome."""
    fixed = [facts.get(column) for column in ("model", "revision", "task")]
    key = [*fixed, evaluate, cell.label, cell.arguments, repr(cell.budget), cell.seed]
    run = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    return replace(cell, run=run)
