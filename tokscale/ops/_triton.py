"""What every Triton kernel shares: the decorator, tile arithmetic, device functions.

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

from ._launch import remembering

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


def splits(programs: int, n: int, device: torch.device) -> int:
    """Into how many parts the keys are cut where whole rows would leave multiprocessors idle: by shapes and device.

    Merging the parts costs as much as some 500 keys, unless so few programs share a device that all of it is idle.
    """
    cores, programs = processors(device), max(1, programs)
    if 4 * programs <= cores:
        return max(1, min(cdiv(cores, programs), n // 128, 64))
    return max(1, min(3 * cores // programs, n // 512)) if programs < 2 * cores else 1


# Device functions


@jit
def dot(a, b, WIDE: tl.constexpr):
    """a b in fp32. The interpreter multiplies bf16 wrongly, so there both are widened; fp32 is never cut to tf32."""
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@jit
def narrow(x, dtype: tl.constexpr, WIDE: tl.constexpr):
    """fp32 as `dtype`, rounded to nearest even; the interpreter's own cast to bf16 truncates."""
    if WIDE and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        x = tl.where(x == x, rounded, x)
    return x.to(dtype)


@jit
def segment(a, batch):
    """Where a segment's rows and keys begin, and how many there are: (first row, first key, m, n, causal offset)."""
    if a.SEGMENTS:
        q0 = tl.load(a.ends_q + batch).to(tl.int64)
        k0 = tl.load(a.ends_k + batch).to(tl.int64)
        m = (tl.load(a.ends_q + batch + 1) - q0).to(tl.int32)
        n = (tl.load(a.ends_k + batch + 1) - k0).to(tl.int32)
        return q0, k0, m, n, n - m
    zero = batch * 0
    return zero, zero, a.m, a.n, a.offset


@jit
def tile_rows(a, start, head0, m, BM: tl.constexpr):
    """Rows of one tile: (query head, row within it, inside). `pack` heads lie one after the other."""
    r = start + tl.arange(0, BM)
    if a.PACKED:
        return (head0 + r // m).to(tl.int64), (r % m).to(tl.int64), r < m * a.pack
    return (head0 + r * 0).to(tl.int64), r.to(tl.int64), r < m


@jit
def load_tile(ptr, base, strided, inside, D: tl.constexpr, BLOCK_D: tl.constexpr, ALIGN: tl.constexpr):
    """(rows, BLOCK_D) from an address per row; zero outside."""
    d = tl.arange(0, BLOCK_D)
    offsets = tl.multiple_of(base + strided, ALIGN)  # the hint holds for an operation, not for an argument
    return tl.load(ptr + (offsets[:, None] + d[None, :]), inside[:, None] & (d < D)[None, :], 0.0)


@jit
def load_span(
    ptr,
    start,
    stride,
    inside,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
    EDGE: tl.constexpr,
):
    """(BLOCK, BLOCK_D) from `start` on, zero outside: as `load_tile` of rows that follow one another.

    In a loop only `start` moves, the places within the tile stay. Without EDGE every row is inside.
    """
    d = tl.arange(0, BLOCK_D)
    offsets = tl.multiple_of(start + tl.arange(0, BLOCK).to(tl.int64) * stride, ALIGN)  # of a scalar it would be lost
    place = ptr + (offsets[:, None] + d[None, :])
    if EDGE:
        return tl.load(place, inside[:, None] & (d < D)[None, :], 0.0)
    if BLOCK_D == D:
        return tl.load(place)
    return tl.load(place, (d < D)[None, :], 0.0)


@jit
def load_rows(a, batch, head, row, inside):
    """A tile of q."""
    return load_tile(a.q, batch * a.q_b + head * a.q_h, row * a.q_m, inside, a.D, a.BLOCK_D, a.ALIGN)


@jit
def load_keys(a, batch, group, first, inside, BN: tl.constexpr, EDGE: tl.constexpr):
    """A tile of k, from key `first` on."""
    start = batch * a.k_b + group * a.k_g + first * a.k_n
    return load_span(a.k, start, a.k_n, inside, a.D, a.BLOCK_D, a.ALIGN, BN, EDGE)


@jit
def row_positions(a, batch, row, inside):
    """Which query rows the causal rule and the mask mean."""
    if a.HAS_INDEX:
        return tl.load(a.index + batch * a.index_b + row * a.index_m, inside, 0)
    return row


@jit
def key_range(a, m, n, offset, at, row_in, part, parts, BN: tl.constexpr):
    """The part of the keys that this program's rows read: first, where whole tiles end that all rows see, last."""
    per = tl.cdiv(tl.cdiv(n, parts), BN) * BN
    first = part * per
    last = tl.minimum(first + per, n)
    whole = last
    if a.CAUSAL:
        last = tl.minimum(last, tl.max(tl.where(row_in, at, -n - m), 0).to(tl.int32) + offset + 1)
        whole = tl.minimum(last, tl.min(tl.where(row_in, at, n + m), 0).to(tl.int32) + offset + 1)
    return first, first + tl.maximum(whole - first, 0) // BN * BN, last


@jit
def row_range(a, m, offset, block, BM: tl.constexpr, BN: tl.constexpr):
    """The rows that see a block of keys: first, where tiles begin that see all of it, where whole tiles end."""
    whole = m * a.pack // BM * BM
    if a.CAUSAL:
        if a.HAS_INDEX or a.PACKED:
            return 0, whole, whole
        first = tl.minimum(tl.maximum(block - offset, 0) // BM * BM, whole)
        seen = tl.minimum(tl.cdiv(tl.maximum(block + BN - 1 - offset, 0), BM) * BM, whole)
        return first, seen, whole
    return 0, 0, whole


@jit
def live_rows(a, lse, lse_b, lse_h, batch, head, row, q0, row_in, EDGE: tl.constexpr):
    """(rows that vote and see a key, their -lse in units of log 2, else -inf). Without EDGE all are inside."""
    place = lse + batch * lse_b + head * lse_h + q0 + row
    live = row_in
    if a.HAS_VOTES:
        live = live & tl.load(a.votes + batch * a.votes_b + row * a.votes_m, row_in, 0).to(tl.int1)
    if a.HAS_VOTES or EDGE:
        norm = tl.load(place, live, -float("inf"))
    else:
        norm = tl.load(place)
    live = norm != -float("inf")  # `>` would drop NaN
    return live, tl.where(live, norm * -LOG2E, -float("inf"))


@jit
def masked_scores(s, a, factor, plus, rows, key, key_in, offset, EDGE: tl.constexpr, BY_KEY: tl.constexpr):
    """Scores in units of log 2 plus each row's `plus`, -inf where not seen, from products `s`: (rows, keys), with
    BY_KEY (keys, rows). `rows`: batch, head, row, position, inside.

    Without `plus` and biases `s` keeps its unit, `factor`. Without EDGE all rows and keys are inside, and every row
    sees every key as far as the causal rule goes.
    """
    batch, head, row, at, row_in = rows
    across: tl.constexpr = 0 if BY_KEY else 1  # the axis of keys is the other one
    head, row, at = tl.expand_dims(head, across), tl.expand_dims(row, across), tl.expand_dims(at, across)
    row_in = tl.expand_dims(row_in, across)
    key, key_in = tl.expand_dims(key, 1 - across), tl.expand_dims(key_in, 1 - across)
    inside = row_in & key_in
    if a.HAS_BIAS or a.HAS_HEAD_BIAS:
        s = s * factor
        if a.HAS_BIAS:
            bias = tl.load(a.bias + head * a.bias_h + row * a.bias_m + key * a.bias_n, inside, 0.0)
            s += bias.to(tl.float32) * LOG2E
        if a.HAS_HEAD_BIAS:
            s += tl.load(a.head_bias + head, row_in, 0.0).to(tl.float32) * LOG2E
        if plus is not None:
            s += tl.expand_dims(plus, across)
    elif plus is not None:
        s = tl.fma(s, factor, tl.expand_dims(plus, across))
    if a.HAS_SEEN:
        seen = tl.load(a.seen + batch * a.seen_b + key * a.seen_n, key_in, 0).to(tl.int1)
        s = tl.where(seen, s, -float("inf"))
    if a.HAS_MASK:
        place = batch * a.mask_b + head * a.mask_h + at * a.mask_m + key * a.mask_n
        s = tl.where(tl.load(a.mask + place, inside, 0).to(tl.int1), s, -float("inf"))
    if EDGE:
        if a.CAUSAL:
            inside = inside & (key <= at + offset)
        s = tl.where(inside, s, -float("inf"))
    return s


@jit
def unit(a, factor):
    """The unit of `masked_scores` without `plus`."""
    return 1.0 if a.HAS_BIAS or a.HAS_HEAD_BIAS else factor
