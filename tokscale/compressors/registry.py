"""Compressors by name: the package's own, the user's, and those of installed packages."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

from .._checks import one_of, unknown_keyword
from ..errors import KeywordError, RegistryError, UnknownCompressorError
from ._guards import CONTEXT
from .base import TokenCompressor

C = TypeVar("C", bound="type[TokenCompressor]")

ENTRY_POINTS = "tokscale.compressors"
_classes: dict[str, type[TokenCompressor]] = {}
_plugins_read = False


def register_compressor(name: str, *, override: bool = False) -> Callable[[C], C]:
    """Return a class decorator that makes the compressor available by `name`.

    Args:
        name: matches `[a-z][a-z0-9_]*`.
        override: take the name from another class.

    Raises:
        RegistryError: the name is malformed or taken, or the class is no `TokenCompressor`. The same class defined
            again (a reloaded module, a notebook cell run twice) replaces itself.

    Example:

        @register_compressor("stride")
        class StrideSampler(TokenCompressor):
            def compress(self, vision_tokens, **context): ...
    """

    def decorate(cls: C) -> C:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise RegistryError(f"a compressor name matches [a-z][a-z0-9_]*, got {name!r}")
        if not (isinstance(cls, type) and issubclass(cls, TokenCompressor)):
            raise RegistryError(f"{name!r} must be a subclass of tokscale.TokenCompressor, got {cls!r}")
        held = _classes.get(name)
        same = held is not None and (held.__module__, held.__qualname__) == (cls.__module__, cls.__qualname__)
        if held is not None and not same and not override:
            raise RegistryError(
                f"the name {name!r} is taken by {held.__module__}.{held.__qualname__}; "
                f"choose another, or pass override=True"
            )
        cls.registered_name = name
        _classes[name] = cls
        return cls

    return decorate


def create_compressor(name: str, **keywords: Any) -> TokenCompressor:
    """Return the compressor registered under `name`, built with `keywords` (num_tokens is one of them).

    Raises:
        UnknownCompressorError: no such name; the message suggests the nearest one.
        KeywordError: a keyword that the class does not take, or one that it needs and did not get.

    Example:
        >>> create_compressor("uniform", num_tokens=4)
        UniformSampler(num_tokens=4)
    """
    cls = compressor_class(name)
    taken = keywords_of(cls)
    names = [key for key in taken if key is not None]
    for key in keywords if None not in taken else ():
        if key not in taken:
            raise unknown_keyword(name, key, names)
    for key in names:
        if taken[key].default is inspect.Parameter.empty and key not in keywords:
            raise KeywordError(f"{name} needs {key}, which was not given; it takes {', '.join(names)}")
    return cls(**keywords)


def list_compressors(
    *, trainable: bool | None = None, question_aware: bool | None = None, needs: Iterable[str] | None = None
) -> list[str]:
    """Return the registered names, sorted.

    Where a trait depends on a method's keywords, that of its defaults counts.

    Args:
        trainable, question_aware: keep the methods that are (True) or are not (False).
        needs: keep the methods that run with no more context than this, such as `{"grid"}`; the empty set keeps those
            that need none.

    Example:
        >>> "divprune" in list_compressors(needs=set())
        True
    """
    _read_plugins()
    names = sorted(_classes)
    for trait, wanted in (("trainable", trainable), ("question_aware", question_aware)):
        if wanted is not None:
            names = [name for name in names if bool(trait_of(_classes[name], trait)) == wanted]
    if needs is not None:
        given = {one_of("needs", need, CONTEXT) for need in needs}
        names = [name for name in names if set(trait_of(_classes[name], "needs")) <= given]
    return names


def compressor_class(name: str) -> type[TokenCompressor]:
    """Return the class registered under `name`."""
    if name not in _classes:
        _read_plugins()
    if name in _classes:
        return _classes[name]
    if isinstance(name, str) and os.path.isdir(name):
        raise UnknownCompressorError(
            f"{name!r} is a folder, not a registered name; load what was saved there with "
            f"tokscale.TokenCompressor.from_pretrained({name!r})"
        )
    words = {known: known for known in _classes}
    for known, cls in sorted(_classes.items()):
        words.update((alias, known) for alias in cls.also_known_as if alias not in words)
    near = difflib.get_close_matches(str(name).lower(), list(words), n=1, cutoff=0.6)
    hint = f" Did you mean {words[near[0]]!r}?" if near else ""
    raise UnknownCompressorError(f"unknown compressor {name!r}.{hint} Known: {', '.join(sorted(_classes))}")


def keywords_of(cls: type[TokenCompressor]) -> dict[str | None, inspect.Parameter]:
    """Return a class's constructor keywords in order; the key None stands for `**keywords`."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {None if p.kind is p.VAR_KEYWORD else p.name: p for p in parameters if p.kind is not p.VAR_POSITIONAL}


def trait_of(cls: type[TokenCompressor], name: str) -> Any:
    """A class attribute; where it is a property, that of an instance built with the defaults."""
    if not isinstance(inspect.getattr_static(cls, name), property):
        return getattr(cls, name)
    sizes = {"num_tokens": 1, "dim": 64}
    wanted = {key: sizes[key] for key, p in keywords_of(cls).items() if key in sizes and p.default is p.empty}
    with torch.random.fork_rng(devices=[]):
        return getattr(cls(**wanted), name)


def _read_plugins() -> None:
    """Register the classes that installed packages announce, once; a broken one is a warning."""
    global _plugins_read
    if _plugins_read:
        return
    _plugins_read = True
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            cls = entry.load()
            if _classes.get(entry.name) is not cls:
                register_compressor(entry.name)(cls)
        except Exception as error:  # a plug-in that fails must not take the others with it
            warnings.warn(
                f"the plug-in {entry.name} = {entry.value} of {ENTRY_POINTS} failed: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )
