"""The table of accuracies that `tokscale demo` shows while it measures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..plotting.sweep import interval_of
from . import _print


class LiveTable:
    """The table of accuracies: growing on a terminal, printed once at the end elsewhere."""

    def __init__(
        self, labels: Sequence[str], budgets: Sequence[int], names: Mapping[str, str], questions: int, chance: float
    ) -> None:
        self.labels, self.budgets, self.names = list(labels), list(budgets), names
        self.questions, self.chance = questions, chance
        self.scores: dict[tuple[str, int | None], str] = {}
        self.live: Any = None

    def __enter__(self) -> LiveTable:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(self._table(), refresh_per_second=8)
            self.live.start()
        else:
            cells = 1 + len(self.labels) * len(self.budgets)
            _print.note(f"sweep: {cells} cells of {self.questions} questions")
        return self

    def add(self, row: dict[str, Any]) -> None:
        interval = interval_of(row) if row["score"] is not None else None
        shown = f"{row['score']:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else row["status"]
        self.scores[row["compressor"], row["num_tokens"]] = shown
        if self.live is not None:
            self.live.update(self._table())

    def __exit__(self, *exception: Any) -> None:
        if self.live is not None:
            self.live.stop()
        elif exception[0] is None:
            from rich.console import Console

            Console(file=sys.stdout, width=200, highlight=False).print(self._table())

    def _table(self) -> Any:
        labels = self.labels
        rows = [[str(k), *(self.scores.get((label, k), "...") for label in labels)] for k in self.budgets]
        rows.append(["144", *[self.scores.get(("none", None), "...")] * len(labels)])
        head = ["tokens", *(self.names.get(label, label) for label in labels)]
        title = (
            f"Accuracy on {self.questions} `cell` questions [95 % Wilson interval]; chance {self.chance:g}; 144: full"
        )
        return _print.make_table(head, rows, title=title)
