"""What a model was before it was patched, to be compared bit for bit with what came back."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from tests.hf.helpers import (
    forget,
    forward,
    generate,
)
from tests.tiny_models import Prompt

HOOKS = [name for name in vars(nn.Module()) if "hooks" in name]


def state(model: Any) -> dict[str, Any]:
    """Everything of a model that a patch could leave behind, as comparable values."""
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        found[f"{name} attributes"] = {
            key: id(value) for key, value in vars(part).items() if not isinstance(value, bool)
        }
        found[f"{name} flags"] = {key: value for key, value in vars(part).items() if isinstance(value, bool)}
        found[f"{name} hooks"] = {
            hook: [id(f) for f in vars(part)[hook].values()] for hook in HOOKS if vars(part)[hook]
        }
        for kind in type(part).__mro__:
            found[f"class {kind.__qualname__}"] = {key: id(value) for key, value in vars(kind).items()}
    found["class"] = type(model)
    found["config"] = model.config.to_dict()
    found["implementations"] = [
        (n, p.config._attn_implementation) for n, p in model.named_modules() if hasattr(p, "config")
    ]
    found["generation"] = model.generation_config.to_dict()
    found["signature"] = str(inspect.signature(model.forward)), str(inspect.signature(model.generate))
    found["buffers"] = [(n, id(b)) for n, b in model.named_buffers()]
    found["grads"] = [(n, p.requires_grad, id(p.grad)) for n, p in model.named_parameters()]
    return found


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


class Lent:
    """What a model was and computed before it was patched, to be compared with what came back."""

    def __init__(self, model: Any, batch: Prompt) -> None:
        self.model, self.batch = model, batch
        self.logits, self.ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
        forget(model)
        self.state, self.weights = state(model), weights(model)

    def check(self) -> None:
        forget(self.model)
        now = state(self.model)
        assert list(now) == list(self.state)
        for key, value in self.state.items():
            assert now[key] == value, key
        assert list(self.model.state_dict()) == list(self.weights)
        assert all(torch.equal(value, self.weights[key]) for key, value in self.model.state_dict().items())
        assert torch.equal(forward(self.model, self.batch.inputs).logits, self.logits)
        assert torch.equal(generate(self.model, self.batch.inputs), self.ids)
