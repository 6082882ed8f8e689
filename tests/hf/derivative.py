"""What a vision tower says of each token, by definition: attention weights or keys of the layer that is read, and the
mean over the patches on whose hidden states a feature depends. Shares no code with the library but the tower's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tokscale.hf.cutting import encode
from tokscale.hf.features import field_of, flatten
from tokscale.hf.host import examine

PROBES = 8  # tokens looked at


@dataclass
class Tower:
    """What one encoding did: hidden states after each layer, and each attention call by the module that made it."""

    features: Tensor
    hidden: list[list[Tensor]]
    calls: list[list[tuple[Tensor, Tensor, Tensor]]]  # per layer: weights (b, h, p, p), keys, (b, p) no padding

    @property
    def read(self) -> int:
        """The last layer that the features depend on."""
        total = directions(self.features).sum()
        for layer in reversed(range(len(self.hidden))):
            grads = torch.autograd.grad(total, self.hidden[layer], retain_graph=True, allow_unused=True)
            if any(g is not None and bool(g.any()) for g in grads):
                return layer
        raise AssertionError("the features depend on no layer")


def directions(features: Tensor) -> Tensor:
    """One number per feature: a random combination, as the sum of a normalised vector would depend on nothing."""
    draw = torch.Generator().manual_seed(1)
    return features @ torch.randn(features.shape[-1], generator=draw, dtype=torch.float64).to(features.dtype)


@dataclass
class _Weights:
    """Attention by its definition, remembering what it computed."""

    held: list[tuple[nn.Module, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        groups, own = query.shape[1] // key.shape[1], key
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-1, -2) * scale
        seen = torch.ones_like(scores, dtype=torch.bool)
        if attention_mask is not None:
            seen = (attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0).expand_as(scores)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        real = seen[:, 0].diagonal(dim1=-2, dim2=-1)
        voters = (seen[:, 0] & real[:, :, None]).sum(1, keepdim=True)
        mean = (weights * real[:, None, :, None]).sum(2) / voters.clamp(min=1)
        self.held.append((module, torch.cat([mean[:, :, None], weights], 2).detach(), own.detach(), real))
        return (weights @ value).transpose(1, 2).contiguous(), None


def observe(model: Any, layers: nn.ModuleList, tower: Any, pixels: dict[str, Tensor], modality: str = "image") -> Tower:
    """Encode with attention by definition in the tower, and remember."""
    weights = _Weights()
    AttentionInterface.register("tests_weights", weights)
    AttentionMaskInterface.register("tests_weights", sdpa_mask)
    before = tower.config._attn_implementation
    hidden: list[list[Tensor]] = [[] for _ in layers]

    def keep(into: list[Tensor]) -> Any:
        return lambda _, __, output: into.append(output if isinstance(output, Tensor) else output[0])

    hooks = [layer.register_forward_hook(keep(into)) for layer, into in zip(layers, hidden)]
    tower.set_attn_implementation("tests_weights")
    try:
        output = encode(examine(model), modality, pixels)
    finally:
        tower.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    features, _ = flatten(getattr(output, field_of(output)))
    inside = [{id(m) for m in layer.modules()} for layer in layers]
    calls = [[(w, k, r) for m, w, k, r in weights.held if id(m) in ids] for ids in inside]
    return Tower(features, hidden, calls)


def supports(tower: Tower, layer: int, probes: list[int]) -> list[Tensor]:
    """The patches, counted over all sequences, that each probed feature depends on."""
    found, each = [], directions(tower.features)
    for token in probes:
        grads = torch.autograd.grad(each[token], tower.hidden[layer], retain_graph=True)
        found.append(torch.cat([g.reshape(-1, g.shape[-1]).abs().sum(-1) for g in grads]) > 0)
    return found


def by_definition(
    tower: Tower, probes: list[int], *, layer: int | None = None, cls: int | None = None, cat: bool = False
) -> dict[str, Tensor]:
    """Importance and keys of the probed tokens, averaged over the patches of each.

    Args:
        tower, probes: what was seen, and the tokens.
        layer: whose attention counts; None: the one that the features are read from.
        cls: where [CLS] stands if the model makes a token of it too; else it is the one row, padding aside, that makes
            none.
        cat: keys of all heads one behind the other, not their mean.
    """
    grads = torch.autograd.grad(directions(tower.features).sum(), tower.hidden[tower.read], retain_graph=True)
    used = torch.cat([g.reshape(-1, g.shape[-1]).abs().sum(-1) for g in grads]) > 0
    importance, keys, start = [], [], 0
    for weights, key, real in tower.calls[tower.read if layer is None else layer]:
        for w, k, mine in zip(weights, key, real):  # h 1+p p; h p e; p
            idle = (~used[start : start + len(mine)] & mine).nonzero()[:, 0].tolist()
            row = idle[0] if len(idle) == 1 else cls
            importance.append(w[:, 0 if row is None else 1 + row].mean(0))  # 0: the mean over queries
            keys.append(torch.cat(list(k), -1) if cat else k.mean(0))
            start += len(mine)
    values = {"importance": torch.cat(importance), "keys": torch.cat(keys)}
    where = supports(tower, tower.read, probes)
    return {what: torch.stack([value[rows].mean(0) for rows in where]) for what, value in values.items()}
