"""What every launch of a Triton kernel shares: the decorator, and the arithmetic of tiles.

Imported late, by `kernel.py` and `triton_path.py` of an operator, so that PyTorch alone never pays for it. Whether
kernels are compiled or interpreted is settled once, by `TRITON_INTERPRET` at the moment triton itself is imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import remembering

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
INTERPRETED = not isinstance(tl.zeros, triton.runtime.JITFunction)  # a helper of triton's own, decorated at its import
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


def interpreter_obstacle() -> str | None:
    """Why the interpreter cannot run kernels on CPU tensors here, or None."""
    if not INTERPRETED:
        return "TRITON_INTERPRET=1 was set after triton was imported; set it before import"
    if VERSION < (3, 7) and tuple(int(part) for part in numpy.__version__.split(".")[:2]) >= (2, 4):
        return f"the interpreter of triton {triton.__version__} needs numpy < 2.4, this is {numpy.__version__}"
    return None


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`, in the mode triton was imported in, whatever the environment says by now."""
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = INTERPRETED
        kernel = triton.jit(function)
    if not INTERPRETED:
        kernel.run = remembering(kernel)
    return kernel


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Launch on the GPU where the first argument, or the first tensor of it, lies."""

    @functools.wraps(function)
    def run(first: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = first if isinstance(first, Tensor) else first[0]
        if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
            return function(first, *args, **kwargs)
        with torch.cuda.device(tensor.device):
            return function(first, *args, **kwargs)

    return run


@functools.lru_cache(typed=True)
def constants(*values: Any) -> tuple[Any, ...]:
    """The values as constants of the compilation."""
    return tuple(tl.constexpr(value) for value in values)


def cdiv(length: int, block: int) -> int:
    """How many blocks cover `length`."""
    return -(-length // block)


def block_d(head_dim: int) -> int:
    """The power of two that holds `head_dim`, at least what a tensor core multiplies."""
    return max(16, 1 << (head_dim - 1).bit_length())


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where its last axis is not contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()


def alignment(*strides: Sequence[int] | None) -> int:
    """8 where all strides but the innermost are multiples of it (head_dim 72, 80 too), which the launcher does not
    tell the compiler: it looks for 16. Else 1."""
    bits = 0
    for of_a_tensor in strides:
        for stride in of_a_tensor[:-1] if of_a_tensor is not None else ():
            bits |= stride
    return 1 if bits & 7 else 8


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors a device has; the interpreter counts as one."""
    return 1 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def platform(device: torch.device) -> str:
    """Which column of a tile table is read: `"hip"`, `"sm_80"` or `"sm_90"`.

    `"sm_90"` multiplies from shared memory and has 227 KiB of it, as capability 10 and 11 do; `"sm_80"` multiplies from
    registers beside 99 KiB, as capability 12 does.
    """
    if torch.version.hip:
        return "hip"
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return "sm_90" if 9 <= major <= 11 else "sm_80"


def row_block(rows: int) -> int:
    """By how many rows a table is asked for a tile: 16, 32, 64, or 128 for more."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64 if rows <= 64 else 128


def splits(programs: int, n: int, keys: int, device: torch.device) -> int:
    """Into how many parts of whole tiles of `keys` the n keys are cut where whole rows would leave a device idle.

    Merging the parts costs as much as some 500 keys, unless so few programs share a device that most of it is idle.
    """
    cores, programs = processors(device), max(1, programs)
    if programs >= 2 * cores:
        return 1
    parts = min(3 * cores // programs, n // 512)
    if 4 * programs <= cores:
        parts = max(parts, min(cdiv(cores, programs), n // 128))
    part = cdiv(cdiv(n, max(1, min(parts, 64))), keys) * keys  # what a kernel makes of it: none is empty
    return max(1, cdiv(n, part)) if part else 1
