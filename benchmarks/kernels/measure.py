"""One case: whoever is right by the float64 oracle is timed, whoever is wrong or fails gets a row that says so."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import timing

from .case import Answers, Case, Inputs, Operator, Prepared, Provider, allowed, doubled, relative_error
from .rates import Rates
from .table import of_case

CPU_SECONDS = 3.0  # of measured calls per case


class Setting(NamedTuple):
    """Where and how long. `tiny`: one call each, for a dry run. After `end` (monotonic) nothing is begun any more."""

    device: torch.device
    rates: Rates
    tiny: bool = False
    end: float = float("inf")
    full: bool = False  # compiled rivals at every shape


class Timed(NamedTuple):
    """A call that gave the right answer."""

    row: dict[str, Any]
    call: Callable[[], Any]


def rows(op: Operator, case: Case, setting: Setting, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """Yield a row for every provider in every mode of a case: those that compile, or all the others."""
    gpu_too = setting.tiny or setting.device.type == "cuda"
    taking = [p for p in op.providers if p.compiled == compiled and p.takes(case, gpu_too, setting.full)]
    jobs = [(p, mode) for mode in case.modes for p in taking if mode in p.modes]
    if not jobs:
        return
    late = time.monotonic() > setting.end
    judge = None if late else _judge(op, case, setting.device)
    gpu = timing.Gpu(setting.device) if setting.device.type == "cuda" and not late else None
    waiting: dict[str, Timed] = {}
    for provider, mode in jobs:
        row = {**of_case(op.name, case), "provider": provider.name, "mode": mode}
        if judge is None or isinstance(judge, str):
            yield {**row, "error": judge or "not run: time limit"}
            continue
        if time.monotonic() > setting.end:
            yield {**row, "error": "not run: time limit"}
            continue
        try:
            call, errors = judge.call(provider, mode)
            row |= errors
            if not isinstance(row["error"], float):
                yield row
                continue
            if not setting.tiny:
                row["peak_mib"] = timing.peak_mib(call, setting.device)
            if gpu is None:
                waiting[f"{provider.name}, {mode}"] = Timed(row, call)
                continue
            times = gpu.times(call, graph=mode != "bwd")  # a lone backward runs on the stream of its forward
            yield _finished(op, case, provider, row, times, setting)
        except Exception as error:  # whatever a provider raises is a row of its own
            yield {**row, "error": f"failed: {_first_line(error)}"}
        if gpu is not None:
            torch.cuda.empty_cache()
    budget = {"budget": 0.0, "fewest": 1} if setting.tiny else {"budget": CPU_SECONDS}
    taken = timing.in_turn({name: timed.call for name, timed in waiting.items()}, **budget)  # type: ignore[arg-type]
    for name, timed in waiting.items():
        provider = next(p for p in op.providers if p.name == timed.row["provider"])
        yield _finished(op, case, provider, timed.row, taken[name], setting)


def _finished(
    op: Operator, case: Case, provider: Provider, row: dict[str, Any], times: timing.Times, setting: Setting
) -> dict[str, Any]:
    """The row with its times and what they are worth."""
    work, seconds = op.work(case, provider.answers, row["mode"], provider.given), times.p50 / 1e3
    row |= {"ms_p20": times.p20, "ms_p50": times.p50, "ms_p80": times.p80, "graph_ms": times.graph}
    row |= {"gb_s": work.bytes / seconds / 1e9, "tflop_s": work.flops / seconds / 1e12}
    row["roof_percent"] = 100 * setting.rates.floor_ms(work, case.dtype) / times.p50
    return {key: "" if value is None else value for key, value in row.items()}


def _judge(op: Operator, case: Case, device: torch.device) -> Judge | str:
    try:
        return Judge(op, case, device)
    except Exception as error:
        return f"failed: oracle: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:160]


class Judge:
    """Knows the answers of a case in float64, and how far PyTorch itself is off in the dtype of the inputs."""

    def __init__(self, op: Operator, case: Case, device: torch.device) -> None:
        self.op, self.case = op, case
        self.inputs = op.make(case, device)
        exact = doubled(self.inputs)
        with torch.no_grad():
            self.answers = op.oracle(exact, case)
            self.own = self._own()
        self.weights: Answers = {}
        self._gradients: dict[tuple[str, ...], tuple[Answers, Answers]] = {}

    def _own(self) -> dict[str, float]:
        try:
            eager = self.op.eager(self.inputs, self.case)
        except torch.OutOfMemoryError:
            return {}
        return {name: self._error(name, value) for name, value in eager.items()}

    def _error(self, name: str, got: Tensor) -> float:
        if self.op.error is not None:
            return self.op.error(got, self.answers, self.case)
        return relative_error(got, self.answers[name])

    def call(self, provider: Provider, mode: str) -> tuple[Callable[[], Any], dict[str, Any]]:
        """Return what is to be timed, and the cells `error` and `own_error`; where it is wrong, `error` says so."""
        inputs = self.inputs if mode == "fwd" else self._leaves(self.inputs)
        with torch.set_grad_enabled(mode != "fwd"):
            built = provider.build(inputs, self.case)
            forward = built.call if isinstance(built, Prepared) else built
            outputs = forward()
        found = {name: (self._error(name, value.detach()), self.own.get(name, 0.0))
                 for name, value in zip(provider.answers, outputs, strict=True)}  # fmt: skip
        if mode == "fwd":
            del outputs
            return _without_grad(forward), self._verdict(found)
        given = built.leaves if isinstance(built, Prepared) else {name: inputs[name] for name in self.op.leaves}
        leaves = list(given.values())
        cotangents = [self._weight(name).to(value.dtype) for name, value in zip(provider.answers, outputs)]
        backward = functools.partial(torch.autograd.grad, outputs, leaves, cotangents, retain_graph=True)
        del outputs

        def both() -> Sequence[Tensor]:
            return torch.autograd.grad(forward(), leaves, cotangents)

        exact, own = self._exact_gradients(provider.answers)
        for name, got in zip(given, backward()):
            if f"d_{name}" in exact:
                want = exact[f"d_{name}"]
                mine = relative_error(own[f"d_{name}"], want) if own else 0.0
                found[f"d_{name}"] = (relative_error(got, want), mine)
        if mode == "bwd":
            return backward, self._verdict(found)
        del backward
        return both, self._verdict(found)

    def _verdict(self, found: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        error, own = (max(values) for values in zip(*found.values()))
        for name, (got, mine) in found.items():
            limit = allowed(name, mine, self.case.dtype)
            if not got <= limit:  # NaN too
                return {"error": f"wrong: {name} is off by {got:.1e}, allowed {limit:.1e}", "own_error": own}
        return {"error": error, "own_error": own}

    def _leaves(self, inputs: Inputs) -> Inputs:
        return {n: x.detach().requires_grad_() if n in self.op.leaves else x for n, x in inputs.items()}

    def _weight(self, name: str) -> Tensor:
        """A cotangent of an answer, of its shape; the same numbers for everybody."""
        if name not in self.weights:
            drawn = torch.randn(self.answers[name].shape, generator=torch.Generator().manual_seed(7))
            self.weights[name] = drawn.to(self.answers[name].device, self.case.dtype)
        return self.weights[name]

    def _exact_gradients(self, answers: tuple[str, ...]) -> tuple[Answers, Answers]:
        """In float64, and by eager PyTorch in the dtype of the inputs, of the weighted answers."""
        if answers not in self._gradients:
            weights = {name: self._weight(name).double() for name in answers}
            inputs = self._leaves(doubled(self.inputs))
            if self.op.gradients is not None:
                exact = self.op.gradients(inputs, self.case, weights)
            else:
                exact = self._differentiate(self.op.oracle(inputs, self.case), inputs, weights)
            own_inputs = self._leaves(self.inputs)
            try:
                own = self._differentiate(self.op.eager(own_inputs, self.case), own_inputs, weights)
            except torch.OutOfMemoryError:
                own = {}
            self._gradients[answers] = exact, own
        return self._gradients[answers]

    def _differentiate(self, outputs: Answers, inputs: Inputs, weights: Answers) -> Answers:
        loss = sum((outputs[name].double() * weight).sum() for name, weight in weights.items())
        grads = torch.autograd.grad(loss, [inputs[name] for name in self.op.leaves])  # type: ignore[arg-type]
        return {f"d_{name}": grad for name, grad in zip(self.op.leaves, grads)}


def _without_grad(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call()

    return run
