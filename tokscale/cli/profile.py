"""`tokscale profile`: measured times, memory and operations of a prompt at several budgets."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArgumentError, InputError
from . import _options, _print


def profile(
    compressor: _options.Compressors,
    budgets: _options.Budgets,
    model: _options.Model = "demo",
    image: Annotated[Path | None, typer.Option(help="Picture of the prompt; the demo model has its own.")] = None,
    prompt: Annotated[str, typer.Option(help="Question of the prompt.")] = "Describe the image.",
    argument: _options.Arguments = None,
    batch_size: Annotated[int, typer.Option(help="Copies of the prompt in a call.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed calls of each variant.")] = 10,
    new_tokens: Annotated[int, typer.Option(help="Tokens of the decoding test; 0 leaves it out.")] = 32,
    out: Annotated[Path | None, typer.Option(help="CSV file of all figures.")] = None,
    device: _options.Device = "cpu",
    dtype: _options.Dtype = "auto",
    attention: _options.Attention = None,
    force: _options.Force = False,
    as_json: _options.AsJson = False,
) -> None:
    """Measure time to the first token, throughput, cache and operations, unpatched and at each budget."""
    from .._checks import positive_int

    _options.check_model(model)
    from .. import profile as profiles

    known = [positive_int(budget, "--budgets: a number of tokens") for budget in _options.read_budgets(budgets)]
    chosen = _options.read_compressors(compressor, _options.read_arguments(argument))
    positive_int(batch_size, "--batch-size"), positive_int(repeats, "--repeats")
    if model != "demo" and image is None:
        raise ArgumentError(f"--model {model} needs --image, the picture of the prompt")
    if image is not None and not image.is_file():
        raise InputError(f"--image {image}: no such file")
    if out is not None:
        _print.fresh(out, force=force, endings=(".csv",))
    loaded, processor = _options.load_model(model, device=device, dtype=dtype, attention=attention)
    inputs, size = _inputs(loaded, processor, model, image, prompt, batch_size)
    found = profiles.profile(
        loaded, chosen, inputs, budgets=known, processor=processor, repeats=repeats, new_tokens=new_tokens,
        image_size=size,
    )  # fmt: skip
    if out is not None:
        buffer = io.StringIO()
        lines = csv.DictWriter(buffer, list(found.rows[0]), lineterminator="\n")
        lines.writeheader()
        lines.writerows(found.rows)
        out.write_text("".join(f"# {k}: {v}\n" for k, v in found.header.items()) + buffer.getvalue(), encoding="utf-8")
        _print.note(f"wrote {out}")
    if as_json:
        _print.document(found.to_dict())
    else:
        _print.out(found.table())


def _inputs(model: Any, processor: Any, name: str, image: Path | None, prompt: str, batch: int) -> tuple[Any, str]:
    if image is None:
        from ..demo import collate, samples

        asked = samples(batch)
        return collate(asked, processor).to(model.device, model.dtype), "x".join(map(str, asked[0].image.size))
    from PIL import Image

    picture = Image.open(image).convert("RGB")
    size = f"{picture.width}x{picture.height}"
    if getattr(processor, "chat_template", None):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        turns = [[{"role": "user", "content": content}]] * batch
        given = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    else:
        text = f"{getattr(processor, 'image_token', '<image>')} {prompt}"
        given = processor(images=[picture] * batch, text=[text] * batch, return_tensors="pt")
    return given.to(model.device, model.dtype), size
