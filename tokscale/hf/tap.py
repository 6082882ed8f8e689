"""An ear on one attention layer: how much attention each patch receives, or its keys, under any attention backend.

The attention modules of the layer get, while a call encodes, a view of their config that names another attention
function. That one notes what it is asked for and returns what the backend of the real config returns, called with the
same arguments. The config itself, which models may share, is never changed.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import threading
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..ops import attention_importance, attention_importance_varlen

_PREFIX = "tokscale_"


class Tap:
    """One thing noted of some layers: for each sequence of each call (patches,) attention received, or (patches, d).

    `real` holds for each sequence (patches,) False at padding, or None.
    """

    def __init__(self, what: str, layers: Sequence[nn.Module], cls: int | None, keys_reduce: str) -> None:
        self.what, self.cls, self.keys_reduce = what, cls, keys_reduce
        inside = (module for layer in layers for module in layer.modules())
        self.modules = {id(module): module for module in inside if hasattr(vars(module).get("config"), "to_dict")}
        self.noted: list[Tensor] = []
        self.real: list[Tensor | None] = []

    @torch.no_grad()
    def note(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, ends: Sequence[int]) -> None:
        """Note one call of the attention function.

        Args:
            query, key: (b, heads, patches, d).
            mask: (b, 1, patches, patches), bool or additive; (b, patches) with zeros at padding; or None.
            scale: of the scores.
            ends: where the sequences end that are packed into one; empty if none are.
        """
        if mask is not None and mask.is_floating_point():
            mask = mask == 0
        if ends:
            q, k = (part.transpose(1, 2).flatten(0, 1) for part in (query, key))  # total h e
            bounds = [0, *ends]
            if self.what != "keys" and self.cls is None:
                cumulative = torch.tensor(bounds, device=q.device)
                longest = max(end - start for start, end in zip(bounds, ends))
                found = attention_importance_varlen(q, k, cumulative, max_seqlen_q=longest, scale=scale, reduce="mean")
                self.noted += found.tensor_split(bounds[1:-1])
                self.real += [None] * len(ends)
                return
            for start, end in zip(bounds, ends):
                rows, columns = (part[start:end].transpose(0, 1)[None] for part in (q, k))
                self._sequences(rows, columns, None, scale)
        else:
            self._sequences(query, key, mask if mask is None else mask.bool(), scale)

    def _sequences(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> None:
        pairs = None  # (b, patches, patches): who sees whom
        if mask is not None:
            whole = mask[:, None] & mask[:, :, None] if mask.ndim == 2 else mask[:, 0]
            pairs = whole.expand(len(query), query.shape[2], key.shape[2])
        real = None if pairs is None else pairs.diagonal(dim1=-2, dim2=-1)  # a padded patch does not see itself
        if self.what == "keys":  # b h p e
            heads = key.transpose(1, 2)
            found = heads.flatten(2) if self.keys_reduce == "cat" else heads.mean(2)
        else:
            found = self._received(query, key, pairs, real, scale)
        self.noted += list(found)
        self.real += [None] * len(found) if real is None else list(real)

    def _received(
        self, query: Tensor, key: Tensor, pairs: Tensor | None, real: Tensor | None, scale: float | None
    ) -> Tensor:
        """Return what each key receives: from [CLS], or from every patch of its picture, mean over heads."""
        mask = None if pairs is None else pairs[:, None]
        if self.cls is not None:
            return attention_importance(query, key, rows=self.cls, attn_mask=mask, scale=scale, reduce="mean")
        if pairs is None or real is None:
            return attention_importance(query, key, scale=scale, reduce="mean")
        total = attention_importance(query, key, attn_mask=mask, row_mask=real, scale=scale, reduce="sum")
        voters = (pairs & real[:, :, None]).sum(1)  # packed pictures: only rows of its own see a key
        return total / (voters.clamp(min=1) * query.shape[1])


_TAPS: ContextVar[tuple[Tap, ...]] = ContextVar("tokscale_taps", default=())


class _View:
    """A config, but for the attention function that it names to whoever runs with taps."""

    def __init__(self, config: Any) -> None:
        self.__dict__["_real"] = config

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_real"], name)
        return f"{_PREFIX}{found or 'eager'}" if name == "_attn_implementation" and _TAPS.get() else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._real, memo)


def _ends(query: Tensor, options: dict[str, Any], flash: bool) -> list[int]:
    """Return where the sequences end that a flash call packs into one, empty if it packs none."""
    if not flash:
        return []
    bounds, places = options.get("cu_seq_lens_k"), options.get("position_ids")
    if isinstance(bounds, Tensor):
        return bounds[1:].tolist()
    if isinstance(places, Tensor) and len(query) == 1 and places.shape == (1, query.shape[2]):
        starts = (places[0] == places.min()).nonzero()[1:, 0].tolist()  # counted from the start in each sequence
        return [*starts, query.shape[2]] if starts else []
    return []


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
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if ears := [tap for tap in _TAPS.get() if id(module) in tap.modules]:
            ends = _ends(query, kwargs, "flash" in name)
            for tap in ears:
                tap.note(query, key, attention_mask, scaling, ends)
        if name == "eager":  # not in the registry: each model file has its own
            stock = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
        else:
            stock = ALL_ATTENTION_FUNCTIONS[name]
        token = _TAPS.set(())  # the stock function reads the real name
        try:
            return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
        finally:
            _TAPS.reset(token)

    return attention


def check_backend(model_type: str, what: str, tower: Any) -> str:
    """Return the tower's attention backend, or raise `UnsupportedModelError` where its calls are not understood."""
    name = str(tower.config._attn_implementation or "eager")
    if name in ("eager", "sdpa") or "flash" in name:
        return name
    raise UnsupportedModelError(
        f'{model_type}: {what} is not collected under {name} attention; load the model with attn_implementation="sdpa"'
    )


_LOCK = threading.RLock()
_VIEWED: dict[int, list[Any]] = {}  # id of a module -> [users, the module, its config]


@contextlib.contextmanager
def listening(taps: tuple[Tap, ...], backends: set[str]) -> Iterator[None]:
    """Let the taps note what this thread computes until the block ends; threads that tap one module are counted."""
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    modules = {key: module for tap in taps for key, module in tap.modules.items()}
    taken: list[int] = []
    try:
        with _LOCK:
            for name in backends:
                if f"{_PREFIX}{name}" not in ALL_ATTENTION_FUNCTIONS:
                    AttentionInterface.register(f"{_PREFIX}{name}", _noting(name))
            for key, module in modules.items():
                users = _VIEWED.setdefault(key, [0, module, vars(module)["config"]])
                users[0] += 1
                taken.append(key)
                if users[0] == 1:
                    vars(module)["config"] = _View(users[2])
        token = _TAPS.set(taps)
        try:
            yield
        finally:
            _TAPS.reset(token)
    finally:
        with _LOCK:
            for key in taken:
                users = _VIEWED[key]
                users[0] -= 1
                if users[0] == 0:
                    vars(users[1])["config"] = users[2]
                    del _VIEWED[key]
