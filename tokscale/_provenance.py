"""Where a number was measured: device, versions, commit and time, in the words of every table that tokscale writes."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

VERSIONED = ("torch", "transformers", "triton")


def versions() -> dict[str, str | None]:
    """Return the versions of torch, transformers, triton (None where absent) and tokscale, importing none of them."""
    from . import __version__

    found: dict[str, str | None] = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return {**found, "tokscale": __version__}


@functools.cache
def commit() -> str | None:
    """Return the commit of the checkout that tokscale runs from, `+` added if it has changes.

    Where there is no checkout: what the environment variable `TOKSCALE_COMMIT` says of a copy, or None.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("TOKSCALE_COMMIT") or None
    try:
        run = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, timeout=10, check=True)
        head = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        dirty = run(["git", "status", "--porcelain", "--untracked-files=no", "--", "tokscale"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if dirty else "")


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def device_name(device: Any) -> str:
    """Return `cpu`, or the name of the accelerator behind a `torch.device`."""
    kind = str(device).partition(":")[0]
    if kind != "cuda":
        return kind
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})"


def of_model(model: Any) -> dict[str, str | None]:
    """Return name, revision, device, dtype and attention backend of a Hugging Face model.

    A model loaded from a folder is named by the folder's last part: where it lay on this machine is nobody's business.
    """
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", "") or ""
    if name and Path(name).exists():
        name = Path(name).resolve().name
    device, dtype = getattr(model, "device", None), getattr(model, "dtype", None)
    return {
        "model": name or type(model).__name__,
        "revision": getattr(config, "_commit_hash", None),
        "device": None if device is None else device_name(device),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "attention": getattr(config, "_attn_implementation", None),
    }
