"""The front door: `forward` and `generate` of a patched model, step by step.

Encode the images with the model's own method, compress them, shorten the prompt, and call the original; inside that
call the feature method answers with the compressed features. Where no image can be above the budget, the original runs
at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_right

from ..errors import UnsupportedInputError
from . import caches, positions, prompt, videos
from .features import clone, field_of, repeated
from .host import Host, modalities
from .plan import Plan, all_stay, make_plan, record_all
from .seam import Call, Seam, active, running

if TYPE_CHECKING:
    from .handle import PatchHandle


@torch.compiler.disable
def enter(seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer `forward` or `generate` of a patched model."""
    handle = seam.state
    if active(handle) is not None:
        return seam.original(*args, **kwargs)
    if seam.name == "generate":
        with torch.no_grad():  # the original's own decorator would come too late for the encoding
            return _run(handle, seam, args, kwargs)
    return _run(handle, seam, args, kwargs)


def answer(seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer a method that the model calls on itself while a call is in progress."""
    call = active(seam.state)
    if call is None:
        return seam.original(*args, **kwargs)
    if seam.name == "get_rope_index":
        return positions.answer_rope_index(seam, call, args, kwargs)
    if seam.name == "_get_image_nums_and_video_nums":
        return _count(seam, call, args, kwargs)
    if seam.name == "inputs_merger":
        return _merge(seam, call, args, kwargs)
    if seam.name == "forward":  # a projection that a model's own generate calls in place of get_image_features
        output = call.outputs.get("image")
        return (
            getattr(output, field_of(output)) if call.changed and output is not None else seam.original(*args, **kwargs)
        )
    if call.on_encoded is not None and seam.name == "get_image_features":
        return call.on_encoded(call, seam.original(*args, **kwargs))
    modality = seam.name.removeprefix("get_").removesuffix("_features")
    if (output := call.outputs.get(modality)) is None:
        return seam.original(*args, **kwargs)
    output = clone(output)  # models write into it
    times = _expanded(seam, call, modality, args, kwargs)
    return repeated(output, call.totals[modality], times) if times > 1 else output


def _expanded(seam: Seam, call: Call, modality: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return how many times the caller's pixels are repeated: older versions of `generate` do it for beams."""
    pixels = call.handle._host.pixels
    given = args[0] if args else next((kwargs[p] for p in pixels[modality] if kwargs.get(p) is not None), None)
    before = call.pixels.get(modality)
    return len(given) // before if isinstance(given, Tensor) and before else 1


def _run(handle: PatchHandle, seam: Seam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    host, generating = handle._host, seam.name == "generate"
    named = bind(host.generate_names if generating else host.forward_names, args, kwargs)
    if named is None:
        return seam.original(*args, **kwargs)
    if isinstance(named.get("mm_encoder_outputs"), (Tensor, list, tuple)):
        raise UnsupportedInputError(
            'mm_encoder_outputs must be a dict such as {"image": output}, with the whole output'
        )
    if host.masks and named.get("image_embeds") is not None:
        raise UnsupportedInputError("image_embeds are features already, which patch() cannot shorten; pass the pixels")
    present = modalities(named, host.pixels)
    if not isinstance(ids := named.get("input_ids"), Tensor):
        if present:
            raise UnsupportedInputError("placeholders are found in input_ids; pass input_ids")
        if host.canvas:
            caches.refuse_mask(handle, named, "decoder_attention_mask", _canvas_of(host, named))
        return seam.original(*args, **kwargs)
    cached = caches.length(named)
    if not present:
        shortened = caches.refuse_stale(handle, named, ids, cached)
        if shortened and not generating and (places := positions.continued(host, named, ids, cached)) is not None:
            return seam.original(**{**named, "position_ids": places})
        return seam.original(*args, **kwargs)
    found = {m: host.placeholders(m, named, ids) for m in present if m in host.features}
    masks = {m: mask for m, mask in found.items() if mask is not None}
    if "video" in present:
        videos.place(host, ids, masks)
    named.update({host.masks[m]: mask.to(named[host.masks[m]].dtype) for m, mask in masks.items() if m in host.masks})
    counts = {m: mask.sum(1).tolist() for m, mask in masks.items()}
    masks = {m: mask for m, mask in masks.items() if any(counts[m])}
    if not masks:
        return seam.original(*args, **kwargs)
    if named.get("inputs_embeds") is not None:
        raise UnsupportedInputError("placeholders are found in input_ids; pass input_ids")
    if cached:
        raise caches.kept(cached)
    if not generating and all_stay(handle, named, counts):
        with running(Call(handle, on_encoded=partial(record_all, named, masks, counts))):
            return seam.original(*args, **kwargs)
    encoded = handle._encode(named, list(masks))
    videos.drop_masked(encoded, named)
    plan = make_plan(handle, named, masks, counts, encoded, generating)
    handle.last = plan.last
    taken, call = _arguments(handle, seam, named, plan, encoded, generating)
    if "video" in plan.outputs:
        taken = videos.ready(host, named, taken, plan.outputs["video"])
        if named.get(videos.MASK) is not None:
            call.originals[videos.MASK] = named[videos.MASK]
    if taken is None:  # nothing leaves: the caller's own arguments
        with running(call):
            return seam.original(*args, **kwargs)
    with running(call):
        result = seam.original(**taken)
    if plan.short is not None:
        caches.remember(handle, named, result, plan.short.keep.shape[1], plan.short.index.shape[1])
    if generating and plan.short is not None and not host.encoder_decoder:
        result = prompt.restore(result, ids, plan.short.index.shape[1])
    return result


def bind(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Return all arguments by name, or None for a call that the original will refuse."""
    named = dict(kwargs)
    if len(args) > len(names):
        return None
    for name, value in zip(names, args):
        if name in named:
            return None
        named[name] = value
    if named.get("inputs") is not None:  # generate's name for its first argument; its own generate may mean pixels
        name = "input_ids" if "inputs" in names else "pixel_values"
        if named.get(name) is not None:
            return None
        named[name] = named.pop("inputs")
    return named


def _arguments(
    handle: PatchHandle, seam: Seam, named: dict[str, Any], plan: Plan, encoded: Any, generating: bool
) -> tuple[dict[str, Any] | None, Call]:
    """Return the arguments for the original (None: the caller's own) and the call for the seams."""
    host = handle._host
    call = Call(handle, plan.outputs, totals=plan.totals)
    call.changed = any(output is not encoded[modality] for modality, output in plan.outputs.items())
    for modality in plan.outputs:
        pixels = next((named[p] for p in host.pixels[modality] if named.get(p) is not None), None)
        if isinstance(pixels, Tensor):
            call.pixels[modality] = len(pixels)
    if generating and "image_embeds" in host.generate_names and plan.short is not None:
        _refuse_beams(handle, named, plan.totals["image"])
    given = named.get("mm_encoder_outputs")
    if plan.short is None and given is None:
        return None, call
    taken = dict(named)
    if plan.short is not None:
        pad = handle._pad_and_eos(named)[0] or 0
        taken, originals = prompt.shorten_arguments(named, plan.short, pad=pad, skip=host.skip, real=plan.real)
        call.index, call.lost, call.originals = plan.short.index, plan.short.lost, originals
        if handle._positions == "original" and host.rope is None and named.get("position_ids") is None:
            taken["position_ids"] = positions.counted(plan.short, plan.real)
        if plan.short.padded and host.canvas and not generating and named.get("decoder_attention_mask") is None:
            taken["decoder_attention_mask"] = pad_right(taken["attention_mask"], (0, _canvas_of(host, named)), value=1)
        if generating and not host.encoder_decoder:
            prompt.shorten_lengths(taken, getattr(host.model, "generation_config", None), plan.short.removed)
    if given is not None:
        taken.pop("mm_encoder_outputs")
        missing = [m for m in plan.outputs if not any(named.get(p) is not None for p in host.pixels[m])]
        if missing and "mm_encoder_outputs" not in host.forward_names:
            raise UnsupportedInputError(
                f"{host.model_type} takes no mm_encoder_outputs in this version of transformers; pass the pixels too"
            )
        if missing and len(missing) == len(plan.outputs):
            taken["mm_encoder_outputs"] = {m: clone(out) for m, out in plan.outputs.items()}
        elif missing:
            raise UnsupportedInputError(
                f"mm_encoder_outputs hold only part of this call; pass {' and '.join(plan.outputs)} encoded, or neither"
            )
    return taken, call


def _count(seam: Seam, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Count the images of each row in the prompt that the caller wrote: some originals sum placeholders."""
    named = seam.__signature__.bind(*args, **kwargs).arguments
    long = {name: call.originals[name] for name in ("input_ids", videos.MASK) if name in call.originals}
    return seam.original(**{**named, **long})


def _canvas_of(host: Host, named: dict[str, Any]) -> int:
    """Return the tokens of the canvas that a call denoises."""
    canvas = named.get("decoder_input_ids")
    return int(host.config.canvas_length if canvas is None else canvas.shape[1])


def _refuse_beams(handle: PatchHandle, named: dict[str, Any], totals: list[int]) -> None:
    """Raise where a model's own `generate` repeats features as if each row had as many."""
    if len({total for total in totals if total}) < 2:
        return
    configs = (named.get("generation_config"), getattr(handle.model, "generation_config", None))
    for name in ("num_beams", "num_return_sequences"):
        values = (named.get(name), *(getattr(config, name, None) for config in configs))
        if next((value for value in values if value is not None), 1) > 1:
            raise UnsupportedInputError(
                f"rows keep {totals} image tokens, and under {name} {handle._host.model_type} repeats features as if "
                "each row had as many; let all rows keep as many, or generate row by row"
            )


def _merge(seam: Seam, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Scatter image features into the embeddings; some originals insist on blocks of one size."""
    bound = seam.__signature__.bind(*args, **kwargs).arguments
    ids, embeds, states = bound.get("input_ids"), bound.get("inputs_embeds"), bound.get("image_hidden_states")
    if not call.changed or ids is None or embeds is None or states is None:
        return seam.original(*args, **kwargs)
    mask = (ids == call.handle._host.tokens["image"]).unsqueeze(-1).to(embeds.device)
    flat = states.reshape(-1, states.shape[-1]).to(embeds.device, embeds.dtype)
    if int(mask.sum()) != len(flat):
        raise UnsupportedInputError(
            f"input_ids hold {int(mask.sum())} image placeholders, the model made {len(flat)} image features. Were "
            "placeholders truncated, or generated in an earlier turn?"
        )
    return embeds.masked_scatter(mask, flat)
