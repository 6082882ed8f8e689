"""What several ranks need: their number, and the mean of the compressor's gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from ..errors import ArgumentError


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:  # started by torchrun: without a group the ranks would train apart, in silence
        raise ArgumentError(
            f"WORLD_SIZE is {world}, but torch.distributed has no process group; call "
            "torch.distributed.init_process_group() before train_compressor"
        )
    return 0, 1


def average_gradients(parameters: Iterable[nn.Parameter], world: int) -> None:
    """Replace each gradient by its mean over the ranks; a parameter without one takes part with zeros."""
    if world == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= world


def largest_of_all(size: int, model: nn.Module, world: int) -> int:
    """Return the largest `size` of any rank, so that all of them draw from the same budgets."""
    if world == 1:
        return size
    held = torch.tensor(size, device=next(model.parameters()).device)
    dist.all_reduce(held, op=dist.ReduceOp.MAX)
    return int(held)
