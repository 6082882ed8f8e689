"""What a benchmark is made of: sizes, providers, the least work an answer takes, and errors against float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Inputs = dict[str, Any]  # tensors by argument name
Answers = dict[str, Tensor]
MODES = ("fwd", "bwd", "fwd+bwd")
EPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # one rounding of a result in that dtype
EXACT = 3e-6  # what fp32 sums may add where the result is fp32 in any case


class Case(NamedTuple):
    """One shape of an operator. What a size does not mean for an operator is 0 and an empty cell of the CSV."""

    name: str
    dtype: torch.dtype
    b: int
    n: int
    h: int = 0
    g: int = 0
    m: int = 0
    t: int = 0
    d: int = 0
    k: int = 0
    dim: int = 0  # channels of vision tokens
    modes: tuple[str, ...] = ("fwd",)
    variant: str = ""
    full: bool = False  # compiled rivals too: each takes seconds to compile for each shape

    @property
    def bytes_each(self) -> int:
        """Of one number of the inputs."""
        return torch.finfo(self.dtype).bits // 8


class Work(NamedTuple):
    """The least that has to be moved, multiplied and exponentiated, whoever does it."""

    bytes: float = 0.0
    flops: float = 0.0
    exps: float = 0.0


class Prepared(NamedTuple):
    """A call whose inputs are not the operator's own: its leaves by name, those that the oracle knows are checked."""

    call: Callable[[], Sequence[Tensor]]
    leaves: dict[str, Tensor]


class Provider(NamedTuple):
    """Somebody who computes an operator, or a part of it that a user pays anyway.

    `build(inputs, case)` prepares what is not timed and returns the call. `answers` names what the call returns, in
    order: the oracle has an entry of that name. Whoever needs a GPU is called elsewhere only in a dry run; who has no
    answer to a variant of the cases skips it.
    """

    name: str
    answers: tuple[str, ...]
    build: Callable[[Inputs, Case], Callable[[], Sequence[Tensor]] | Prepared]
    gpu_only: bool = False
    ours: bool = False
    modes: tuple[str, ...] = MODES
    compiled: bool = False
    skips: str = "no variant"
    given: str = ""  # what it is handed ready-made, and the others have to compute

    def takes(self, case: Case, gpu: bool, full: bool) -> bool:
        """Whether it belongs to a run of this case."""
        return case.variant != self.skips and (gpu or not self.gpu_only) and (full or case.full or not self.compiled)


class Operator(NamedTuple):
    """An operator with its cases. `oracle` and `eager` return the answers; both are differentiable in `leaves`."""

    name: str
    cases: Callable[[str, bool], list[Case]]
    make: Callable[[Case, torch.device], Inputs]
    oracle: Callable[[Inputs, Case], Answers]
    eager: Callable[[Inputs, Case], Answers]
    providers: tuple[Provider, ...]
    work: Callable[[Case, Sequence[str], str, str], Work]  # case, answers, mode, what is given
    leaves: tuple[str, ...] = ()
    error: Callable[[Tensor, Answers, Case], float] | None = None  # where it is not the relative one
    gradients: Callable[[Inputs, Case, Mapping[str, Tensor]], Answers] | None = None  # of the oracle, where memory asks


def relative_error(got: Tensor, want: Tensor) -> float:
    """Return the largest error over the largest magnitude."""
    if want.numel() == 0:
        return 0.0
    return float((got.double() - want).abs().max() / want.abs().max().clamp_min(1e-30))


def allowed(answer: str, own: float, dtype: torch.dtype) -> float:
    """Return the error that is still right: PyTorch's own twice and a rounding, of gradients three times."""
    if answer == "positions":  # one that differs is more
        return 2 * own + 1e-4
    if answer.startswith("d_"):
        return 3 * own + EPS[dtype]
    return 2 * own + (EXACT if answer.endswith("importance") else EPS[dtype])


def doubled(inputs: Inputs) -> Inputs:
    """Return the inputs in float64, detached."""

    def double(value: Any) -> Any:
        return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return {name: double(value) for name, value in inputs.items()}


def draw(case: Case, device: torch.device, *shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    """Return random numbers, the same on every device."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.to(device, case.dtype)


def compiled(function: Callable[..., Any], inputs: Inputs) -> Callable[..., Any]:
    """Return the function compiled on a GPU; elsewhere, in a dry run, as it is."""
    device = next(value.device for value in inputs.values() if isinstance(value, Tensor))
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function
