"""The short way to a compiled kernel, with stand-ins for Triton's: when it is taken, and with what arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import triton.language as tl
from torch import Tensor

from tokscale.ops import _launch
from tokscale.ops._launch import Known, remembering


class Compiled:
    """What Triton gives back: `compiled[grid](*args)` launches."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, Any]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.launches.append((grid, args))


class Kernel:
    """Counts how often it is asked at length."""

    arg_names = ("x", "numbers", "n", "BLOCK", "FLAG")

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(self, *args: Any, **kwargs: Any) -> Compiled:
        self.asked.append((args, kwargs))
        return Compiled()


class Numbers(NamedTuple):
    """An argument with tensors inside."""

    y: Tensor
    z: Tensor | None
    stride: int
    WIDE: Any


X, Y = torch.zeros(8), torch.zeros(8)


def call(run: Any, x: Tensor = X, n: int = 3, z: Tensor | None = None, flag: bool = True, warps: int = 4) -> Any:
    numbers = Numbers(Y, z, 5, tl.constexpr(16))
    return run(x, numbers, n, grid=(7, 2), BLOCK=64, FLAG=flag, num_warps=warps)


def test_the_second_call_of_a_kind_goes_to_the_compiled_kernel_with_addresses() -> None:
    kernel = Kernel()
    run = remembering(kernel)
    compiled = call(run)
    assert compiled.launches == []  # Triton itself launched that one
    other = torch.ones(8)
    assert call(run, x=other) is compiled and len(kernel.asked) == 1
    ((grid, args),) = compiled.launches
    assert grid == (7, 2, 1)
    x, (y, z, stride, _), *rest = args
    assert (x, y, z, stride, rest) == (other.data_ptr(), Y.data_ptr(), None, 5, [3, 64, True])
    assert kernel.asked[0][1] == {"grid": (7, 2), "warmup": False, "enable_fp_fusion": True} | {
        "BLOCK": 64, "FLAG": True, "num_warps": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.zeros(8, dtype=torch.float16)},
        {"x": torch.zeros(9)[1:]},  # 4 bytes beyond a multiple of 16
        {"n": 16},
        {"n": 1},
        {"n": 2**31},
        {"z": Y},
        {"flag": False},
        {"warps": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_triton_specialises_on_is_another_kind(change: dict[str, Any]) -> None:
    kernel = Kernel()
    run = remembering(kernel)
    first = call(run)
    assert call(run, **change) is not first
    assert call(run, **change) is not call(run) and len(kernel.asked) == 2


def test_a_tuple_may_say_its_own_key() -> None:
    kernel = Kernel()
    run = remembering(kernel)

    def ask(key: tuple[int, ...], y: Tensor = Y) -> Any:
        return run(X, Known(Numbers(y, None, 5, tl.constexpr(16)), 2, key), 3, grid=(1,), BLOCK=64, FLAG=True)

    compiled = ask((5, 16))
    assert isinstance(kernel.asked[0][0][1], Numbers)
    assert ask((5, 16), torch.zeros(8)) is compiled and ask((6, 16)) is not compiled
    assert ask((5, 16), torch.zeros(8, dtype=torch.int8)) is not compiled
    assert compiled.launches[0][1][1][1:3] == (None, 5)


def test_compiling_alone_always_asks_triton() -> None:
    kernel = Kernel()
    run = remembering(kernel)
    compiled = call(run)
    run(X, Numbers(Y, None, 5, tl.constexpr(16)), 3, grid=(7, 2), warmup=True, BLOCK=64, FLAG=True, num_warps=4)
    assert len(kernel.asked) == 2 and compiled.launches == []


def test_it_remembers_so_many_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "MOST", 2)
    kernel = Kernel()
    run = remembering(kernel)
    for n in (3, 5, 7, 3):
        call(run, n=n)
    assert len(kernel.asked) == 4
    call(run, n=3)
    assert len(kernel.asked) == 4
