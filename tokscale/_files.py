"""Files that a user names: whether they can be written, said before any work, and writing them in one step."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError


def writable(path: str | os.PathLike[str], shown: str | None = None) -> Path:
    """Return `path` if a file can be written there, or raise `InputError`; its folder is never made silently.

    Args:
        path: of a file, there or not.
        shown: how the user wrote it, such as `--out x/y.csv`; the path itself by default.
    """
    path = Path(path)
    shown = shown or str(path)
    if path.is_dir():
        raise InputError(f"{shown} is a folder; name a file")
    if not path.parent.is_dir():
        what = "is a file" if path.parent.exists() else "does not exist"
        raise InputError(f"{shown}: its folder {path.parent} {what}; make the folder, or name another path")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{shown} may not be written; name another path")
    return path


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file aside, then put it in the place of `path` in one step; errors name `path` alone."""
    path = writable(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name another path") from error
    finally:
        aside.unlink(missing_ok=True)
