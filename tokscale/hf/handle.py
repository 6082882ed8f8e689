"""`PatchHandle`: a patched model's budget, the record of its last call, and the way back."""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .._checks import suggestion
from ..errors import ArgumentError, PatchError
from . import families
from .attention import Encoded, Recorder
from .compress import Budget, Budgets, check_allocate, check_budget, with_budget
from .cutting import encode
from .features import field_of, flatten
from .host import Host, modalities
from .last import LastCall
from .seam import Call, running, uninstall

_PUBLIC = frozenset({"model", "compressor", "last", "num_tokens", "retention_ratio", "allocate"})  # what can be set


class PatchHandle:
    """A patched model: read and set the budget, see what the last call did, give the model back.

    Made by `patch`. A context manager: leaving the block removes the patch, after an exception too.

    Attributes:
        model: the model that was patched (inside PEFT, torch.compile and data-parallel wrappers).
        compressor: the module that compresses; looked up at each call, never registered under the model.
        last: a `LastCall` with what the last call with images did, or None.
    """

    def __init__(self, host: Host, compressor: Any) -> None:
        self.model = host.model
        self.compressor = compressor
        self.last: LastCall | None = None
        self._host = host
        self._budget: Budget = None
        self._ratio: float | None = None
        self._allocate: str | None = None
        self._positions = "compact"
        self._unit = "image"
        self._question: Callable[[Tensor, Tensor], Tensor] | None = None
        self._join: families.Join | None = None
        self._recorder: Recorder | None = None
        self._warned = False
        self._caches: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._installed: list[Any] = []

    @property
    def num_tokens(self) -> Any:
        """The budget: an int, a list (one per image of a call), a function, or None under a `retention_ratio`."""
        if self._ratio is None and self._budget is None:
            return self.compressor.num_tokens
        return self._budget

    @num_tokens.setter
    def num_tokens(self, value: Any) -> None:
        self._living("num_tokens")
        budget, _ = check_budget(value, None)
        check_allocate(self._allocate, budget)
        for each in budget if isinstance(budget, list) else [budget]:
            if isinstance(each, int):
                with_budget(self.compressor, each)  # a compressor may refuse a budget
        self._budget, self._ratio = budget, None

    @property
    def retention_ratio(self) -> float | None:
        """The share of tokens kept per image, `max(1, round(r n))`, or None where `num_tokens` rules."""
        return self._ratio

    @retention_ratio.setter
    def retention_ratio(self, value: float) -> None:
        self._living("retention_ratio")
        self._budget, self._ratio = check_budget(None, value)

    @property
    def allocate(self) -> str | None:
        """How a row's images share `num_tokens` times their number: "uniform", "proportional", "content", or None."""
        return self._allocate

    @allocate.setter
    def allocate(self, value: str | None) -> None:
        self._living("allocate")
        self._allocate = check_allocate(value, self._budget)

    def _budgets(self) -> Budgets:
        return Budgets(self.compressor, self._budget, self._ratio, self._allocate)

    def encode(self, **inputs: Any) -> dict[str, Any]:
        """Return the encoder outputs of a call, to be passed to any number of calls as `mm_encoder_outputs`.

        `model(**inputs, mm_encoder_outputs=handle.encode(**inputs))` equals `model(**inputs)` and encodes nothing; so
        does `generate`. One encoding serves every budget. The pixels may stay among the inputs or be left out.

        Args:
            inputs: the arguments of the call; only pixels, grids and sizes are read.

        Raises:
            ArgumentError: there are no pixels among the inputs.
        """
        self._living("encode")
        if self._host.reader is not None:
            raise ArgumentError(
                f"encode(): {self._host.model_type} takes no mm_encoder_outputs, so every call encodes; pass the pixels"
            )
        inputs.pop("mm_encoder_outputs", None)
        found = [m for m in modalities(inputs, self._host.pixels) if m in self._host.features]
        if not found:
            raise ArgumentError(
                f"encode() found no pixels among {', '.join(sorted(inputs)) or 'nothing'}; pass pixel_values"
            )
        return self._encode(inputs, found)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let calls of this thread run as if the model were not patched, until the block ends."""
        with running(Call(self)):
            yield

    def remove(self) -> None:
        """Give the model back, bit for bit as it was lent. A second call does nothing."""
        while self._installed:
            uninstall(self._installed.pop())

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PUBLIC and name[0] != "_":
            near = suggestion(name, _PUBLIC).strip() or "The budget is handle.num_tokens."
            raise AttributeError(f"PatchHandle has no attribute {name!r}. {near}", name=name, obj=self)
        object.__setattr__(self, name, value)

    def _living(self, what: str) -> None:
        if not self._installed:
            raise PatchError(f"{what}: this handle was removed; patch the {type(self.model).__name__} again")

    def _encode(self, named: dict[str, Any], modalities: list[str]) -> Encoded:
        """Return encoder outputs by modality, those in `mm_encoder_outputs` as they are."""
        given = named.get("mm_encoder_outputs")
        given = given if isinstance(given, dict) else {}
        encoded = Encoded(noted=getattr(given, "noted", {}))
        for modality in modalities:
            if given.get(modality) is not None:
                encoded[modality] = given[modality]
            elif self._recorder is not None:
                with self._recorder.recording(self._host, named) as taps:
                    encoded[modality] = encode(self._host, modality, named)
                features, _ = flatten(getattr(encoded[modality], field_of(encoded[modality])))
                for tap in taps:
                    found = self._recorder.of_tokens(tap, self._host, modality, named, len(features))
                    encoded.noted.setdefault(tap.what, {})[modality] = found.to(features.device)
            else:
                encoded[modality] = encode(self._host, modality, named)
        return encoded

    def _pad_and_eos(self, named: dict[str, Any]) -> tuple[int | None, list[int]]:
        """Return the pad id and the end ids that a call goes by."""
        sources = [
            named,
            named.get("generation_config"),
            getattr(self.model, "generation_config", None),
            self._host.config,
        ]
        text = self._host.config.get_text_config() if hasattr(self._host.config, "get_text_config") else None

        def look(name: str) -> Any:
            for source in (*sources, text):
                value = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
                if value is not None:
                    return value
            return None

        pad, eos = look("pad_token_id"), look("eos_token_id")
        ends = [] if eos is None else [int(e) for e in (eos if isinstance(eos, (list, tuple)) else [eos])]
        return (None if pad is None else int(pad)), ends

    def _not_text(self, device: torch.device) -> Tensor:
        """Return the ids that are no part of a question."""
        ids = {*self._host.special, *self._host.tokens.values()}
        if self._join is not None:
            ids |= self._join.markers | self._join.ends | self._join.last
        return torch.tensor(sorted(ids), device=device)

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchHandle:
        new = object.__new__(PatchHandle)
        memo[id(self)] = new
        kept = {key: value for key, value in vars(self).items() if key not in ("last", "_caches")}
        new.__dict__.update({key: copy.deepcopy(value, memo) for key, value in kept.items()})
        new.last, new._caches = None, weakref.WeakKeyDictionary()
        return new

    def __enter__(self) -> PatchHandle:
        self._living("with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = "" if self._installed else ", removed"
        return f"PatchHandle({type(self.model).__name__}, {self._by()}{state})"

    def _by(self) -> str:
        budget = f"retention_ratio={self._ratio}" if self._ratio is not None else f"num_tokens={self.num_tokens}"
        return f"{type(self.compressor).__name__}, {budget}"
