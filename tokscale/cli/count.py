"""`tokscale count`: what pictures cost in vision tokens, operations and cache, before any weights are loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArgumentError, InputError, UnsupportedModelError
from . import _options, _print

_SHOWN = ("native_tokens", "num_tokens", "prefill_tflop", "kv_cache_mib")


def count(
    image: Annotated[list[Path] | None, typer.Argument(help="Pictures; only their sizes are read.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Size of a picture in pixels. Repeatable.", metavar="WxH")
    ] = None,
    model: _options.Model = "demo",
    num_tokens: Annotated[int | None, typer.Option(help="Vision tokens per picture under `tokscale.patch`.")] = None,
    as_json: _options.AsJson = False,
) -> None:
    """Count the vision tokens of pictures, and what a prefill over them and their cache cost; no weights are loaded."""
    from .._checks import positive_int

    _options.check_model(model)
    sources = [(str(path), _size_of(path)) for path in image or ()]
    sources += [(text, _size(text)) for text in size or ()]
    if not sources:
        raise ArgumentError("count needs pictures, or their sizes: --size 1920x1080")
    if num_tokens is not None:
        positive_int(num_tokens, "--num-tokens")
    from ..hf.count import vision_token_count

    config, processor = _describe(model, [wanted for _, wanted in sources])
    counts = vision_token_count(processor, [wanted for _, wanted in sources])
    dtype_bytes = _dtype_bytes(config)
    images = []
    for (source, (width, height)), native in zip(sources, counts):
        kept = None if num_tokens is None else min(num_tokens, native)
        costs = _costs(config, native if kept is None else kept, dtype_bytes)
        images.append({"source": source, "width": width, "height": height, "native_tokens": native,
                       "num_tokens": kept, **costs})  # fmt: skip
    native = sum(counts)
    kept = None if num_tokens is None else sum(min(num_tokens, n) for n in counts)
    costs = _costs(config, native if kept is None else kept, dtype_bytes)
    total = {"native_tokens": native, "num_tokens": kept, **costs}
    if None in costs.values():
        _print.note(f"prefill_tflop, kv_cache_mib: {_why_no_cost(config)}")
    if as_json:
        _print.document({"schema": 1, "images": images, "total": total})
        return
    shown = [name for name in _SHOWN if total[name] is not None]
    rows = [[entry["source"], f"{entry['width']}x{entry['height']}", *(entry[n] for n in shown)] for entry in images]
    if len(images) > 1:
        rows.append(["in one prompt", None, *(total[name] for name in shown)])
    _print.table(("picture", "size", *shown), rows)
    if "kv_cache_mib" in shown:
        _print.note(f"prefill and cache of these vision tokens alone, without the text; {dtype_bytes} bytes a number")


def _describe(name: str, sizes: list[tuple[int, int]]) -> tuple[Any, Any]:
    """Return the configuration and the processor of a model."""
    from ..hf.load import load_config, load_processor

    if name != "demo":
        config = load_config(name)
        return config, load_processor(config._name_or_path)
    from ..demo.model import FOLDER

    config = load_config(FOLDER)
    side = config.vision_config.image_size
    for width, height in sizes:
        if (width, height) != (side, side):
            raise InputError(
                f"the demo model reads pictures of {side}x{side} only, got {width}x{height}; name another by --model"
            )
    return config, load_processor(FOLDER)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[xX](\d+)", text.strip())
    if found is None or 0 in (width_height := (int(found[1]), int(found[2]))):
        raise ArgumentError(f"--size {text}: expected WIDTHxHEIGHT in pixels, such as 1920x1080")
    return width_height


def _size_of(path: Path) -> tuple[int, int]:
    from .._checks import require

    pictures = require("PIL.Image", extra="demo", what="tokscale count IMAGE")
    if not path.is_file():
        raise InputError(f"{path} is a folder; name a picture" if path.is_dir() else f"{path}: no such file")
    try:
        with pictures.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(0x0112, 1) >= 5  # the camera lay on its side: it is loaded upright
    except OSError as error:
        raise InputError(f"{path} is no picture that can be read: {' '.join(str(error).split())}") from error
    return (height, width) if turned else (width, height)


def _costs(config: Any, tokens: int, dtype_bytes: int) -> dict[str, float | None]:
    """Return the closed forms for a prompt of these vision tokens alone, None where the decoder has none."""
    from .. import cost

    try:
        flops = cost.prefill_flops(config, tokens)
        cache = cost.kv_cache_bytes(config, tokens, dtype_bytes=dtype_bytes)
    except UnsupportedModelError:
        return {"prefill_tflop": None, "kv_cache_mib": None}
    return {"prefill_tflop": flops / 1e12, "kv_cache_mib": cache / 2**20}


def _why_no_cost(config: Any) -> str:
    from .. import cost

    try:
        cost.decoder_sizes(config)
    except UnsupportedModelError as error:
        return str(error)
    return ""


def _dtype_bytes(config: Any) -> int:
    """Return the bytes per number of the checkpoint's own dtype, 2 where it names none."""
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return int(getattr(dtype, "itemsize", 2))
