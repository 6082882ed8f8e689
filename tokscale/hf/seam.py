"""What stands in for a method of a patched model, and the call in progress that it answers from.

A seam is put into `owner.__dict__[name]`, so it belongs to one instance. Outside a call it is the original method;
inside one it answers from the call's compressed features. The call lives in a `ContextVar`: threads do not see one
another's.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from .handle import PatchHandle


@dataclass
class Call:
    """One call of a patched model: what its seams answer. An empty one lets everything through."""

    handle: PatchHandle
    outputs: dict[str, Any] = field(default_factory=dict)  # modality -> encoder output to hand out (clones of it)
    changed: bool = False  # some of the outputs are compressed
    index: Tensor | None = None  # (B, S') long column of each short column, -1 for new padding; None: nothing left
    originals: dict[str, Tensor] = field(default_factory=dict)  # (B, S) arguments before they were shortened
    lost: Tensor | None = None  # (B,) tokens that left each row
    totals: dict[str, list[int]] = field(default_factory=dict)  # modality -> vision tokens left per row
    pixels: dict[str, int] = field(default_factory=dict)  # modality -> first axis of its pixels as the caller gave them
    on_encoded: Callable[[Call, Any], Any] | None = None  # sees the encoder output that the model itself makes


_CALLS: ContextVar[tuple[Call, ...]] = ContextVar("tokscale_calls", default=())


def active(handle: PatchHandle) -> Call | None:
    """Return the innermost call in progress of this handle in this thread, or None."""
    for call in reversed(_CALLS.get()):
        if call.handle is handle:
            return call
    return None


@contextlib.contextmanager
def running(call: Call) -> Iterator[None]:
    """Make `call` the one in progress; it ends with the block, whatever is raised in it."""
    token = _CALLS.set((*_CALLS.get(), call))
    try:
        yield
    finally:
        _CALLS.reset(token)


class Seam:
    """A method of one instance that looks like the original (name, docstring, signature) and can be taken away.

    An object with fields and not a closure: `copy.deepcopy` of the model gives seams that own the copy.
    """

    def __init__(self, owner: Any, name: str, state: PatchHandle, answer: Callable[..., Any], original: Any) -> None:
        self.owner, self.name, self.state, self.answer, self.original = owner, name, state, answer, original
        self.__wrapped__ = original
        self.__name__ = name
        self.__qualname__ = getattr(original, "__qualname__", name)
        self.__doc__ = getattr(original, "__doc__", None)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.state is None:  # removed, but something that wrapped this seam still calls it
            return self.original(*args, **kwargs)
        return self.answer(self, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Seam:
        new = object.__new__(Seam)
        memo[id(self)] = new  # owner -> seam -> owner is a cycle
        new.__dict__.update({key: copy.deepcopy(value, memo) for key, value in vars(self).items()})
        return new

    def __repr__(self) -> str:
        return f"<tokscale seam on {type(self.owner).__name__}.{self.name}>"


def install(owner: Any, name: str, state: PatchHandle, answer: Callable[..., Any]) -> tuple[Any, str, bool, Any, Seam]:
    """Put a seam on `owner.name` and return what `uninstall` needs to put everything back."""
    had = name in owner.__dict__
    old = owner.__dict__.get(name)
    seam = Seam(owner, name, state, answer, getattr(owner, name))
    owner.__dict__[name] = seam
    return owner, name, had, old, seam


def uninstall(record: tuple[Any, str, bool, Any, Seam]) -> None:
    """Undo `install`. A seam that something else has wrapped since stays in the chain and passes everything through."""
    owner, name, had, old, seam = record
    if owner.__dict__.get(name) is seam:
        if had:
            owner.__dict__[name] = old
        else:
            del owner.__dict__[name]
    seam.state = None  # type: ignore[assignment]


def find(model: Any, names: tuple[str, ...]) -> Seam | None:
    """Return a live seam that is already somewhere on `model`, or None."""
    for owner in model.modules():
        for name in names:
            seam = owner.__dict__.get(name)
            if isinstance(seam, Seam) and seam.state is not None:
                return seam
    return None
