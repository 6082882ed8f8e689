"""Whoever is wrong or fails is a row that says so and is never timed; who is right is timed."""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from benchmarks import timing
from benchmarks.cases import OPERATORS
from benchmarks.kernels import folded, fusion, importance, topk
from benchmarks.kernels.case import Case, Inputs, Prepared, Provider, Work, doubled
from benchmarks.kernels.measure import Setting, rows
from benchmarks.kernels.rates import Rates
from benchmarks.published import selection

CPU = torch.device("cpu")
RATES = Rates(1e9, {torch.float32: 1e10, torch.bfloat16: 2e10}, 1e8)


def only(name: str, build: Callable[[Inputs, Case], Any], answers: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """The rows by mode of one provider at the first tiny case of an operator."""
    op = OPERATORS[name]._replace(providers=(Provider("it", answers, build, **options),))
    case = op.cases("cpu", True)[0]
    return {row["mode"]: row for row in rows(op, case, Setting(CPU, RATES, tiny=True))}


def sums(change: Callable[[Tensor], Tensor]) -> Callable[[Inputs, Case], Callable[[], Sequence[Tensor]]]:
    return lambda inputs, case: lambda: (change(importance.eager_sums(inputs["q"], inputs["k"])),)


def test_who_is_right_is_timed_forward_and_backward() -> None:
    found = only("importance", sums(lambda c: c), ("importance",))
    assert set(found) == {"fwd", "bwd"}
    for row in found.values():
        assert 0 <= row["error"] < 1e-6 and row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"]
        assert row["roof_percent"] > 0 and (row["graph_ms"], row["n"], row["t"]) == ("", 33, "")


@pytest.mark.parametrize("change", [lambda c: 1.001 * c, lambda c: c * torch.nan, lambda c: c.roll(1, 1)])
def test_who_is_wrong_is_not_timed(change: Callable[[Tensor], Tensor]) -> None:
    for row in only("importance", sums(change), ("importance",)).values():
        assert row["error"].startswith("wrong: importance is off by") and "ms_p50" not in row
        assert row["own_error"] < 1e-6


def test_a_wrong_gradient_is_not_timed_either() -> None:
    found = only("importance", sums(lambda c: c + (c - c.detach())), ("importance",))
    assert "ms_p50" in found["fwd"]
    assert found["bwd"]["error"].startswith("wrong: d_q is off by") and "ms_p50" not in found["bwd"]


def test_who_fails_takes_no_one_along() -> None:
    def build(inputs: Inputs, case: Case) -> Any:
        raise OSError("first line\nsecond line")

    found = only("importance", build, ("importance",))
    assert [row["error"] for row in found.values()] == ["failed: OSError: first line"] * 2


def test_a_wrong_position_is_wrong() -> None:
    def build(inputs: Inputs, case: Case) -> Any:
        return lambda: topk.take(inputs["x"], inputs["scores"].topk(case.k, largest=False).indices.sort().values)

    assert only("topk", build, topk.BOTH)["fwd"]["error"].startswith("wrong: positions is off by")


def test_after_the_time_limit_every_row_says_so() -> None:
    op = OPERATORS["greedy"]
    found = list(rows(op, op.cases("cpu", True)[0], Setting(CPU, RATES, tiny=True, end=0.0)))
    assert {row["error"] for row in found} == {"not run: time limit"} and len(found) == len(op.providers)


def test_a_cpu_run_asks_nobody_who_needs_a_gpu() -> None:
    op = OPERATORS["topk"]
    found = list(rows(op, op.cases("cpu", True)[0], Setting(CPU, RATES)))
    assert {row["provider"] for row in found} == {p.name for p in op.providers if not p.gpu_only}
    assert all(isinstance(row["error"], float) and row["peak_mib"] >= 0 for row in found)


def test_the_roof_is_the_slowest_of_three() -> None:
    floors = [RATES.floor_ms(work, torch.float32) for work in (Work(1e6, 0, 0), Work(1e6, 2e7, 0), Work(1e6, 2e7, 3e5))]
    assert floors == pytest.approx([1.0, 2.0, 3.0])


def test_memory_is_what_a_call_holds_at_most() -> None:
    torch.ones(2**24)  # freed before: it may not hide the next
    assert 63 <= timing.peak_mib(lambda: torch.ones(2**24).sum(), CPU) < 80


def test_rounds_are_in_turn() -> None:
    seen: list[str] = []
    times = timing.in_turn({name: lambda name=name: seen.append(name) for name in "abc"}, 0.0, fewest=4)
    assert [sorted(seen[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4 and set(times) == set("abc")


class Event:
    """Of a device that takes a millisecond for everything."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.clock += 1
        self.at = Event.clock

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


@pytest.mark.parametrize("captures", [True, False])
def test_the_order_of_things_on_a_gpu(captures: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for torch.cuda: flush before each call, warm-up, 100 ms measured, the graph replayed as often."""
    did: list[str] = []

    @contextlib.contextmanager
    def graph(_: Any) -> Iterator[None]:
        did.append("capture")
        yield
        if not captures:
            raise RuntimeError("operation not permitted when stream is capturing")

    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    stand_in = {
        "Event": Event,
        "graph": graph,
        "CUDAGraph": lambda: types.SimpleNamespace(replay=lambda: did.append("replay")),
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "set_stream": lambda other: did.append("own stream"),
        "stream": lambda other: contextlib.nullcontext(),
        "synchronize": lambda device: None,
        "get_device_properties": lambda device: types.SimpleNamespace(L2_cache_size=64),
    }
    for name, value in stand_in.items():
        monkeypatch.setattr(torch.cuda, name, value)
    gpu = timing.Gpu(CPU)
    gpu.flush = types.SimpleNamespace(zero_=lambda: did.append("flush"))  # type: ignore[assignment]
    times = gpu.times(lambda: did.append("call"))
    singles = ["flush", "call"] * (3 + 25 + 100)
    assert did[: len(singles) + 2] == [*singles, "call", "capture"] and times[:3] == (1, 1, 1)
    rest = ["call", *["flush", "replay"] * 103] if captures else ["call", "own stream"]
    assert did[len(singles) + 2 :] == rest and times.graph == (1 if captures else None)


@pytest.mark.parametrize("name", OPERATORS)
def test_everything_stays_on_the_gpu_of_its_inputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By tensors without content, which refuse to mix devices: inputs, oracles, baselines, our own calls.

    FlexAttention is left to the dry run: it takes seconds to import.
    """
    for module in (folded, fusion, importance, topk):
        monkeypatch.setattr(module, "compiled", lambda function, inputs: function)
    op, device = OPERATORS[name], torch.device("cuda")
    for case in op.cases("cpu", True):
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # SDPA comments on a missing GPU
            inputs = op.make(case, device)
            results = [*op.oracle(doubled(inputs), case).values()]
            for provider in op.providers:
                if provider.name.startswith(("sdpa best case", "flash-colsum", "double flex", "flex")):  # not there
                    continue
                try:
                    built = provider.build(inputs, case)
                    results += (built.call if isinstance(built, Prepared) else built)()
                except DataDependentOutputException:  # a loop that reads a position back
                    assert provider.name == "published loop" and case.variant == "dpp"
        assert len(results) > 4 and all(result.device.type == "cuda" for result in results)


@pytest.mark.parametrize("method", ["divprune", "dpp", "cdpruner", "scope", "mmtok", "random", "vispruner", "evs"])
def test_published_loops_stay_on_the_gpu_of_their_tokens(method: str) -> None:
    with FakeTensorMode():
        x, text, importance = (torch.randn(*shape, device="cuda") for shape in ((16, 8), (5, 8), (16,)))
        try:
            kept = getattr(selection, method)(x, 4, text=text, importance=importance, clip=(4, 2, 2))
            assert all(tensor.device.type == "cuda" for tensor in kept)
        except DataDependentOutputException:  # a loop that reads a position back
            assert method in ("dpp", "cdpruner", "scope", "mmtok")
