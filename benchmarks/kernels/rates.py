"""What a device can do at most, measured on it: bytes copied, products, exponentials per second."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from tokscale import _provenance

from .case import Work

# Results per clock and multiprocessor of exp2 in fp32: "Throughput of Native Arithmetic Instructions" in the CUDA C++
# Programming Guide, compute capabilities 8.0 to 9.0. Everything else below is measured.
EXPS_PER_CLOCK = 16


class Rates(NamedTuple):
    """Per second. `exps` is None where the clock of the device is not known."""

    copy_bytes: float
    matmul_flops: dict[torch.dtype, float]
    exps: float | None

    def floor_ms(self, work: Work, dtype: torch.dtype) -> float:
        """Return the milliseconds below which no implementation can come: the slowest of the three."""
        bounds = [work.bytes / self.copy_bytes, work.flops / self.matmul_flops[dtype]]
        if self.exps is not None:
            bounds.append(work.exps / self.exps)
        return 1e3 * max(bounds)


def measure(device: torch.device, tiny: bool = False) -> Rates:
    """Return the rates of the device in about a second; `tiny`: wrong ones at once, for a dry run."""
    gpu = device.type == "cuda"
    room, side, times = (2**28, 8192, 20) if gpu else (2**12, 16, 1) if tiny else (2**25, 1536, 5)
    source = torch.empty(room, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    copied = 8 * room / _fastest(lambda: target.copy_(source), device, times)
    flops = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=device).to(dtype)
        flops[dtype] = 2 * side**3 / _fastest(lambda a=a: a @ a, device, times)  # type: ignore[misc]
    if gpu:
        exps = _gpu_exps(device)
    else:
        x = source[: min(room, 2**16)].clamp(-1, 1)  # stays in the cache
        exps = x.numel() / _fastest(lambda: torch.exp(x), device, 10 * times)
    return Rates(copied, flops, exps)


def _gpu_exps(device: torch.device) -> float | None:
    megahertz = clock_mhz(device)
    if megahertz is None:
        return None
    return torch.cuda.get_device_properties(device).multi_processor_count * EXPS_PER_CLOCK * megahertz * 1e6


def _fastest(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds of the fastest of some calls: the machine without its disturbances."""
    call()
    took = []
    for _ in range(times):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize(device)
            took.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            call()
            took.append(time.perf_counter() - begin)
    return min(took)


def clock_mhz(device: torch.device) -> float | None:
    """Return the highest clock of a GPU's multiprocessors, as `nvidia-smi` gives it, or None."""
    answer = _nvidia_smi(device, "clocks.max.sm")
    return float(answer) if answer and answer.replace(".", "").isdigit() else None


def _nvidia_smi(device: torch.device, what: str) -> str | None:
    command = ["nvidia-smi", f"--id={device.index or 0}", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def facts(device: torch.device) -> dict[str, str | None]:
    """Return what a table says of the device: name, multiprocessors, memory, driver, versions."""
    found: dict[str, str | None] = {"device": device_name(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "sm": capability(device),
            "multiprocessors": str(properties.multi_processor_count),
            "memory_gib": f"{properties.total_memory / 2**30:.1f}",
            "l2_mib": f"{properties.L2_cache_size / 2**20:.0f}",
            "clock_mhz": _nvidia_smi(device, "clocks.max.sm"),
            "power_limit_w": _nvidia_smi(device, "power.limit"),
            "driver": _nvidia_smi(device, "driver_version"),
        }
    return {**found, **_provenance.versions(), "commit": _provenance.commit(), "date": _provenance.now()}


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or `cpu` with the number of its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def capability(device: torch.device) -> str:
    """Return a GPU's compute capability as `9.0`, of AMD its architecture; of a CPU nothing."""
    if device.type != "cuda":
        return ""
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName
    return "{}.{}".format(*torch.cuda.get_device_capability(device))
