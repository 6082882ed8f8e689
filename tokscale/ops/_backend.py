"""Which backend runs an operator, and why.

On CPU tensors `auto` is always PyTorch. `TOKSCALE_BACKEND` sets what `auto` means; a backend asked for by name, there
or in the call, runs or raises.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from .._checks import one_of
from ..errors import BackendError

BACKENDS = ("auto", "torch", "triton")
ATTENTION = (
    "attention_importance",
    "attention_importance_varlen",
    "fusion_attention",
    "projected_fusion_attention",
)
OPERATORS = (
    *ATTENTION,
    "greedy_select",
    "topk_gather",
)
NEEDS_GPU = "Triton needs a GPU (or TRITON_INTERPRET=1 set before import)"
MAX_HEAD_DIM = 256
MAX_PROGRAMS = 65535  # of samples times heads: what the second and third axis of a grid hold
MIN_CAPABILITY = (8, 0)
MAX_TOKENS = {"dpp": 4096, "max_min": 16384, "topk_gather": 8192}  # one sample's state stays in registers
MAX_TOKENS_HIP = {**MAX_TOKENS, "topk_gather": 4096}


def resolve(op: str, backend: str, *tensors: Tensor, method: str = "max_min") -> str:
    """Return the backend that runs `op` on these tensors, or raise `BackendError` that says why none can."""
    chosen, asked = _asked(op, backend)
    if chosen == "torch" or (chosen == "auto" and tensors[0].device.type != "cuda"):
        return "torch"
    obstacle = _triton_obstacle(op, *tensors, method=method)
    if obstacle is None:
        return "triton"
    if chosen == "triton":
        raise BackendError(f'{op}: {asked} cannot run: {obstacle}. Use backend="auto" or "torch".')
    return "torch"


def may_be_triton(backend: str, tensor: Tensor) -> bool:
    """Whether the backward may run by Triton, so that it pays to keep what its kernels read; readable in a graph."""
    if tensor.dtype == torch.float64 or tensor.shape[-1] > MAX_HEAD_DIM:
        return False
    if backend != "auto" or tensor.device.type != "cuda":
        return backend == "triton"
    if os.environ.get("TOKSCALE_BACKEND") == "torch":
        return False
    return not torch.cuda.is_available() or _device_obstacle(tensor.device) is None  # traced where no GPU is: it may


def explain(op_name: str, *tensors: Tensor, method: str = "max_min") -> str:
    """Which backend `auto` takes for these tensors and why, as `"torch: <reason>"` or `"triton: <reason>"`.

    Args:
        op_name: name of a public operator of `tokscale.ops`.
        tensors: the tensors the call would get; the first decides. None: only the environment is read.
        method: of `greedy_select`.

    Raises:
        ArgumentError: an operator or a `TOKSCALE_BACKEND` that does not exist.
        BackendError: `TOKSCALE_BACKEND` asks for a backend that cannot run on these tensors.

    Example:
        >>> import torch
        >>> explain("topk_gather", torch.zeros(1, 4))
        'torch: the tensors are on cpu; Triton needs a GPU (or TRITON_INTERPRET=1 set before import)'
    """
    one_of("op_name", op_name, OPERATORS)
    chosen, asked = _asked(op_name, "auto")
    if chosen == "torch":
        return f"torch: {asked}"
    if not tensors:
        return f"{chosen}: no tensors were given; auto is triton on a GPU where it can run, else torch"
    taken = resolve(op_name, "auto", *tensors, method=method)
    if taken == "triton":
        return f"triton: {asked if chosen == 'triton' else f'the tensors are on {tensors[0].device}'}"
    if tensors[0].device.type == "cpu":
        return f"torch: the tensors are on cpu; {NEEDS_GPU}"
    return f"torch: {_triton_obstacle(op_name, *tensors, method=method)}"


def _asked(op: str, backend: str) -> tuple[str, str]:
    """The backend that is meant, and where it was asked for."""
    one_of(f"{op}: backend", backend, BACKENDS)
    if backend != "auto":
        return backend, f'backend="{backend}"'
    preset = os.environ.get("TOKSCALE_BACKEND") or "auto"
    one_of(f"{op}: TOKSCALE_BACKEND", preset, BACKENDS)
    return preset, f"TOKSCALE_BACKEND={preset}"


def _triton_obstacle(op: str, *tensors: Tensor, method: str) -> str | None:
    """Why Triton cannot run `op` on these tensors, or None; triton itself is imported only where it may run."""
    interpret = os.environ.get("TRITON_INTERPRET") == "1"
    device = tensors[0].device
    if device.type != "cuda" and not interpret:
        return f"the tensors are on {device.type}; {NEEDS_GPU}"
    if not _installed():
        return "triton is not installed"
    if device.type != "cuda":
        from . import _triton

        obstacle = _triton.interpreter_obstacle()
    else:
        obstacle = "TRITON_INTERPRET=1 is set" if interpret else _device_obstacle(device)
    return obstacle or _unsupported(op, *tensors, method=method)


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _device_obstacle(device: torch.device) -> str | None:
    have = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and have < MIN_CAPABILITY:
        return "compute capability {}.{} < {}.{}".format(*have, *MIN_CAPABILITY)
    return None


def _unsupported(op: str, *tensors: Tensor, method: str) -> str | None:
    """What of the tensors themselves a kernel does not take."""
    judged = tensors[-1:] if op == "topk_gather" else tensors  # of x and scores; rows of x are copied bit by bit
    if any(tensor.dtype == torch.float64 for tensor in judged):
        return "Triton kernels take no float64"
    if op in ATTENTION and tensors[0].shape[-1] > MAX_HEAD_DIM:
        return f"head_dim {tensors[0].shape[-1]} > {MAX_HEAD_DIM}"
    if op in ATTENTION:
        segments = len(tensors[2]) - 1 if op == "attention_importance_varlen" and len(tensors) > 2 else 1
        programs = tensors[0].shape[1] * (tensors[0].shape[0] if tensors[0].dim() == 4 else segments)
        if tensors[0].shape[1] == 0:
            return "there are no query heads"
        if programs > MAX_PROGRAMS:
            return f"{programs} samples (or segments) times heads > {MAX_PROGRAMS}"
    limits = MAX_TOKENS_HIP if torch.version.hip else MAX_TOKENS
    limit = limits.get(method if op == "greedy_select" else op)
    if limit is not None and tensors[0].shape[1] > limit:
        return f"{tensors[0].shape[1]} tokens > {limit}"
    return None
