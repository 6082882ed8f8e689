"""Which backend runs an operator, and why.

On CPU tensors `auto` is always PyTorch. `TOKSCALE_BACKEND` sets what `auto` means; a backend asked for by name, there
or in the call, runs or raises.
"""

from __future__ import annotations

import os

from torch import Tensor

from .._checks import one_of
from ..errors import BackendError

BACKENDS = ("auto", "torch", "triton")
OPERATORS = (
    "attention_importance",
    "attention_importance_varlen",
    "fusion_attention",
    "projected_fusion_attention",
    "greedy_select",
    "topk_gather",
)
NEEDS_GPU = "Triton needs a GPU (or TRITON_INTERPRET=1 set before import)"


def resolve(op: str, backend: str, tensor: Tensor) -> str:
    """Return the backend that runs `op` on `tensor`'s device, or raise `BackendError` that says why none can."""
    chosen, asked = _asked(op, backend)
    if chosen == "triton":
        obstacle = _triton_obstacle(op, tensor)
        raise BackendError(f'{op}: {asked} cannot run: {obstacle}. Use backend="auto" or "torch".')
    return "torch"


def explain(op_name: str, *tensors: Tensor) -> str:
    """Which backend `auto` takes for these tensors and why, as `"torch: <reason>"`.

    Args:
        op_name: name of a public operator of `tokscale.ops`.
        tensors: the tensors the call would get; the device of the first decides. None: only the environment is read.

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
        return f"torch: {_no_kernel(op_name)}"
    return f"{resolve(op_name, 'auto', tensors[0])}: {_triton_obstacle(op_name, tensors[0])}"


def _asked(op: str, backend: str) -> tuple[str, str]:
    """The backend that is meant, and where it was asked for."""
    one_of(f"{op}: backend", backend, BACKENDS)
    if backend != "auto":
        return backend, f'backend="{backend}"'
    preset = os.environ.get("TOKSCALE_BACKEND") or "auto"
    one_of(f"{op}: TOKSCALE_BACKEND", preset, BACKENDS)
    return preset, f"TOKSCALE_BACKEND={preset}"


def _triton_obstacle(op: str, tensor: Tensor) -> str:
    if tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {tensor.device.type}; {NEEDS_GPU}"
    return _no_kernel(op)


def _no_kernel(op: str) -> str:
    return f"this version has no Triton kernel for {op} yet"
