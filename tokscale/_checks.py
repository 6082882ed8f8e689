"""Checks of a user's arguments, and the words in which a mistake is reported.

Nothing here imports torch: tensors are recognised by their attributes, so that `tokscale.scaling` and `tokscale.cost`,
which never import it, can use the same words.
"""

from __future__ import annotations

import difflib
import importlib
import numbers
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from .errors import ArgumentError, BudgetError, KeywordError, MissingDependencyError


def require(module: str, *, extra: str, what: str) -> ModuleType:
    """Return the optional module `module`, or raise an error that names the extra which installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != root:
            raise  # the package is there and one of its own imports fails: not ours to explain
        package = {"sklearn": "scikit-learn", "PIL": "pillow"}.get(root, root)
        raise MissingDependencyError(
            f'{what} needs {package}, which is not installed. Run: pip install "tokscale[{extra}]"'
        ) from error


def positive_int(value: Any, name: str = "num_tokens") -> int:
    """Return `value` as an int, or raise `BudgetError` for anything but an integer >= 1; bool and float are refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise BudgetError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return `value` if it is among `choices`, or raise `ArgumentError` that lists them sorted."""
    known = sorted(choices, key=str)
    if value not in known:
        shown = f'"{value}"' if isinstance(value, str) else repr(value)
        raise ArgumentError(f"{name}={shown} is unknown; choose from {', '.join(map(str, known))}")
    return value


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_keyword(owner: str, key: str, known: Iterable[str]) -> KeywordError:
    """Return the error for a keyword that `owner` does not take."""
    known = list(known)
    return KeywordError(
        f"{owner} has no keyword {key!r}; it takes {', '.join(known)}.{suggestion(key, known)}".rstrip(".")
    )
