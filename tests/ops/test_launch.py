"""Launches without a GPU: the short way to a compiled kernel, with stand-ins for Triton's; parts of the keys."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tokscale.ops import _triton
from tokscale.ops._triton import launch
from tokscale.ops._triton.launch import Known, remembering


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
        self.pre_run_hooks: list[Any] = []
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
    monkeypatch.setattr(launch, "MOST", 2)
    kernel = Kernel()
    run = remembering(kernel)
    for n in (3, 5, 7, 3):
        call(run, n=n)
    assert len(kernel.asked) == 4
    call(run, n=3)
    assert len(kernel.asked) == 4


def test_whoever_watches_launches_sees_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    run = remembering(kernel)
    call(run)
    kernel.pre_run_hooks.append(print)
    call(run)
    kernel.pre_run_hooks.clear()
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.debug = True
        call(run)
    assert len(kernel.asked) == 3
    call(run)
    assert len(kernel.asked) == 3


def test_what_compiles_elsewhere_is_not_remembered() -> None:
    class Elsewhere(Kernel):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            super().run(*args, **kwargs)

    kernel = Elsewhere()
    run = remembering(kernel)
    assert call(run) is None and call(run) is None and len(kernel.asked) == 2


def test_an_amd_gpu_asks_triton_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    kernel = Kernel()
    run = remembering(kernel)
    call(run)
    call(run)
    assert len(kernel.asked) == 2


@pytest.mark.parametrize("device", [0, 1])
def test_each_device_has_its_own(device: int) -> None:
    class On(Tensor):
        def get_device(self) -> int:
            return device

    kernel = Kernel()
    run = remembering(kernel)
    here = call(run)
    there = call(run, x=X.as_subclass(On))
    assert there is not here and call(run, x=X.as_subclass(On)) is there


def test_calls_known_alike_are_specialised_alike() -> None:
    """By Triton's own rule, for values at every edge of it; None has a type of its own."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import native_specialize_impl

    backend = type(make_backend(GPUTarget("cuda", 90, 32)))
    tensors = [torch.zeros(64, dtype=dtype)[start:] for dtype in (torch.float32, torch.bfloat16) for start in (0, 1, 8)]
    values = [*tensors, None, 0, 1, 2, 15, 16, 32, 2**31 - 1, 2**31, 2**32, 0.5, 1.5]
    seen: dict[Any, Any] = {}
    for value in values:
        key: list[Any] = []
        launch.describe([value], key)
        special = native_specialize_impl(backend, value, False, True, True)
        assert seen.setdefault(tuple(key), special) == special


@pytest.mark.parametrize(
    ("programs", "n", "parts"),
    [(128, 2880, 3), (128, 576, 1), (16, 2880, 9), (16, 576, 3), (33, 8192, 12), (34, 8192, 11), (264, 2880, 1)],
)
def test_into_how_many_parts_the_keys_are_cut(programs: int, n: int, parts: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(_triton, "processors", lambda device: 132)
    assert _triton.splits(programs, n, 64, X.device) == parts


def test_no_part_of_the_keys_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "processors", lambda device: 132)
    for programs in (0, 1, 7, 32, 33, 34, 100, 131, 263):
        for n in (0, 1, 127, 128, 577, 729, 2880, 10240):
            for keys in (16, 32, 64, 128):
                parts = _triton.splits(programs, n, keys, X.device)
                part = _triton.cdiv(_triton.cdiv(n, parts), keys) * keys  # as the kernels cut
                assert parts == 1 or (parts - 1) * part < n <= parts * part
