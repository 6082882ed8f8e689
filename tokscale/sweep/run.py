"""Models x compressors x budgets, each cell run on a patched model, gathered into one tidy table."""

from __future__ import annotations

import contextlib
import math
import numbers
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _provenance
from .._files import writable
from ..errors import ArgumentError, PatchError, UnsupportedModelError
from .plan import NATIVE, NONE, Cell, plan
from .store import Store
from .table import COLUMNS, Row, SweepResult, as_row

if TYPE_CHECKING:
    from .observe import Observer

__all__ = ["SweepResult", "sweep"]

_GIVEN = (
    "score stderr n_items metric images num_tokens_kept mean_tokens native_tokens prompt_tokens vision_ms compress_ms"
)
_FROM_EVALUATE = (*_GIVEN.split(), "prefill_ms", "decode_tokens_per_s", "peak_memory_mib", "batch_size")
_FROM_META = ("model", "revision", "task", "metric", "batch_size", "n_items", "device", "dtype", "attention", "commit")


def sweep(
    model: Any,
    compressors: Any,
    evaluate: Callable[[Any], Any],
    *,
    budgets: Sequence[float],
    processor: Any = None,
    baselines: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    resume: bool = True,
    strict: bool = False,
    progress: bool = True,
    log: Callable[[Row], Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> SweepResult:
    """Return the scores of `model` under every compressor at every budget: a row per (compressor, budget, task, seed).

    Each cell patches the model, calls `evaluate(model)` once, and gives the model back as it was, after an exception
    too. A cell that fails is a row with its error, and the sweep goes on.

    Args:
        model: a Hugging Face vision-language model that is not patched.
        compressors: names, compressors, or a dict `{label: either}`; a label is what the table calls it. In
            the place of either, a pair `(either, keywords)` also gives keywords of `tokscale.patch` (and of the named
            compressor), such as `question`.
        evaluate: `evaluate(model)` returns a score, a dict with `score` (and `stderr`, `n_items`, `metric`, measured
            columns), or a dict `{task: either of these}`. Where `n_items` is given, the score is a share in [0, 1].
        budgets: vision tokens per image (ints >= 1), or shares of them (floats in (0, 1], `retention_ratio`).
        processor: as in `tokscale.patch`; and what `native` turns, so `evaluate` must use this same object.
        baselines: `"none"` runs the model unpatched; `"native"` runs it once per budget in tokens with its processor
            turned to at most so many (`tokscale.hf.native_budget`), a `skipped` row where that cannot be. Default:
            those that can run.
        seeds: each cell runs once per seed. PyTorch, numpy and `random` are seeded by it (and given back as they were),
            and a compressor that is named takes it as its `seed`, if it has one.
        out: a CSV file. A cell's rows are appended and on the disk when the cell ends.
        resume: go on with the file that is there: `ok` and `skipped` rows stay, `failed` ones are run again. How many
            cells were there is said on stderr; rows of another `n_items`, dtype or attention are refused.
        strict: raise what a cell raises.
        progress: a bar where there is a terminal, and one line per cell, both on stderr.
        log: called with each row as it comes.
        meta: columns that the caller knows better: `model`, `revision`, `task`, `metric`, `batch_size`, ...; and
            `n_items`, which is compared with the rows of `out` before anything runs (a row has what `evaluate` says).

    Under `torch.distributed.run` the ranks share the cells; each writes `OUT.rank{r}.csv`, and rank 0 merges them.

    Raises:
        ArgumentError, BudgetError, UnknownCompressorError: before anything runs, for arguments that cannot be meant.
        UnsupportedModelError, PatchError: the model cannot be patched, or is already.
        InputError: `out` cannot be written, holds something else than a sweep's table or rows of other settings, or is
            there and `resume=False`.

    Cost: one evaluation per cell; the columns of FLOPs and bytes are closed forms (`tokscale.cost`) per prompt.

    Example:
        >>> import tokscale
        >>> model, processor = tokscale.demo.load()                                  # doctest: +SKIP
        >>> result = tokscale.sweep(model, ["divprune"], evaluate, budgets=[1, 4])   # doctest: +SKIP
    """
    facts = _facts(model, meta)
    cells = plan(compressors, budgets, baselines, seeds, facts, evaluate, processor)
    if out is not None:
        writable(out)
    _preflight(model, cells, processor)
    with Store(out, cells, facts, resume=resume, progress=progress) as store:
        for cell in store.todo():
            started, clock = _provenance.now(), time.perf_counter()
            try:
                rows = _skipped(cell) if cell.reason else _run(model, cell, evaluate, processor)
            except Exception as error:
                if strict:
                    raise
                _free_memory(error)
                rows = [{"status": "failed", "error": _one_line(error)}]
            always = {**facts, **cell.columns, "started": started, "rank": store.rank, "world_size": store.world}
            always["n_items"] = None  # a row has what `evaluate` says
            always["seconds"] = None if cell.reason else time.perf_counter() - clock
            finished = [as_row({**always, **{k: v for k, v in row.items() if v is not None}}) for row in rows]
            store.add(cell, finished)
            if log is not None:
                for row in finished:
                    log(row)
        return store.result()


def _run(model: Any, cell: Cell, evaluate: Callable[[Any], Any], processor: Any) -> list[Row]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(_seeded(cell.seed or 0, model))
        peak = _peak_memory(model)
        observer = stack.enter_context(_observed(model, cell, processor))
        clock = time.perf_counter()
        answer = evaluate(model)
        seconds = time.perf_counter() - clock
    seen = {**observer.columns(), "seconds": seconds, "peak_memory_mib": peak()}
    if cell.label == NATIVE:
        seen |= {"native_tokens": None, "compress_ms": None}  # nothing was taken away from what the model was given
    rows = []
    scored = _tasks(answer)
    if observer.handle is not None and observer.handle.last is None:
        raise ArgumentError("evaluate() made no call with images of the model it was given: no token was compressed")
    for task, values in scored.items():
        row = {"status": "ok", **seen, **values}
        rows.append(
            {**row, **_closed_forms(model, row, observer.images_per_prompt), **({"task": task} if task else {})}
        )
    return rows


@contextlib.contextmanager
def _observed(model: Any, cell: Cell, processor: Any) -> Iterator[Observer]:
    """Give the model as the cell wants it, watched: as it is, with its processor turned, or patched."""
    from .native import running_native
    from .observe import Observer

    with contextlib.ExitStack() as stack:
        if cell.label == NATIVE:
            yield stack.enter_context(running_native(model, cell, processor))
            return
        handle = None
        if cell.label != NONE:
            from ..hf import patch

            budget: dict[str, Any] = {"num_tokens" if isinstance(cell.budget, int) else "retention_ratio": cell.budget}
            handle = patch(model, cell.compressor, processor=processor, **budget, **cell.options)
            stack.enter_context(handle)
        yield stack.enter_context(Observer(model, handle))


def _tasks(answer: Any) -> dict[str, dict[str, Any]]:
    """Return {task: columns} from whatever `evaluate` returned; the task is empty where it named none."""
    if isinstance(answer, Mapping) and "score" not in answer:
        if not answer:
            raise ArgumentError("evaluate returned an empty dict; return a score, or {task: score}")
        return {str(task): _scored(value, f"evaluate()[{task!r}]") for task, value in answer.items()}
    return {"": _scored(answer, "evaluate()")}


def _scored(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        value = {"score": value}
    strange = [key for key in value if key not in _FROM_EVALUATE]
    if strange:
        raise ArgumentError(f"{what} has the key {strange[0]!r}; it may have {', '.join(_FROM_EVALUATE)}")
    score = value.get("score")
    if hasattr(score, "item"):
        score = score.item()
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ArgumentError(f"{what}: the score must be a finite number, got {type(score).__name__} {score!r}")
    items = value.get("n_items")
    if items is not None and not (isinstance(items, numbers.Integral) and int(items) >= 1):
        raise ArgumentError(f"{what}: n_items must be an integer >= 1, got {items!r}")
    if items is not None and not 0 <= score <= 1:
        raise ArgumentError(
            f"{what}: with n_items the score is a share in [0, 1], got {score!r}; divide it by its scale"
        )
    return {**value, "score": float(score), **({"n_items": int(items)} if items is not None else {})}


def _closed_forms(model: Any, row: Mapping[str, Any], images_per_prompt: float | None) -> dict[str, float]:
    """Return the cost columns of one prompt of mean length; a column is absent where it cannot be known."""
    from .. import cost

    found: dict[str, float] = {}
    config, prompt, size = getattr(model, "config", None), row.get("prompt_tokens"), getattr(model, "dtype", None)
    with contextlib.suppress(UnsupportedModelError):
        if prompt is not None:
            found["prefill_tflop"] = cost.prefill_flops(config, prompt) / 1e12
        if prompt is not None and size is not None:
            found["kv_cache_mib"] = cost.kv_cache_bytes(config, prompt, dtype_bytes=size.itemsize) / 2**20
    with contextlib.suppress(UnsupportedModelError):
        if images_per_prompt is not None:
            found["vision_tflop"] = cost.vision_flops(config, images=images_per_prompt) / 1e12
    return found


def _skipped(cell: Cell) -> list[Row]:
    return [{"status": "skipped", "error": f"{cell.label}: {cell.reason}"}]


def _facts(model: Any, meta: Mapping[str, Any] | None) -> dict[str, Any]:
    meta = dict(meta or {})
    strange = [key for key in meta if key not in _FROM_META]
    if strange:
        raise ArgumentError(f"meta has no column {strange[0]!r}; it takes {', '.join(_FROM_META)}")
    known = {**_provenance.of_model(model), **_provenance.versions(), "commit": _provenance.commit(), **meta}
    return {column: known[column] for column in COLUMNS if column in known}


def _preflight(model: Any, cells: Sequence[Cell], processor: Any) -> None:
    """Raise now what no cell could survive: a model that cannot be patched at all, or is patched already."""
    from ..hf import patch

    first = next((cell for cell in cells if cell.label not in (NONE, NATIVE)), None)
    if first is None:
        return
    try:
        patch(model, first.compressor, num_tokens=1, processor=processor, **first.options).remove()
    except (PatchError, UnsupportedModelError):
        raise
    except Exception:  # this cell's own trouble: it will be a row
        return


@contextlib.contextmanager
def _seeded(seed: int, model: Any) -> Iterator[None]:
    import torch

    device = getattr(model, "device", None)
    devices = [device] if device is not None and torch.device(device).type == "cuda" else []
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002


def _peak_memory(model: Any) -> Callable[[], float | None]:
    import torch

    device = getattr(model, "device", None)
    if device is None or torch.device(device).type != "cuda":
        return lambda: None
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device) / 2**20


def _free_memory(error: Exception) -> None:
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()


def _one_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
