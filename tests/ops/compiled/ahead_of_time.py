"""Compile, for GPUs that are not here, exactly what a call would launch, and read what the machine code uses."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokscale.ops import _triton

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}  # of a block, the least of a table's GPUs
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.bool: "*i1",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Usage(NamedTuple):
    """What one compiled kernel uses."""

    kernel: str
    target: str
    registers: int
    spills: int  # vector registers only
    stack: int  # bytes
    shared: int  # bytes
    tensor_core: str  # the widest matrix instruction: HGMMA, HMMA, mfma or ""


def usages(call: Callable[[], Any], target: str, processors: int = 1) -> list[Usage]:
    """One line per kernel that `call` launches, without running any."""
    found: list[Usage] = []

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append(_compile(self, args, kwargs, target))

    run, count, platform = triton.runtime.JITFunction.run, _triton.processors, _triton.platform
    triton.runtime.JITFunction.run = compile_instead
    _triton.processors = lambda device: processors
    _triton.platform = lambda device: "hip" if target.startswith("gfx") else target
    try:
        call()
    finally:
        triton.runtime.JITFunction.run, _triton.processors, _triton.platform = run, count, platform
    return found


def check(usage: Usage, tensor_core: bool = True) -> None:
    """No vector register spills, no stack, shared memory of the smallest GPU meant, matrix instructions."""
    assert usage.spills == 0 and usage.stack == 0, usage
    assert usage.shared <= SHARED[usage.target], usage
    assert bool(usage.tensor_core) == tensor_core, usage


def _compile(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: str) -> Usage:
    named = ("num_warps", "num_stages", "enable_fp_fusion")
    options = {name: kwargs.pop(name) for name in named if name in kwargs}
    values = dict(zip(kernel.arg_names, args))
    values.update(kwargs)
    constexprs: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    signature = {}
    for place, name in enumerate(kernel.arg_names):
        declared = kernel.params[place].is_constexpr
        signature[name] = _type(values[name], (place,), declared, constexprs, attributes)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    name = kernel.fn.__name__
    return (_amd if target.startswith("gfx") else _nvidia)(name, target, compiled)


def _type(value: Any, place: tuple[int, ...], constant: bool, constexprs: dict, attributes: dict) -> Any:
    """As the launcher specialises: pointers and multiples of 16 are known to be such, a 1 is a constant."""
    if isinstance(value, tuple):
        return type(value)(*(_type(v, (*place, i), False, constexprs, attributes) for i, v in enumerate(value)))
    if value is None or constant or isinstance(value, tl.constexpr) or (isinstance(value, int) and value == 1):
        constexprs[place] = value.value if isinstance(value, tl.constexpr) else value
        return "constexpr"
    if isinstance(value, Tensor):
        attributes[place] = [["tt.divisibility", 16]]
        return TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    if value % 16 == 0:
        attributes[place] = [["tt.divisibility", 16]]
    return "i32" if abs(value) < 2**31 else "i64"


def _nvidia(name: str, target: str, compiled: Any) -> Usage:
    with tempfile.TemporaryDirectory() as folder:
        cubin = os.path.join(folder, "kernel.cubin")
        Path(cubin).write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([CUOBJDUMP, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True)
        sass = subprocess.run([CUOBJDUMP, "--dump-sass", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage.stdout).group(1)) for key in ("REG", "STACK"))
    spills = len(re.findall(r"\b(?:STL|LDL)\b", sass))
    core = next((kind for kind in ("HGMMA", "HMMA") if kind in sass), "")
    return Usage(name, target, registers, spills, stack, compiled.metadata.shared, core)


def _amd(name: str, target: str, compiled: Any) -> Usage:
    text = compiled.asm["amdgcn"]
    registers, spills, stack = (
        int(re.search(rf"\.{key}:\s*(\d+)", text).group(1))
        for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    )
    core = "mfma" if "v_mfma" in text else ""
    return Usage(name, target, registers, spills, stack, compiled.metadata.shared, core)
