"""What the tower's attention says of each vision token: importance, at a late or an early layer, and keys.

During the encoding the tower's attention function is one that returns the stock result and notes, for the layers asked
for, how much attention each patch receives, or its keys. Patches are not tokens: a map of the family says which patches
make a token.
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
from .patches import to_tokens

_BACKENDS = ("sdpa", "eager")
NOTED = ("importance", "shallow_importance", "keys")  # context that the tower's attention gives


class Encoded(dict):  # type: ignore[type-arg]
    """Encoder outputs by modality, as `mm_encoder_outputs` takes them, with what was noted of each token beside them.

    `noted[what][modality]` is (tokens,) importance or (tokens, d_k) keys.
    """

    def __init__(self, *args: Any, noted: dict[str, dict[str, Tensor]] | None = None) -> None:
        super().__init__(*args)
        self.noted = {what: dict(found) for what, found in (noted or {}).items()}


class Tap:
    """One thing noted of one layer: for each of its calls (b, patches) attention received, or (b, patches, d) keys."""

    def __init__(self, what: str, layer: nn.Module, cls: bool, keys_reduce: str) -> None:
        self.what, self.cls, self.keys_reduce = what, cls, keys_reduce
        self.modules = {id(module) for module in layer.modules()}
        self.noted: list[Tensor] = []

    @torch.no_grad()
    def note(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> None:
        if self.what == "keys":  # b h p e
            heads = key.transpose(1, 2)
            self.noted.append(heads.flatten(2) if self.keys_reduce == "cat" else heads.mean(2))
        else:
            self.noted.append(_received(query, key, mask, scale, self.cls))


def _received(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, cls: bool) -> Tensor:
    """Return the attention that each key receives: from [CLS], or from every patch of its picture, mean over heads."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask == 0
    if cls:
        return attention_importance(query, key, rows=0, attn_mask=mask, scale=scale, reduce="mean")
    if mask is None:
        return attention_importance(query, key, attn_mask=mask, scale=scale, reduce="mean")
    mask = mask.expand(len(query), 1, query.shape[2], key.shape[2])
    real = mask[:, 0].diagonal(dim1=-2, dim2=-1)  # a padded patch sees no one worth asking
    total = attention_importance(query, key, attn_mask=mask, row_mask=real, scale=scale, reduce="sum")
    voters = (mask[:, 0] & real[:, :, None]).sum(1)  # packed images: only rows of its own see a key
    return total / (voters.clamp(min=1) * query.shape[1])


_TAPS: ContextVar[tuple[Tap, ...]] = ContextVar("tokscale_taps", default=())


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
        for tap in _TAPS.get():
            if id(module) in tap.modules:
                tap.note(query, key, attention_mask, scaling)
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
    """Finds the vision tower and the layers to note, and notes while a call encodes."""

    def __init__(self, tower: Any, layers: nn.ModuleList, cls: bool, compressor: Any) -> None:
        self.tower, self.layers, self.cls, self.compressor = tower, layers, cls, compressor
        reads = frozenset(compressor.needs) | frozenset(compressor.uses)
        self.what = tuple(name for name in NOTED if name in reads)

    @classmethod
    def find(cls, host: Host, compressor: Any) -> Recorder | None:
        """Return the recorder for what a compressor reads; None where it reads nothing, or may do without.

        Raises:
            UnsupportedModelError: something is needed and the family has no map from patches to tokens.
        """
        needed = [name for name in NOTED if name in compressor.needs]
        if not needed and not any(name in compressor.uses for name in NOTED):
            return None
        why = families.NO_IMPORTANCE.get(host.model_type)
        if why is None and host.model_type not in families.IMPORTANCE:
            why = "no map from its patches to its tokens is known"
        tower = None if why else _tower(host)
        if tower is None:
            if needed:
                raise _no_map(host, needed[0], why or "no vision tower was found")
            return None
        lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
        names = [name for name, _ in tower.named_parameters()]
        has_cls = any(name.endswith(("class_embedding", "cls_token")) for name in names)
        return cls(tower, max(lists, key=len), has_cls, compressor)

    def _shallow(self) -> nn.Module:
        """Return the layer at the compressor's share of the depth; among layers with windows, the nearest without."""
        index = max(0, round(self.compressor.shallow_layer * len(self.layers)) - 1)
        if whole := getattr(self.tower.config, "fullatt_block_indexes", None):
            index = min(whole, key=lambda each: abs(each - index))
        return self.layers[index]

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
    def recording(self, host: Host, named: dict[str, Any]) -> Iterator[tuple[Tap, ...]]:
        """Note what the tapped layers see until the block ends.

        Raises:
            UnsupportedModelError: the tower attends by a backend whose function cannot be stood in for.
        """
        backend = self.tower.config._attn_implementation
        if str(backend).removeprefix("tokscale_") not in _BACKENDS:
            raise UnsupportedModelError(
                f"{host.model_type}: {self.what[0]} is not collected under {backend} attention; load the model with "
                'attn_implementation="sdpa"'
            )
        _register()
        late = self._layer(host, named)
        taps = tuple(
            Tap(what, self._shallow() if what == "shallow_importance" else late, self.cls, self.compressor.keys_reduce)
            for what in self.what
        )
        with _switched(self.tower):
            token = _TAPS.set(taps)
            try:
                yield taps
            finally:
                _TAPS.reset(token)


def _tower(host: Host) -> Any:
    """Return the vision tower: the child of the feature method's owner that was built from the vision config."""
    wanted = type(getattr(host.config, "vision_config", None))
    for module in host.features["image"].owner.modules():
        if type(getattr(module, "config", None)) is wanted and hasattr(module, "set_attn_implementation"):
            return module
    return None


def of_tokens(tap: Tap, host: Host, modality: str, named: dict[str, Any], tokens: int) -> Tensor:
    """Return what a tap noted in the order of the features, float32: (tokens,) importance or (tokens, d_k) keys."""
    kind = families.IMPORTANCE[host.model_type]
    noted = [part.float() for part in tap.noted]
    found = to_tokens(kind, noted, tokens, host.config, named.get(f"{modality}_grid_thw"))
    if found is None or len(found) != tokens:
        patches = sum(part.shape[0] * part.shape[1] for part in noted)
        raise _no_map(host, tap.what, f"{patches} patches, {tokens} tokens")
    return found


def _no_map(host: Host, what: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{host.model_type}: {what} cannot be mapped to its tokens ({why}); choose a method that needs none"
    )
