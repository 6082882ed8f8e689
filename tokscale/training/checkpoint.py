"""A resumable training state in a folder: weights and optimiser moments in safetensors, the rest in JSON; no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import ArgumentError, InputError

STATE, MOMENTS, WEIGHTS = "training.json", "training.safetensors", "model.safetensors"


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def save(folder: Path, compressor: Any, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write the state aside and rename it into place, so that an interruption leaves the old or the new one, whole."""
    aside, old = _beside(folder, ".new"), _beside(folder, ".old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    compressor.save_pretrained(aside)
    names = {id(parameter): name for name, parameter in compressor.named_parameters()}
    moments = {
        f"{names[id(parameter)]}:{key}": value.detach().cpu().contiguous().clone()
        for parameter, entry in optimizer.state.items()
        for key, value in entry.items()
    }
    save_file(moments, aside / MOMENTS)
    (aside / STATE).write_text(json.dumps(state, indent=1, allow_nan=False))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find(folder: Path) -> Path | None:
    """Return the folder that holds a finished state: `folder`, or the one put aside if a save was interrupted."""
    for candidate in (folder, _beside(folder, ".old")):
        if (candidate / STATE).is_file():
            return candidate
    return None


def refuse_overwrite(folder: Path) -> None:
    """Raise unless `folder` is free: an earlier run is never lost to a forgotten `resume=True`."""
    if find(folder) is not None:
        raise InputError(f"{folder} already holds a training run; pass resume=True to go on with it, or another folder")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no training run; pass another folder for the checkpoint")


def restore(
    folder: Path, compressor: nn.Module, optimizer: torch.optim.Optimizer, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Load weights and moments into the given objects and return the saved state; refuse a run with other arguments."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{folder / STATE} is not valid JSON ({error})") from error
    saved = state["arguments"]
    differ = [key for key in sorted(arguments) if saved.get(key) != arguments[key]]
    if differ:
        told = ", ".join(f"{key}: {saved.get(key)!r} then, {arguments[key]!r} now" for key in differ)
        raise ArgumentError(
            f"{folder} was trained with other arguments ({told}); pass the same ones, or another folder"
        )
    compressor.load_state_dict(load_file(folder / WEIGHTS))
    moments = load_file(folder / MOMENTS)
    named = dict(compressor.named_parameters())
    for key, value in moments.items():
        name, _, field = key.rpartition(":")
        parameter = named[name]
        moved = value if field == "step" else value.to(parameter.device)
        optimizer.state[parameter][field] = moved
    return state
