"""Compressors in folders and on the hub: config.json, model.safetensors, README.md. No pickle, no remote code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .._checks import suggestion, unknown_keyword
from .._hub import is_hub_id, not_on_hub
from ..errors import ArgumentError, InputError
from ._guards import label

if TYPE_CHECKING:
    from .base import TokenCompressor

T = TypeVar("T", bound="TokenCompressor")

SCHEMA = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FIELDS = ("schema", "compressor", "tokscale", "config", "dtype", "trained")
PICKLES = ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl")
CONTENT = f"a tokscale compressor folder holds {CONFIG} and {WEIGHTS}"
DOWNLOAD = ("revision", "token", "cache_dir", "force_download", "local_files_only")


def save(
    module: TokenCompressor,
    save_directory: str | os.PathLike[str],
    *,
    config: Any = None,
    repo_id: str | None = None,
    push_to_hub: bool = False,
    model_card_kwargs: dict[str, Any] | None = None,
    **push: Any,
) -> str:
    """Write a compressor's folder; return its path, or the commit's address if it is pushed.

    config.json holds the keywords as they stand now (the current `num_tokens`), the dtype, and `trained` where training
    wrote it; model.safetensors the weights, if there are any; README.md a card, which is left alone if it is there.
    Each file is written aside and then renamed.

    Args:
        module: the compressor.
        save_directory: folder, made if absent.
        config, model_card_kwargs: accepted for `push_to_hub` of the hub's mixin; config.json always holds ours.
        repo_id, push_to_hub, **push: upload it too, as `ModelHubMixin.push_to_hub` takes them.

    Raises:
        ArgumentError: a keyword, or `trained`, is no JSON value.
        InputError: the folder's config.json is something else's.
    """
    folder = Path(save_directory)
    text = _config_text(module)
    ours = _holds_compressor(folder)
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    if state:
        _write_weights(folder / WEIGHTS, state)
    elif ours:
        (folder / WEIGHTS).unlink(missing_ok=True)  # of the compressor that stood here
    _write(folder / CONFIG, text.encode())
    if not (folder / CARD).exists():
        _write(folder / CARD, card(module).encode())
    if push_to_hub:
        return module.push_to_hub(repo_id or folder.name, **push)
    return str(folder)


def load(cls: type[T], folder_or_hub_id: str | os.PathLike[str], **keywords: Any) -> T:
    """Return the compressor of a folder or hub repository, in eval mode and in the dtype it was saved in.

    Args:
        cls: the class to expect; `TokenCompressor` takes whichever the folder names.
        folder_or_hub_id: a local folder, or `owner/name` on the hub.
        keywords: replace those of config.json, such as `num_tokens=8`; and `revision`, `token`, `cache_dir`,
            `force_download`, `local_files_only` for the hub.

    Raises:
        InputError: a file is missing, malformed, of a newer schema or of another class, or does not fit its weights.
        KeywordError: a keyword that the class does not take.
        UnknownCompressorError: no compressor of the folder's name is registered.
    """
    from .registry import keywords_of

    source = os.fspath(folder_or_hub_id)
    download = {key: keywords.pop(key) for key in DOWNLOAD if key in keywords}
    config = _read_config(_file(source, CONFIG, download), source)
    actual = _class_of(cls, config, source)
    taken = keywords_of(actual)
    names = [key for key in taken if key is not None]
    if None not in taken:
        for key in config["config"]:
            if key not in names:
                raise InputError(
                    f"{CONFIG} in {source!r} has the unknown key {key!r}; {label(actual)} takes {', '.join(names)}."
                    f"{suggestion(key, names)}".removesuffix(".")
                )
        for key in keywords:
            if key not in names:
                raise unknown_keyword(label(actual), key, names)
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away: leave the caller's random state alone
        module = actual(**{**config["config"], **keywords})
    if module.state_dict():
        _load_weights(module, _file(source, WEIGHTS, download), source)
    if config.get("trained") is not None:
        module.trained = config["trained"]
        module.check_budget(module.num_tokens)
    return module.eval()


def card(module: TokenCompressor) -> str:
    """Return the text of a model card: what it is, how to load it, what it was trained for, licence and source."""
    trained = module.trained or {}
    summary = (type(module).__doc__ or "").strip().split("\n\n")[0].strip().replace("\n    ", "\n")
    front = ["library_name: tokscale", "license: apache-2.0", "tags: [tokscale, vision-token-compression]"]
    if trained.get("base"):
        front.append(f"base_model: {trained['base']}")
    lines = ["---", *front, "---", "", f"# {label(module)}", "", summary, "", "```python", "import tokscale", ""]
    lines += ['compressor = tokscale.TokenCompressor.from_pretrained("PATH_OR_HUB_ID")']
    lines += ["handle = tokscale.patch(model, compressor)", "```", "", "## Configuration", ""]
    lines += [f"- {key}: `{json.dumps(value, default=str)}`" for key, value in module.config().items()]
    if trained:
        lines += ["", "## Training", ""]
        lines += [f"- {key}: `{json.dumps(value, default=str)}`" for key, value in trained.items()]
        lines += ["", "Budgets between the trained ones work; larger ones are refused."]
    lines += [
        "",
        "## Licence and source",
        "",
        "Apache-2.0. Made with tokscale; the method's source stands in its class.",
    ]
    return "\n".join(lines) + "\n"


def _holds_compressor(folder: Path) -> bool:
    """Whether a compressor stands in the folder; another model's config.json is not written over."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file; save_pretrained writes a folder")
    if not (folder / CONFIG).exists():
        return False
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "compressor" not in found:
        raise InputError(f"{str(folder)!r} holds a {CONFIG} that is not a compressor's; save into a folder of its own")
    return True


def _config_text(module: TokenCompressor) -> str:
    from .. import __version__

    config = module.config()
    for key, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            name = type(module).__name__
            raise ArgumentError(
                f"{name} cannot be saved: its keyword {key!r} is {value!r}, no JSON value. Override {name}.config()"
            ) from error
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "compressor": label(module),
        "tokscale": __version__,
        "config": config,
        "dtype": _dtype(module),
    }
    if module.trained is not None:
        document["trained"] = module.trained
        try:
            json.dumps(module.trained, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"{type(module).__name__} cannot be saved: its attribute 'trained' is {module.trained!r}, no JSON value"
            ) from error
    return json.dumps(document, indent=2) + "\n"


def _dtype(module: TokenCompressor) -> str | None:
    for value in module.state_dict().values():
        if value.is_floating_point():
            return str(value.dtype).removeprefix("torch.")
    return None


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(path)


def _write_weights(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save as to_bytes

    _write(path, to_bytes(state, metadata={"format": "pt"}))


def _file(source: str, name: str, download: dict[str, Any]) -> Path:
    """The path of a folder's file, downloaded if `source` is no folder but may be a hub repository."""
    folder = Path(source)
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        pickles = [pickle for pickle in PICKLES if (folder / pickle).is_file()] if name == WEIGHTS else []
        refused = f". Its {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise InputError(f"no {name} in {source!r}; {CONTENT}{refused}")
    if not is_hub_id(source):
        raise InputError(f"no {name} in {source!r}; {CONTENT}")
    if not download.get("local_files_only"):
        told = {key: download.get(key) for key in ("cache_dir", "token")}
        if (why := not_on_hub(source, name, **told)) is not None:
            raise InputError(f"no {name} in {source!r}; {CONTENT} (no such folder, and {why})")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name, **download))
    except Exception as error:  # offline, unknown repository, malformed name, no access: all end here
        why = f"{type(error).__name__} from the hub"
        raise InputError(f"no {name} in {source!r}; {CONTENT} (no such folder; {why})") from error


def _read_config(path: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{CONFIG} in {source!r} is no JSON: {error}") from error
    if not isinstance(config, dict) or not {"schema", "compressor", "config"} <= config.keys():
        raise InputError(f"{CONFIG} in {source!r} is not a compressor's: it needs schema, compressor and config")
    if not isinstance(config["schema"], int) or config["schema"] > SCHEMA:
        raise InputError(
            f"{CONFIG} in {source!r} has schema {config['schema']}; this tokscale reads schema {SCHEMA}. "
            f"Upgrade tokscale"
        )
    for key in config:
        if key not in FIELDS:
            raise InputError(f"{CONFIG} in {source!r} has the unknown key {key!r}; it takes {', '.join(FIELDS)}")
    if not isinstance(config["config"], dict):
        raise InputError(f"config in {CONFIG} of {source!r} must be an object of keywords, got {config['config']!r}")
    return config


def _class_of(cls: type[T], config: dict[str, Any], source: str) -> type[T]:
    from .base import TokenCompressor
    from .registry import compressor_class

    name = config["compressor"]
    if cls is not TokenCompressor and label(cls) == name:
        return cls
    actual = compressor_class(name)
    if not issubclass(actual, cls):
        raise InputError(
            f"{source!r} holds the compressor {name!r} ({actual.__name__}), not {label(cls)!r}. "
            f"Use TokenCompressor.from_pretrained or {actual.__name__}.from_pretrained"
        )
    return actual


def _load_weights(module: TokenCompressor, path: Path, source: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        # read, not mapped: saving over the file later must not change the weights
        state = from_bytes(path.read_bytes())
    except SafetensorError as error:
        raise InputError(f"{WEIGHTS} in {source!r} cannot be read: {error}") from error
    wanted = module.state_dict()
    for what, keys in (("lacks", wanted.keys() - state.keys()), ("has the unknown", state.keys() - wanted.keys())):
        if keys:
            raise InputError(f"{WEIGHTS} in {source!r} {what} {', '.join(sorted(keys))}")
    for key, value in sorted(state.items()):
        if value.shape != wanted[key].shape:
            raise InputError(
                f"{WEIGHTS} in {source!r}: {key} has shape {tuple(value.shape)}, but this {type(module).__name__} "
                f"needs {tuple(wanted[key].shape)}"
            )
    module.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
