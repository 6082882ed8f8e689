"""Time and memory of calls: on a GPU by events with a cold L2 cache, on the CPU in turn with the other calls."""

from __future__ import annotations

import ctypes
import pathlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Call = Callable[[], Any]
WARM_MS, SAMPLE_MS = 25.0, 100.0  # on a GPU: so long before the first measured call, and so long in all
FEWEST, MOST = 5, 1000  # measured calls


class Times(NamedTuple):
    """Milliseconds of a call: percentiles of single calls, and the median of a CUDA graph's replays."""

    p20: float
    p50: float
    p80: float
    graph: float | None = None


def synchronise(device: torch.device) -> None:
    """Wait for a GPU; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Call, device: torch.device) -> float:
    """Return the wall time of one call, synchronised."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def peak_mib(call: Call, device: torch.device) -> float:
    """Return how far a call raises the memory of the device, or of this process, above what it held before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back first, else a call could hide in it
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew

    def status(field: str) -> float:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))

    before = status("VmRSS")
    call()
    return max(0.0, status("VmHWM") - before)


def percentiles(milliseconds: Sequence[float]) -> Times:
    """Return the 20th, 50th and 80th."""
    return Times(*(float(value) for value in np.percentile(milliseconds, [20, 50, 80])))


def in_turn(calls: Mapping[str, Call], budget: float, fewest: int = FEWEST, most: int = 50) -> dict[str, Times]:
    """Return the times of calls on the CPU: one after the other in random order, round after round.

    A busy moment so falls on all alike. Rounds go on for `budget` seconds, at least `fewest`, at most `most`.
    """
    took: dict[str, list[float]] = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    cpu, end, rounds = torch.device("cpu"), time.perf_counter() + budget, 0
    while order and rounds < most and (rounds < fewest or time.perf_counter() < end):
        draw.shuffle(order)
        for name in order:
            took[name].append(1e3 * seconds(calls[name], cpu))
        rounds += 1
    return {name: percentiles(times) for name, times in took.items()}


class Gpu:
    """Measures calls on one GPU, the L2 cache emptied before each."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(max(2 * l2, 2**26), dtype=torch.int8, device=device)

    def times(self, call: Call, graph: bool = True) -> Times:
        """Return the times of single calls, and of the replays of a graph of one call where it can be captured."""
        once = self._milliseconds(call, 3)
        self._milliseconds(call, _calls(once, WARM_MS, 1))
        found = percentiles(self._milliseconds(call, _calls(once, SAMPLE_MS, FEWEST)))
        replayed = self.replayed(call) if graph else None
        return found._replace(graph=None if replayed is None else replayed.p50)

    def _milliseconds(self, call: Call, times: int) -> list[float]:
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(times)]
        for start, end in marks:
            self.flush.zero_()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) for start, end in marks]

    def replayed(self, call: Call, sample: float = SAMPLE_MS) -> Times | None:
        """Return the times of a CUDA graph of one call: what the GPU takes, whatever the CPU does.

        None where a call cannot be captured: it waits for the device, or allocates outside the graph.
        """
        own, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(own)
        try:
            with torch.cuda.stream(side):
                call()
            own.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                call()
            once = self._milliseconds(graph.replay, 3)
            return percentiles(self._milliseconds(graph.replay, _calls(once, sample, FEWEST)))
        except RuntimeError:  # what CUDA says of a capture that it gave up
            torch.cuda.set_stream(own)  # a capture that fails leaves its own stream behind
            torch.cuda.synchronize(self.device)
            return None


def _calls(sample: Sequence[float], milliseconds: float, fewest: int) -> int:
    """How many calls fill a time."""
    return int(min(MOST, max(fewest, milliseconds / max(min(sample), 1e-3))))
