"""What the tower's attention says of each vision token: importance, at a late or an early layer, and keys.

During the encoding, taps on the layers asked for note how much attention each patch receives, or its keys. Patches are
not tokens: a map of the family says which patches make a token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedModelError
from . import families
from .host import Host
from .patches import to_tokens
from .shapes import merge_of, picture_sizes, tile_size
from .tap import Tap, check_backend, listening

NOTED = ("importance", "shallow_importance", "keys")  # context that the tower's attention gives
_CLS = ("class_embedding", "cls_token")
_REGISTERS = "cls_register_token"  # several of both


class Encoded(dict):  # type: ignore[type-arg]
    """Encoder outputs by modality, as `mm_encoder_outputs` takes them, with what was noted of each token beside them.

    `noted[what][modality]` is (tokens,) importance or (tokens, d_k) keys.
    """

    def __init__(self, *args: Any, noted: dict[str, dict[str, Tensor]] | None = None) -> None:
        super().__init__(*args)
        self.noted = {what: dict(found) for what, found in (noted or {}).items()}


class Recorder:
    """Finds the vision towers and the layers to note, and notes while a call encodes."""

    def __init__(self, host: Host, towers: list[Any], compressor: Any) -> None:
        self.towers, self.compressor = towers, compressor
        self.layers = [_layers(tower) for tower in towers]
        named = {name.rpartition(".")[2]: value for name, value in towers[0].named_parameters()}
        has_cls = any(name in named for name in _CLS)
        self.cls = None if not has_cls else -1 if host.model_type in families.CLS_LAST else 0
        self.prefix = 1 if has_cls else len(named.get(_REGISTERS, ()))
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
        towers = [] if why else _towers(host)
        if not towers:
            if needed:
                raise _no_map(host, needed[0], why or "no vision tower was found")
            return None
        return cls(host, towers, compressor)

    def _shallow(self, layers: nn.ModuleList) -> nn.Module:
        """Return the layer at the compressor's share of the depth; among layers with windows, the nearest without."""
        index = max(0, round(self.compressor.shallow_layer * len(layers)) - 1)
        if whole := getattr(self.towers[0].config, "fullatt_block_indexes", None):
            index = min(whole, key=lambda each: abs(each - index))
        return layers[index]

    def _late(self, layers: nn.ModuleList, host: Host, named: dict[str, Any]) -> nn.Module:
        """Return the last layer that the features are read from; among layers with windows, the last without."""
        whole = getattr(self.towers[0].config, "fullatt_block_indexes", None)
        if whole:
            return layers[max(whole)]
        index = named.get("vision_feature_layer")
        index = getattr(host.config, "vision_feature_layer", None) if index is None else index
        indices = index if isinstance(index, (list, tuple)) else [-1 if index is None else index]
        return layers[max(len(layers) + int(i) if i < 0 else max(int(i) - 1, 0) for i in indices)]

    @contextlib.contextmanager
    def recording(self, host: Host, named: dict[str, Any]) -> Iterator[tuple[Tap, ...]]:
        """Note what the tapped layers see until the block ends.

        Raises:
            UnsupportedModelError: the tower attends by a backend whose calls are not understood.
        """
        backends = {check_backend(host.model_type, self.what[0], tower) for tower in self.towers}
        late = [self._late(layers, host, named) for layers in self.layers]
        early = [self._shallow(layers) for layers in self.layers]
        taps = tuple(
            Tap(what, early if what == "shallow_importance" else late, self.cls, self.compressor.keys_reduce)
            for what in self.what
        )
        with listening(taps, backends):
            yield taps

    def of_tokens(self, tap: Tap, host: Host, modality: str, named: dict[str, Any], tokens: int) -> Tensor:
        """Return what a tap noted in the order of the features, float32: (tokens,) importance or (tokens, d_k) keys."""
        sizes = picture_sizes(modality, named, getattr(self.towers[0].config, "patch_size", None))
        # padding makes no tokens where sizes are told; without them pictures are squares, whatever stands in them
        noted = [
            part.float() if real is None or sizes is None else part[real].float()
            for part, real in zip(tap.noted, tap.real)
        ]
        found = to_tokens(
            families.IMPORTANCE[host.model_type],
            noted,
            tokens,
            sizes,
            cls=self.cls,
            prefix=self.prefix,
            tile=tile_size(modality, named),
            merge=merge_of(host),
            vision=self.towers[0].config,
            pooling=named.get(f"{modality}_token_pooling"),
        )
        if found is None or len(found) != tokens:
            raise _no_map(host, tap.what, f"{sum(map(len, noted))} patches, {tokens} tokens")
        return found


def _towers(host: Host) -> list[Any]:
    """Return the vision towers: the outermost parts of the feature method's owner built from the vision config."""
    owner = host.features["image"].owner
    configs = (getattr(part, "vision_config", None) for part in (host.config, getattr(owner, "config", None)))
    wanted = type(next((config for config in configs if config is not None), None))
    found: list[Any] = []
    inside: set[int] = set()
    for module in owner.modules():
        if id(module) in inside or type(getattr(module, "config", None)) is not wanted:
            continue
        if hasattr(module, "set_attn_implementation"):
            found.append(module)
            inside.update(map(id, module.modules()))
    return found


def _layers(tower: nn.Module) -> nn.ModuleList:
    """Return the encoder layers of a tower: the longest list of modules that attend."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
    attending = [each for each in lists if all(_attends(layer) for layer in each)]
    return max(attending or lists, key=len)


def _attends(layer: nn.Module) -> bool:
    return any("Attention" in type(module).__name__ for module in layer.modules())


def _no_map(host: Host, what: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{host.model_type}: {what} cannot be mapped to its tokens ({why}); choose a method that needs none"
    )
