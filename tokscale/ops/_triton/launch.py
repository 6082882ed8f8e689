"""Launches of Triton kernels that were compiled before.

Triton asks at every launch what each argument is and hashes the answers: 100 us for the 60 to 130 arguments of an
attention kernel, more than the kernel runs. Here a call is known again by what its result depends on: dtype and
alignment of each tensor, and every other value. It goes to its compiled kernel with addresses in place of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 4096  # calls remembered of a kernel: as many lengths and strides; it then begins anew


class Known(NamedTuple):
    """An argument, a tuple, that says itself by what it is known again: leading `tensors`, and a key of the rest."""

    call: tuple[Any, ...]
    tensors: int
    key: tuple[Any, ...]


def remembering(kernel: Any) -> Callable[..., Any]:
    """Return what `kernel.run` is to be: Triton's at the first call of a kind, the short way to its result after it.

    Launches ask for fused multiply-add, which was the rule up to triton 3.8; 3.9 warns that it will not be in 3.10.
    """
    compiled: dict[tuple[Any, ...], Any] = {}
    names: Sequence[str] = kernel.arg_names

    def asked(args: Sequence[Any], options: dict[str, Any]) -> Any:
        given = [arg.call if arg.__class__ is Known else arg for arg in args]
        return type(kernel).run(kernel, *given, enable_fp_fusion=True, **options)

    def run(*args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        if warmup or watched(kernel):
            return asked(args, {**kwargs, "grid": grid, "warmup": warmup})
        first = args[0]
        while not isinstance(first, Tensor):
            first = first[0]
        key: list[Any] = [first.get_device()]
        bound = describe(args, key)
        described = (*key, *kwargs.values())  # a kernel has one place that launches it: its keywords, in one order
        known = compiled.get(described)
        if known is not None:
            known[(*grid, 1, 1)[:3]](*bound, *[kwargs[name] for name in names[len(args) :]])
            return known
        made = asked(args, {**kwargs, "grid": grid, "warmup": False})
        if made is not None:
            if len(compiled) >= MOST:
                compiled.clear()
            compiled[described] = made
        return made

    if torch.version.hip:  # there Triton also looks at how large a tensor's storage is
        return lambda *args, **kwargs: asked(args, kwargs)
    return run


def watched(kernel: Any) -> bool:
    """Whether somebody looks at every launch, or asks for another compilation than the last: Triton has to know."""
    knobs = triton.knobs
    return bool(
        kernel.pre_run_hooks
        or knobs.runtime.debug
        or knobs.compilation.instrumentation_mode
        or knobs.runtime.add_stages_inspection_hook is not None
    )


def describe(values: Sequence[Any], key: list[Any]) -> list[Any]:
    """Return the arguments as a compiled kernel takes them, and append to `key` what it depends on."""
    bound: list[Any] = []
    for value in values:
        kind = value.__class__
        if kind is int or value is None:
            key.append(value)
            bound.append(value)
        elif kind is Tensor or isinstance(value, Tensor):
            address = value.data_ptr()
            key.append(value.dtype)
            key.append(address & 15)
            bound.append(address)
        elif kind is Known:
            key.append(value.key)
            bound.append((*describe(value.call[: value.tensors], key), *value.call[value.tensors :]))
        elif isinstance(value, tuple):
            bound.append(tuple(describe(value, key)))
        else:
            key.append(value.value if kind is tl.constexpr else value)
            bound.append(value)
    return bound
