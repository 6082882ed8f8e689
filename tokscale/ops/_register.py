"""Registration of operators with `torch.library`.

As `torch.library.custom_op` does it, by the calls underneath: that decorator imports the whole compiler at an
operator's first call, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("tokscale", "FRAGMENT")  # an operator lives as long as this object


def operator(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: the function becomes `torch.ops.tokscale.<name>`, its schema read from its annotations."""

    def register(function: Callable[..., Any]) -> Any:
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return getattr(torch.ops.tokscale, name).default

    return register


def fake(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: outputs of the right shapes, strides and dtypes, without content."""
    return torch.library.register_fake(f"tokscale::{name}", lib=_LIBRARY)


def autograd(name: str, differentiate: Callable[..., Any], save: Callable[..., Any]) -> None:
    """Register the backward, `differentiate(ctx, *cotangents)`, of what `save(ctx, inputs, output)` kept."""
    torch.library.register_autograd(f"tokscale::{name}", differentiate, setup_context=save, lib=_LIBRARY)
