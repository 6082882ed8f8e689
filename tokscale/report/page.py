"""One self-contained HTML page from a sweep: the answer, then curve, tables, pictures, failures and provenance."""

from __future__ import annotations

import base64
import importlib.resources
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import writable, write_whole
from ..errors import InputError
from ..sweep.table import BASELINES, HEADER, SweepResult, show, to_line
from .answer import Answer, answers, held_out, which_laws

if TYPE_CHECKING:
    from ..profile import Profile

__all__ = ["render", "write"]

TABLE = ("compressor", "num_tokens", "num_tokens_kept", "score", "interval", "n_items", "seed", "seconds")
PROVENANCE = ("device", "dtype", "attention", "batch_size", "torch", "transformers", "triton", "tokscale", "commit")
LIMIT = 5_000_000  # bytes of a page that a browser and a mail server take without a murmur


def render(
    result: SweepResult,
    *,
    title: str = "How few vision tokens are enough?",
    lead: Sequence[str] = (),
    share: float = 0.95,
    chance: float | None = None,
    profile: Profile | None = None,
    pictures: Mapping[str, Any] | None = None,
    footnotes: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> str:
    """Return the page as a string: no script, no outside address, every picture inside.

    Args:
        result: a sweep of one model and one task.
        title: of the page.
        lead: paragraphs below the title.
        share: of the unpatched score that the answer is about.
        chance: score of a guess, for the curve.
        profile: measured times, for the section on cost.
        pictures: `{caption: Figure, Axes, PNG bytes or path}`, shown behind the cost; a caption is also the alt text.
        footnotes: how it was measured, in words.
        names: what to call a compressor in sentences and the curve, where its label is not enough.

    Raises:
        InputError: nothing finished, several models or tasks, or a page of 5 MB and more.

    Cost: .4 s, most of it for the curve.
    """
    import jinja2

    from ..plotting import plot_sweep
    from ..plotting.sweep import interval_of

    found, called = answers(result, share), dict(names or {})
    laws = {a.compressor: a.fit for a in found if a.fit is not None}
    curve = plot_sweep(result, chance=chance, fits=laws, names=called)
    rows = [row for row in result.rows if row["status"] == "ok"]
    cells = []
    for row in rows:
        interval = interval_of(row)
        said = "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
        cells.append([said if column == "interval" else show(row[column]) for column in TABLE])
    first = rows[0]
    csv = HEADER + "".join(to_line(row) for row in result.rows)
    source = importlib.resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(source).render(
        title=title,
        lead=list(lead),
        share=f"{share:.0%}",
        answers=found,
        sentences=[f"{called.get(a.compressor, a.compressor)}: {a.sentence()}" for a in found],
        which=which_laws(found, called),
        predicts=held_out(found, called),
        notes=_notes(found),
        model=first["model"],
        task=first["task"],
        curve={"alt": f"{first['metric'] or 'score'} against vision tokens per image", "data": _png(curve)},
        columns=TABLE,
        cells=cells,
        cost=_cost(rows),
        profile=None if profile is None else _profile(profile),
        pictures=[{"alt": caption, "data": _png(picture)} for caption, picture in (pictures or {}).items()],
        failures=[row for row in result.rows if row["status"] != "ok"],
        footnotes=list(footnotes),
        provenance=[(column, show(first[column])) for column in PROVENANCE if first[column] is not None],
        started=first["started"],
        version=first["tokscale"],
        csv=base64.b64encode(csv.encode()).decode(),
    )
    if len(page.encode()) >= LIMIT:
        size = len(page.encode()) / 1e6
        raise InputError(
            f"the report would have {size:.1f} MB, the limit is {LIMIT / 1e6:g}; pass fewer or smaller pictures"
        )
    return page


def write(result: SweepResult, path: str | os.PathLike[str], **keywords: Any) -> Path:
    """Write the page of `render` and return its path.

    Args:
        result: as in `render`.
        path: of the HTML file; one that is there is replaced in one step.
        keywords: of `render`.

    Raises:
        InputError: as in `render`; or no file can be written there.
    """
    path = writable(path)
    write_whole(path, render(result, **keywords))
    return path


def _png(picture: Any) -> str:
    if isinstance(picture, (str, os.PathLike)):
        data = Path(picture).read_bytes()
    elif isinstance(picture, bytes):
        data = picture
    else:
        figure = picture if hasattr(picture, "savefig") else picture.figure
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=110)
        data = buffer.getvalue()
    return base64.b64encode(data).decode()


def _notes(found: Sequence[Answer]) -> list[str]:
    return [f"{answer.compressor}: {note}" for answer in found for note in answer.notes]


def _cost(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return tokens, prompt, prefill FLOPs and cache of each budget once; they do not depend on the compressor."""
    seen: dict[Any, list[str]] = {}
    ordered = sorted(rows, key=lambda row: -(row["num_tokens_kept"] or 0))
    full = next((row for row in ordered if row["compressor"] == BASELINES[0]), None)
    for row in ordered:
        if row["prefill_tflop"] is None or row["num_tokens_kept"] in seen:
            continue
        ratio = f"{full['prefill_tflop'] / row['prefill_tflop']:.2f}" if full and full["prefill_tflop"] else ""
        flop, cache = f"{row['prefill_tflop'] * 1e3:.4g}", show(row["kv_cache_mib"])
        seen[row["num_tokens_kept"]] = [show(row["num_tokens_kept"]), show(row["prompt_tokens"]), flop, ratio, cache]
    return list(seen.values())


def _profile(profile: Profile) -> dict[str, Any]:
    names = ("vision_ms", "compress_ms", "prefill_ms", "ttft_ms", "prefill_speedup", "ideal_prefill_speedup")
    rows = []
    for row in profile.rows:
        cells = [row["compressor"], show(row["num_tokens_kept"]), str(row["prompt_tokens"])]
        for name in names:
            low, high = row.get(f"{name}_p20"), row.get(f"{name}_p80")
            spread = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
            cells.append("" if row[name] is None else f"{row[name]:.2f}{spread}")
        rows.append(cells)
    header = ", ".join(f"{key} {value}" for key, value in profile.header.items() if value is not None)
    head = ["compressor", "tokens", "prompt", *names]
    return {"title": profile.title, "header": header, "head": head, "rows": rows, "notes": profile.notes}
