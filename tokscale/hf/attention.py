"""Importance: the attention that each vision token receives in the tower, under any stock attention backend.

During the encoding the tower's attention function is one that returns the stock result and notes, for a single layer,
how much attention each patch receives. Patches are not tokens: a map of the family says which patches make a token.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..ops import attention_importance
from . import families
from .host import Host
from .patches import token_importance

_BACKENDS = ("sdpa", "eager")


class Encoded(dict):  # type: ignore[type-arg]
    """Encoder outputs by modality, as `mm_encoder_outputs` takes them, with the importance noted beside them."""

    def __init__(self, *args: Any, importance: dict[str, Tensor] | None = None) -> None:
        super().__init__(*args)
        self.importance: dict[str, Tensor] = importance or {}


class Record:
    """What one encoding notes: for each call of the tapped layer, (b, patches) attention received."""

    def __init__(self, layer: nn.Module, cls: bool) -> None:
        self.modules = {id(module) for module in layer.modules()}
        self.cls = cls
        self.received: list[Tensor] = []

    @torch.no_grad()
    def note(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> None:
        if mask is not None and mask.dtype != torch.bool:
            mask = mask == 0
        if self.cls:
            self.received.append(attention_importance(query, key, rows=0, attn_mask=mask, scale=scale, reduce="mean"))
            return
        if mask is None:
            self.received.append(attention_importance(query, key, attn_mask=mask, scale=scale, reduce="mean"))
            return
        mask = mask.expand(len(query), 1, query.shape[2], key.shape[2])
        real = mask[:, 0].diagonal(dim1=-2, dim2=-1)  # a padded patch sees no one worth asking
        total = attention_importance(query, key, attn_mask=mask, row_mask=real, scale=scale, reduce="sum")
        voters = (mask[:, 0] & real[:, :, None]).sum(1)  # packed images: only rows of its own see a key
        self.received.append(total / (voters.clamp(min=1) * query.shape[1]))


_RECORD: ContextVar[Record | None] = ContextVar("tokscale_record", default=None)


def _noting(name: str) -> Any:
    """Return an attention function that gives the result of the stock one called `name`."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> Any:
        record = _RECORD.get()
        if record is not None and id(module) in record.modules:
            record.note(query, key, attention_mask, scaling)
        if name == "eager":  # not in the registry: each model file has its own
            stock = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
        else:
            from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

            stock = ALL_ATTENTION_FUNCTIONS[name]
        return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)

    return attention


_LOCK = threading.RLock()
_SWITCHED: dict[int, list[Any]] = {}  # id of a config -> [users, the config]; configs are shared between models
_registered = False


def _register() -> None:
    global _registered
    with _LOCK:
        if not _registered:
            from transformers import AttentionInterface, AttentionMaskInterface
            from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

            for name in _BACKENDS:
                AttentionInterface.register(f"tokscale_{name}", _noting(name))
                AttentionMaskInterface.register(f"tokscale_{name}", ALL_MASK_ATTENTION_FUNCTIONS[name])
            _registered = True


@contextlib.contextmanager
def _switched(tower: Any) -> Iterator[None]:
    """Let the tower attend by the noting function; threads that share its config are counted."""
    key = id(tower.config)
    with _LOCK:
        users = _SWITCHED.setdefault(key, [0, tower.config._attn_implementation])
        users[0] += 1
    try:
        with _LOCK:
            if tower.config._attn_implementation == users[1]:
                tower.set_attn_implementation(f"tokscale_{users[1]}")
        yield
    finally:
        with _LOCK:
            users[0] -= 1
            if users[0] == 0:
                del _SWITCHED[key]
                tower.set_attn_implementation(users[1])


class Recorder:
    """Finds the vision tower and the layer to note, and notes while a call encodes."""

    def __init__(self, tower: Any, layers: nn.ModuleList, cls: bool) -> None:
        self.tower, self.layers, self.cls = tower, layers, cls

    @classmethod
    def find(cls, host: Host, *, needed: bool) -> Recorder | None:
        """Return the recorder of a model; None where it cannot be and is not needed.

        Raises:
            UnsupportedModelError: importance is needed and the family has no map from patches to tokens.
        """
        why = families.NO_IMPORTANCE.get(host.model_type)
        if why is None and host.model_type not in families.IMPORTANCE:
            why = "no map from its patches to its tokens is known"
        tower = None if why else _tower(host)
        if tower is None:
            if needed:
                raise _no_map(host, why or "no vision tower was found")
            return None
        lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
        names = [name for name, _ in tower.named_parameters()]
        has_cls = any(name.endswith(("class_embedding", "cls_token")) for name in names)
        return cls(tower, max(lists, key=len), has_cls)

    def _layer(self, host: Host, named: dict[str, Any]) -> nn.Module:
        """Return the encoder layer that the features are read from; among layers with windows, the last without."""
        whole = getattr(self.tower.config, "fullatt_block_indexes", None)
        if whole:
            return self.layers[max(whole)]
        index = named.get("vision_feature_layer")
        index = getattr(host.config, "vision_feature_layer", None) if index is None else index
        if isinstance(index, (list, tuple)):
            index = index[-1]
        index = -1 if index is None else int(index)
        return self.layers[len(self.layers) + index if index < 0 else max(index - 1, 0)]

    @contextlib.contextmanager
    def recording(self, host: Host, named: dict[str, Any]) -> Iterator[Record]:
        """Note what the tapped layer sees until the block ends.

        Raises:
            UnsupportedModelError: the tower attends by a backend whose function cannot be stood in for.
        """
        backend = self.tower.config._attn_implementation
        if str(backend).removeprefix("tokscale_") not in _BACKENDS:
            raise UnsupportedModelError(
                f"{host.model_type}: importance is not collected under {backend} attention; load the model with "
                'attn_implementation="sdpa"'
            )
        _register()
        record = Record(self._layer(host, named), self.cls)
        with _switched(self.tower):
            token = _RECORD.set(record)
            try:
                yield record
            finally:
                _RECORD.reset(token)


def _tower(host: Host) -> Any:
    """Return the vision tower: the child of the feature method's owner that was built from the vision config."""
    wanted = type(getattr(host.config, "vision_config", None))
    for module in host.features["image"].owner.modules():
        if type(getattr(module, "config", None)) is wanted and hasattr(module, "set_attn_implementation"):
            return module
    return None


def importance(record: Record, host: Host, modality: str, named: dict[str, Any], tokens: int) -> Tensor:
    """Return (tokens,) float32: the attention that each feature's patches receive, in the order of the features."""
    kind = families.IMPORTANCE[host.model_type]
    received = [part.float() for part in record.received]
    found = token_importance(kind, received, tokens, host.config, named.get(f"{modality}_grid_thw"))
    if found is None or len(found) != tokens:
        patches = sum(part.numel() for part in received)
        raise _no_map(host, f"{patches} patches, {tokens} tokens")
    return found


def _no_map(host: Host, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{host.model_type}: importance cannot be mapped to its tokens ({why}); choose a method that needs none"
    )
