"""What `profile` measured, as rows, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Profile"]


@dataclass(frozen=True)
class Profile:
    """What `profile` measured: `header` (where and how), and `rows`, the unpatched model first, None where unknown."""

    header: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """Says first what the figures are worth."""
        on = str(self.header["device"])
        return "CPU, for comparison only" if on == "cpu" else f"{on}, {self.header['dtype']}"

    @property
    def notes(self) -> list[str]:
        """In words: what became slower, and how much of the time no budget can touch."""
        base, said = self.rows[0], []
        for row in self.rows[1:]:
            name = f"{row['compressor']} at {row['num_tokens']} tokens"
            if row["ttft_ms"] > base["ttft_ms"]:
                times = row["ttft_ms"] / base["ttft_ms"]
                said.append(
                    f"{name} is slower than the unpatched model: {times:.2f} times its time to the first token."
                )
            elif row["prefill_ms"] > base["prefill_ms"]:
                said.append(f"{name}: the language model's prefill is slower than unpatched.")
        share = base["vision_ms"] / base["ttft_ms"]
        said.append(
            f"The vision tower takes {share:.0%} of the unpatched time to the first token; no budget reduces it."
        )
        return said

    def table(self) -> str:
        """Return the main figures as text: medians, [20th and 80th percentile] of the two times that matter."""
        head = ("compressor", "tokens", "prompt", "vision ms", "compress ms", "operators ms", "prefill ms", "ttft ms",
                "decode tok/s", "KV MiB", "prefill GFLOP", "speed-up", "ideal")  # fmt: skip
        lines = [head]
        for row in self.rows:
            kept = row["num_tokens_kept"]
            flop = row["prefill_tflop"]
            lines.append(
                (
                    row["compressor"],
                    "" if kept is None else f"{kept:g}",
                    str(row["prompt_tokens"]),
                    f"{row['vision_ms']:.2f}",
                    f"{row['compress_ms']:.2f}",
                    f"{row['operators_ms']:.2f}",
                    _spread(row, "prefill_ms"),
                    _spread(row, "ttft_ms"),
                    "" if row["decode_tokens_per_s"] is None else f"{row['decode_tokens_per_s']:.0f}",
                    "" if row["kv_cache_mib"] is None else f"{row['kv_cache_mib']:.3g}",
                    f"{flop * 1e3:.3g}",
                    f"{row['prefill_speedup']:.2f}",
                    "" if row["ideal_prefill_speedup"] is None else f"{row['ideal_prefill_speedup']:.2f}",
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = ["  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths)))
                for line in lines]  # fmt: skip
        where = ", ".join(f"{key} {value}" for key, value in self.header.items() if value is not None)
        return "\n".join([self.title, where, "", *(line.rstrip() for line in text), "", *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return title, header, rows and notes as plain JSON."""
        return {"schema": 1, "title": self.title, "header": self.header, "rows": list(self.rows), "notes": self.notes}

    def __str__(self) -> str:
        return self.table()


def _spread(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_p20']:.2f}, {row[f'{name}_p80']:.2f}]"
