"""What a token budget costs and saves on this machine: time to the first token, throughput, memory, operations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import _provenance
from .._checks import positive_int
from ..errors import ArgumentError
from .result import Profile

__all__ = ["profile"]

TIMES = ("vision_ms", "compress_ms", "prefill_ms", "ttft_ms")
RATES = ("prefill_tokens_per_s", "decode_tokens_per_s")
UNPATCHED = "unpatched"


def profile(
    model: Any,
    compressors: Any,
    inputs: Mapping[str, Any],
    *,
    budgets: Sequence[int] | Mapping[str, Sequence[int]],
    processor: Any = None,
    repeats: int = 10,
    warmup: int | None = None,
    new_tokens: int = 32,
    image_size: str | None = None,
) -> Profile:
    """Return measured times, memory and operations of one prompt, unpatched and at every budget of every compressor.

    All variants run in one process on the same inputs and attention backend, interleaved A B C ... C B A, without
    gradients and garbage collection. Each quantity is the median of its calls, with the 20th and 80th percentile.

    ```
    vision_ms      tower and projector, which a budget does not change      compress_ms  the compressor alone
    prefill_ms     language model over the prompt to the last logits        ttft_ms      pixels to the first token's id
    operators_ms   of `tokscale.ops` alone, in vision or compress: the median of 3 calls of their own; `operators` names
                   them
    prefill_tokens_per_s = batch prompt / prefill        decode_tokens_per_s = batch (m - 1) / time after the first
    ```

    Args:
        model: a Hugging Face vision-language model that is not patched, in eval mode.
        compressors: names, compressors or a dict, as in `tokscale.sweep`.
        inputs: the model's inputs for one prompt or a batch, on the model's device.
        budgets: vision tokens per image, ints >= 1; or such a list per label of the compressors.
        processor: as in `tokscale.patch`.
        repeats: timed calls of each variant (rounded up to an even number, for the way there and back).
        warmup: calls before them; None: 3 on a CPU, 10 on a GPU.
        new_tokens: tokens of the decoding test, at least 2 (32 for a rate worth reporting); 0 leaves it out.
        image_size: what the header says of the pictures.

    Raises:
        ArgumentError, BudgetError, UnknownCompressorError: before anything runs.
        UnsupportedModelError, PatchError: the model cannot be patched, or has no decoder to time.

    Cost: (repeats + warmup + 5) prefills and repeats / 2 decodings per variant.

    Example:
        >>> profile(model, ["divprune"], inputs, budgets=[36])            # doctest: +SKIP
    """
    from ..sweep.plan import labelled, plan
    from .measure import Stopwatch, quiet

    repeats = 2 * math.ceil(positive_int(repeats, "repeats") / 2)
    if new_tokens and positive_int(new_tokens, "new_tokens") < 2:
        raise ArgumentError(
            "new_tokens must be at least 2, or 0 to leave decoding out: the rate is taken after the first"
        )
    cells = []
    for label, compressor, options in labelled(compressors):
        if isinstance(budgets, Mapping) and label not in budgets:
            raise ArgumentError(f"budgets has no list for {label!r}; it has lists for {', '.join(budgets)}")
        chosen = budgets[label] if isinstance(budgets, Mapping) else budgets
        for budget in chosen:
            positive_int(budget, "budgets: a number of tokens")
        cells += plan({label: (compressor, options)}, chosen, (), (0,), {}, str)
    watch = Stopwatch(model)
    warmup = (10 if watch.device.type == "cuda" else 3) if warmup is None else warmup
    variants = [_Variant(UNPATCHED)] + [_Variant(c.label, c.budget, c.compressor, c.options) for c in cells]
    with quiet():
        for variant in variants:
            with variant.on(model, processor) as handle:
                variant.first_call_ms = watch.prefill(inputs, handle)["ttft_ms"]
                for _ in range(warmup):
                    watch.prefill(inputs, handle)
                variant.counted = watch.count(inputs)
                variant.operators = [watch.operators(inputs) for _ in range(3)]
                variant.peak = _peak_memory(watch, inputs)
        for index in range(repeats):
            for variant in variants if index % 2 == 0 else reversed(variants):
                with variant.on(model, processor) as handle:
                    variant.calls.append(watch.prefill(inputs, handle))
                    if handle is not None:
                        variant.images = [(image.n, image.k) for image in handle.last.images]
                    if new_tokens and index % 2 == 0:
                        variant.decoded.append(watch.decode_tokens_per_s(inputs, new_tokens))
    batch = len(inputs["input_ids"])
    rows = [variant.row(model, batch, inputs) for variant in variants]
    return Profile(_header(model, watch, batch, rows[0], repeats, new_tokens, image_size), tuple(_compared(rows)))


class _Variant:
    """The unpatched model, or one compressor at one budget, and what was measured of it."""

    def __init__(self, label: str, budget: Any = None, compressor: Any = None, options: Any = None) -> None:
        self.label, self.budget, self.compressor, self.options = label, budget, compressor, dict(options or {})
        self.calls: list[dict[str, Any]] = []
        self.decoded: list[float] = []
        self.images: list[tuple[int, int]] = []
        self.counted: dict[str, float] = {}
        self.operators: list[dict[str, float]] = []
        self.first_call_ms: float | None = None
        self.peak: float | None = None

    @contextlib.contextmanager
    def on(self, model: Any, processor: Any) -> Iterator[Any]:
        if self.compressor is None:
            yield None
            return
        from ..hf import patch

        with patch(model, self.compressor, num_tokens=self.budget, processor=processor, **self.options) as handle:
            if isinstance(self.compressor, str):  # built by the first patch, for this model, and used from then on
                self.compressor = handle.compressor
                self.options = {k: v for k, v in self.options.items() if k in _PATCH_ONLY}
            yield handle

    def row(self, model: Any, batch: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        from .. import cost

        prompt = self.calls[0]["prompt_tokens"]
        row: dict[str, Any] = {"compressor": self.label, "num_tokens": self.budget}
        row["num_tokens_kept"] = sum(k for _, k in self.images) / len(self.images) if self.images else None
        row["native_tokens"] = sum(n for n, _ in self.images) / len(self.images) if self.images else None
        row["prompt_tokens"] = prompt
        for name in TIMES:
            row |= _percentiles(name, [call[name] for call in self.calls])
        row["operators_ms"] = float(np.median([sum(call.values()) for call in self.operators]))
        row["operators"] = " ".join(self.operators[0])
        row |= _percentiles("prefill_tokens_per_s", [1e3 * batch * prompt / call["prefill_ms"] for call in self.calls])
        row |= _percentiles("decode_tokens_per_s", [batch * rate for rate in self.decoded])
        row["kv_cache_mib"], row["peak_memory_mib"] = self.calls[0]["kv_cache_mib"], self.peak
        row |= self.counted
        with contextlib.suppress(ValueError):  # a decoder without a closed form: the column stays empty
            row["prefill_tflop_closed_form"] = cost.prefill_flops(model.config, prompt, batch_size=batch) / 1e12
        with contextlib.suppress(ValueError):
            images = len(self.images) or batch
            row["vision_tflop_closed_form"] = cost.vision_flops(model.config, images=images) / 1e12
        row["first_call_ms"] = self.first_call_ms
        return row


_PATCH_ONLY = {"allocate", "layer", "positions", "question", "unit"}


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {name: None, f"{name}_p20": None, f"{name}_p80": None}
    p20, p50, p80 = (float(value) for value in np.percentile(values, [20, 50, 80]))
    return {name: p50, f"{name}_p20": p20, f"{name}_p80": p80}


def _peak_memory(watch: Any, inputs: Mapping[str, Any]) -> float | None:
    if watch.device.type != "cuda":
        return None
    import torch

    torch.cuda.reset_peak_memory_stats(watch.device)
    watch.prefill(inputs)
    return torch.cuda.max_memory_allocated(watch.device) / 2**20


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the ratios to the unpatched model of this run, and beside them what the operations alone would give."""
    base = rows[0]
    if len(rows) > 1:
        base["native_tokens"] = base["num_tokens_kept"] = rows[1]["native_tokens"]
    for row in rows:
        row["prefill_speedup"] = base["prefill_ms"] / row["prefill_ms"]
        row["ttft_speedup"] = base["ttft_ms"] / row["ttft_ms"]
        row["ideal_prefill_speedup"] = base["prefill_tflop"] / row["prefill_tflop"] if row["prefill_tflop"] else None
    return rows


def _header(
    model: Any, watch: Any, batch: int, base: Mapping[str, Any], repeats: int, new_tokens: int, image_size: str | None
) -> dict[str, Any]:
    import torch

    threads = {"threads": torch.get_num_threads()} if watch.device.type == "cpu" else {}
    return {
        **_provenance.of_model(model),
        **threads,
        "batch_size": batch,
        "image_size": image_size,
        "prompt_tokens": base["prompt_tokens"],
        "calls": repeats,
        "new_tokens": new_tokens,
        **_provenance.versions(),
        "commit": _provenance.commit(),
        "started": _provenance.now(),
    }
