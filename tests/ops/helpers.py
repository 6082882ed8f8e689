"""What the operator tests share: yardsticks derived from PyTorch's own error, exact lattices, poisoned memory."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

EPS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # one rounding of the result


def error(got: Tensor, oracle: Tensor) -> float:
    """Largest error over largest magnitude."""
    if oracle.numel() == 0:
        return 0.0
    got, oracle = got.detach().double(), oracle.detach()
    return float((got - oracle).abs().max() / oracle.abs().max().clamp_min(1e-30))


def doubled(value: Any) -> Any:
    """The same arguments in float64, detached, requiring gradients where the original does."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_(value.requires_grad)
    return value


def lattice(b: int, n: int, *, top: int = 4, seed: int = 0) -> Tensor:
    """Distances |x - y|_1 of small integer points: exact in every dtype, full of exact ties."""
    points = torch.randint(0, top, (b, n, 2), generator=torch.Generator().manual_seed(seed)).float()
    return (points[:, :, None] - points[:, None]).abs().sum(-1)


def inner_stride_two(tensor: Tensor) -> Tensor:
    """The same values with an inner stride of 2; what lies between is NaN."""
    wide = tensor.detach().new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan)
    wide[..., ::2] = tensor.detach()
    return wide[..., ::2]


def peak_mib() -> float:
    """The largest resident memory of this process so far; `ru_maxrss` would begin with that of whoever started it."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    return int(kib) / 1024


def flat(value: Any) -> Iterable[Tensor]:
    """Every tensor in a nested result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from flat(part)
