"""The `native` baseline: the model's own way to fewer vision tokens, turned on the processor that `evaluate` uses."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import BudgetError, TokscaleError
from .observe import Observer
from .plan import NATIVE, Cell


def native_cells(processor: Any, budgets: Sequence[float], seeds: Sequence[int]) -> list[Cell]:
    """Return a cell per budget in tokens and seed; where there is nothing to turn, one cell with the reason.

    Budgets below the least that the processor can be told to make are cells with that reason.
    """
    tokens = [budget for budget in budgets if isinstance(budget, int)]
    if processor is None:
        return [Cell(NATIVE, reason="sweep was given no processor to turn; pass processor=")]
    if not tokens:
        return [Cell(NATIVE, reason="a processor is told a number of tokens, and all budgets are shares of them")]
    from ..hf import native_budget

    cells: list[Cell] = []
    for budget in tokens:
        try:
            keywords = native_budget(processor, budget)
        except BudgetError as error:
            cells.append(Cell(NATIVE, budget=budget, reason=str(error)))
            continue
        except TokscaleError as error:
            return [Cell(NATIVE, reason=str(error))]
        shown = json.dumps(keywords, sort_keys=True)
        cells += [Cell(NATIVE, None, keywords, shown, budget, int(seed)) for seed in seeds]
    return cells


@contextlib.contextmanager
def running_native(model: Any, cell: Cell, processor: Any) -> Iterator[Observer]:
    """Turn the processor for the time of a `with` block, and count what each picture became.

    The counting is that of a patch which keeps every token: outputs are the unpatched model's, bit for bit, and it
    knows where one image ends and the next begins.

    Raises:
        BudgetError: at the end of the block, if a picture had more tokens than the budget.
    """
    from ..hf import patch
    from ..hf.turned import turned

    with (
        turned(processor, cell.options, model),
        patch(model, "uniform", retention_ratio=1.0, processor=processor) as handle,
        Observer(model, handle) as observer,
    ):
        yield observer
    if observer.most > (cell.budget or 0):
        raise BudgetError(
            f"a picture had {observer.most} vision tokens under a native budget of {cell.budget} ({cell.arguments}). "
            "evaluate() must process its pictures while it is called, with the processor that sweep was given; or the "
            "picture is too long for so few tokens"
        )
