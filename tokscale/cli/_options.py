"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArgumentError, InputError

Model = Annotated[str, typer.Option(help="A folder, a hub id, or `demo` for the packaged model.")]
Compressors = Annotated[
    list[str], typer.Option("--compressor", help="A registered name or the folder of a saved one. Repeatable.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", help="KEY=JSON, a keyword of the compressors. Repeatable.", metavar="KEY=JSON"),
]
Budgets = Annotated[str, typer.Option(help="Tokens per image, or shares of them: 1,4,16 or 0.1,0.25.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Attention = Annotated[str | None, typer.Option("--attn", help="Attention backend, such as sdpa.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


def read_budgets(text: str) -> list[float]:
    """Return `1,4,0.5` as [1, 4, 0.5]: whole numbers are tokens, the others shares of them."""
    from ..sweep.plan import check_budget

    found: list[float] = []
    if len(words := text.split()) > 1 and "," not in text:
        raise ArgumentError(f"--budgets {text}: separate budgets by commas: --budgets {','.join(words)}")
    for part in text.split(","):
        try:
            found.append(int(part))
        except ValueError:
            try:
                found.append(float(part))
            except ValueError:
                raise ArgumentError(f"--budgets {text}: {part.strip()!r} is no number of tokens") from None
    return [check_budget(budget) for budget in found]


def read_arguments(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return `KEY=JSON` pairs as a dict; a value that is no JSON is a string."""
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ArgumentError(f"--arg {pair}: expected KEY=JSON")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text
    return found


def read_compressors(names: Sequence[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return {label: compressor} for names and folders, checked: known, and taking the keywords."""
    from .._checks import unknown_keyword
    from ..compressors import TokenCompressor, list_compressors
    from ..compressors.registry import compressor_class, keywords_of

    found: dict[str, Any] = {}
    for name in names:
        label = name
        if "," in name and not Path(name).is_dir():
            repeated = " ".join(f"--compressor {part.strip()}" for part in name.split(",") if part.strip())
            raise ArgumentError(f"--compressor {name} is one name; repeat --compressor: {repeated}")
        if name not in list_compressors() and Path(name).is_dir():
            label = Path(name).resolve().name
            found_here: Any = TokenCompressor.from_pretrained(name)
            if arguments:
                raise ArgumentError(f"--arg goes with a registered name; {name} is a saved compressor with its own")
        else:
            taken = keywords_of(compressor_class(name))
            for key in arguments:
                if key not in taken and None not in taken:
                    raise unknown_keyword(name, key, [known for known in taken if known is not None])
            found_here = (name, arguments)
        if label in found:
            raise ArgumentError(f"--compressor {label} is given twice")
        found[label] = found_here
    return found


def read_function(text: str) -> Callable[..., Any]:
    """Return the function that `pkg.mod:name` names; the current folder can be imported from."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ArgumentError(f"--evaluate {text}: expected MODULE:FUNCTION, such as mytask:evaluate")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"--evaluate {text}: importing {module} failed: {error}") from error
        raise InputError(f"--evaluate {text}: there is no module {module} here or among the installed ones") from None
    function = getattr(found, name, None)
    if not callable(function):
        raise InputError(f"--evaluate {text}: {module} has no function {name}")
    return function


def check_model(name: str) -> None:
    """Raise if a model cannot be meant by this name, before anything heavy is imported."""
    from .._hub import model_source

    if name != "demo":
        model_source(name)


def load_model(name: str, *, device: str, dtype: str, attention: str | None, processor: bool = True) -> tuple[Any, Any]:
    """Return model and processor of the packaged demo, a folder or a hub id, in eval mode.

    Without `processor` a model that has none is loaded all the same, and None stands in its place.
    """
    import torch

    from .._checks import one_of

    wanted = None if dtype == "auto" else getattr(torch, one_of("dtype", dtype, ("float32", "bfloat16", "float16")))
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: PyTorch {torch.__version__} sees no GPU here; pass --device cpu")
    if name != "demo":
        from ..hf.load import load_model as load

        return load(name, device=device, dtype=wanted or "auto", attn=attention or "sdpa", processor_required=processor)
    from .. import demo

    model, own = demo.load(device=device, dtype=wanted or torch.float32)
    if attention is not None:
        model.set_attn_implementation(attention)
    return model, own


def share(value: float, option: str = "--retain") -> float:
    """Return a share of the score in (0, 1), or raise in the option's own words."""
    if not 0 < value < 1:
        hint = f"; did you mean {value / 100:g}?" if 1 < value < 100 else ""
        raise ArgumentError(f"{option} {value:g} must lie in (0, 1){hint}")
    return value
