"""Where a model comes from, a folder or the Hugging Face hub: no mistyped folder costs half a minute of retries."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .errors import InputError


def is_hub_id(source: str) -> bool:
    """Return whether a string has the form `owner/name` of a repository on the hub."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]*\w", source) is not None


def model_source(name_or_folder: str | os.PathLike[str]) -> str:
    """Return the folder of a saved model or what may be a hub id, or raise `InputError`; nothing is asked or loaded."""
    source = os.fspath(name_or_folder)
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds no config.json; pass the folder that save_pretrained wrote, or a hub id")
        return str(folder)
    if not is_hub_id(source):
        raise InputError(f"{source} does not exist; pass the folder of a saved model, or a hub id such as owner/name")
    return source


def not_on_hub(source: str, file: str, *, cache_dir: Any = None, token: Any = None) -> str | None:
    """Return why a repository cannot be had, or None if its `file` is in the cache or the hub answers for it.

    One request without retries; none offline, where the ordinary call fails at once by itself.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    cached = huggingface_hub.try_to_load_from_cache(source, file, cache_dir=cache_dir)
    if isinstance(cached, str) or constants.HF_HUB_OFFLINE:
        return None
    try:
        huggingface_hub.HfApi().model_info(source, timeout=5, token=token)
    except errors.GatedRepoError:
        return None
    except errors.RepositoryNotFoundError:
        return "the hub has no such repository, or shows it to others only"
    except errors.HfHubHTTPError:  # the hub is there and has its own trouble: the real call will tell
        return None
    except Exception as error:  # whichever network library the hub's client uses has its own errors
        return f"the hub cannot be reached ({type(error).__name__})"
    return None
