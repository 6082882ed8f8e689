"""One timed call of a model, split by hooks into tower, compressor and language model; and its counted operations."""

from __future__ import annotations

import contextlib
import gc
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UnsupportedModelError
from ..sweep.observe import decoder_of, vision_parts

Call = dict[str, Any]


class Stopwatch:
    """Times the parts of calls of one model: what makes image features, and from the decoder's start to the end."""

    def __init__(self, model: Any) -> None:
        self.model = model
        decoder = decoder_of(model)
        if decoder is None:
            name = type(model).__name__
            raise UnsupportedModelError(
                f"{name} has no language model of its own to time; profile() needs get_decoder()"
            )
        self.decoder, self.parts = decoder, vision_parts(model)
        takes = inspect.signature(model.forward).parameters
        self.options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in takes:
            self.options["logits_to_keep"] = 1
        self.device = torch.device(model.device)

    def now(self) -> float:
        """The time in milliseconds, after all work on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() * 1e3

    def prefill(self, inputs: Mapping[str, Any], handle: Any = None) -> Call:
        """Run one prefill up to the id of the first token, and return its times, the prompt and the cache."""
        marks: dict[str, float] = {"vision": 0.0}
        seen: dict[str, int] = {}

        def decoder_starts(module: Any, args: Any, kwargs: Any) -> None:
            marks.setdefault("decoder", self.now())
            embedded = kwargs.get("inputs_embeds")
            given = embedded if embedded is not None else kwargs.get("input_ids", args[0] if args else None)
            seen.setdefault("tokens", 0 if given is None else int(given.shape[1]))

        with (
            self._timed_parts(lambda spent: marks.update(vision=marks["vision"] + spent)),
            contextlib.ExitStack() as stack,
        ):
            stack.callback(self.decoder.register_forward_pre_hook(decoder_starts, with_kwargs=True).remove)
            start = self.now()
            out = self.model(**inputs, **self.options)
            first = out.logits[:, -1].argmax(-1).tolist()
            end = self.now()
        cache = getattr(out, "past_key_values", None) if getattr(out, "cache", None) is None else out.cache
        compress = handle.last.milliseconds if handle is not None and handle.last is not None else 0.0
        inside = handle is not None and handle._host.reader is not None  # it is compressed as the decoder starts
        return {
            "vision_ms": marks["vision"],
            "compress_ms": compress,
            "prefill_ms": end - marks.get("decoder", end) - (compress if inside else 0.0),
            "ttft_ms": end - start,
            "prompt_tokens": seen.get("tokens", 0),
            "kv_cache_mib": cache_mib(cache),
            "first": first,
        }

    def decode_tokens_per_s(self, inputs: Mapping[str, Any], new_tokens: int) -> float:
        """Return (m - 1) / (time after the first token) of greedily decoding m tokens, with no end of sequence."""
        ends: list[float] = []
        hook = self.decoder.register_forward_hook(lambda *_: ends.append(self.now()))
        try:
            limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
            self.model.generate(**inputs, **limits, do_sample=False)
            end = self.now()
        finally:
            hook.remove()
        return 1e3 * (new_tokens - 1) / (end - ends[0])

    def count(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Return the operations of one prefill as PyTorch's counter sees them, split at the decoder."""
        from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

        def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
            return sdpa_flop_count(query, key, value)

        fused = (
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        )  # the counter itself knows those of GPUs only
        spent = {"vision": 0.0, "decoder": 0.0}
        inside: list[float] = []
        with (
            FlopCounterMode(display=False, custom_mapping={fused: attention}) as counter,
            contextlib.ExitStack() as stack,
        ):

            def entered(*_: Any) -> None:
                inside.append(counter.get_total_flops())

            def left(*_: Any) -> None:
                spent["vision"] += counter.get_total_flops() - inside.pop()

            for part in self.parts:
                stack.callback(part.register_forward_pre_hook(entered).remove)
                stack.callback(part.register_forward_hook(left).remove)
            before = lambda *_: spent.update(decoder=counter.get_total_flops())  # noqa: E731
            stack.callback(self.decoder.register_forward_pre_hook(before).remove)
            self.model(**inputs, **self.options)
            total = counter.get_total_flops()
        return {"vision_tflop": spent["vision"] / 1e12, "prefill_tflop": (total - spent["decoder"]) / 1e12}

    def operators(self, inputs: Mapping[str, Any]) -> dict[str, float]:
        """Return the milliseconds of each operator of `tokscale.ops` that one prefill calls, in the order of calls."""
        clock = _Operators(self.now)
        with clock:
            self.model(**inputs, **self.options)
        return clock.spent

    @contextlib.contextmanager
    def _timed_parts(self, add: Callable[[float], None]) -> Iterator[None]:
        started: list[float] = []

        def entered(*_: Any) -> None:
            started.append(self.now())

        def left(*_: Any) -> None:
            begun = started.pop()
            if not started:  # a part inside a part is counted once
                add(self.now() - begun)

        with contextlib.ExitStack() as stack:
            for part in self.parts:
                stack.callback(part.register_forward_pre_hook(entered).remove)
                stack.callback(part.register_forward_hook(left).remove)
            yield


class _Operators(TorchDispatchMode):
    """Times tokscale's own operators by name."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.spent: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "tokscale":
            return func(*args, **(kwargs or {}))
        start = self.now()
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        self.spent[name] = self.spent.get(name, 0.0) + self.now() - start
        return out


def cache_mib(cache: Any) -> float | None:
    """Return the mebibytes of keys and values that a cache holds, None where it does not say."""
    layers = getattr(cache, "layers", None)
    if not layers:
        return None
    held = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    tensors = [tensor for pair in held for tensor in pair if isinstance(tensor, torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors) / 2**20 if len(tensors) == 2 * len(layers) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No gradients and no garbage collection while something is timed."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()
