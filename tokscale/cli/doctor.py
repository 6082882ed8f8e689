"""`tokscale doctor`: what is installed, what it can do, and whether the contract of `patch` holds on a model."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated, Any

import typer

from . import _options, _print

EXTRAS = ("matplotlib", "scipy", "jinja2", "accelerate", "peft", "torchvision", "lmms-eval", "gradio")


def doctor(
    model: Annotated[
        str | None, typer.Option(help="A folder with a config.json, a hub id, or `demo`: check the contract on it.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Read the configuration alone and check a shrunk random model of that type.")
    ] = False,
    as_json: _options.AsJson = False,
) -> None:
    """Say what is installed, which operators run where, and whether `patch` keeps its contract on a model.

    The checks run on images and text made up for the model. Exit code 1 means that one of them fails.
    """
    checks = _environment()
    ok = True
    if model is not None:
        found = _model(model, tiny)
        checks += found["checks"]
        ok = found["ok"]
    if as_json:
        _print.document({"schema": 1, "ok": ok, "checks": checks})
    else:
        _print.table(["check", "status", "detail"], [[c["name"], c["status"], c["detail"]] for c in checks])
    if not ok:
        raise typer.Exit(1)


def _environment() -> list[dict[str, str]]:
    import torch

    from .._provenance import versions

    rows = [_row("python", "ok", sys.version.split()[0])]
    for name, version in versions().items():
        rows.append(_row(name, "ok" if version else "skipped", version or "not installed"))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(_row("device", "ok", ", ".join(devices) or f"CPU, {torch.get_num_threads()} threads"))
    rows.append(_triton())
    for name in EXTRAS:
        try:
            rows.append(_row(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_row(name, "skipped", "not installed"))
    return rows


def _triton() -> dict[str, str]:
    import torch

    from ..errors import TokscaleError
    from ..ops import attention_importance

    query = torch.zeros(1, 1, 1, 8, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        attention_importance(query, query, backend="triton")
    except TokscaleError as error:
        return _row("triton kernels", "skipped", str(error))
    return _row("triton kernels", "ok", "")


def _model(name: str, tiny: bool) -> dict[str, Any]:
    from ..hf import check_model

    if name == "demo":
        from .. import demo

        return check_model(demo.load()[0], tiny=tiny, log=_print.note)
    if tiny:
        from ..hf.load import load_config

        return check_model(load_config(name), log=_print.note)
    from ..hf.load import load_model

    return check_model(load_model(name, processor_required=False)[0], tiny=False, log=_print.note)


def _row(name: str, status: str, detail: str) -> dict[str, str]:
    return {"name": name, "status": status, "detail": detail}
