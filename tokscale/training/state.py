"""Lend a model to training and give it back: frozen, in eval mode, then every flag as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module, *, spare: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode with all parameters frozen, but those of `spare`, which may be attached to it.

    Every flag is restored on leaving, after an exception too.
    """
    kept_modules, kept_parameters = set(spare.modules()), set(spare.parameters())
    modes = [(module, module.training) for module in model.modules() if module not in kept_modules]
    grads = [
        (parameter, parameter.requires_grad) for parameter in model.parameters() if parameter not in kept_parameters
    ]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in grads:
            parameter.requires_grad_(flag)


@contextmanager
def training_mode(compressor: nn.Module) -> Iterator[None]:
    """Put the compressor into train mode; then give each module its own mode back and drop the gradients."""
    modes = [(module, module.training) for module in compressor.modules()]
    try:
        compressor.train()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        compressor.zero_grad(set_to_none=True)
