"""`patch`: put the front door on one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .._checks import one_of, suggestion, unknown_keyword
from ..compressors import TokenCompressor, create_compressor
from ..compressors.registry import compressor_class, keywords_of
from ..errors import ArgumentError, KeywordError, MissingContextError, PatchError, ShapeError
from . import cross, families, frontdoor
from .attention import NOTED, Recorder
from .compress import Budget, check_budget
from .handle import PatchHandle
from .host import SEAMS, Host, examine, unwrap
from .positions import resolve
from .seam import find, install

COLLECTED = frozenset({"text", "grid", *NOTED})  # context that patch() can give
KEYWORDS = ("num_tokens", "retention_ratio", "allocate", "processor", "positions", "unit", "question")


def patch(
    model: nn.Module,
    compressor: Any,
    *,
    num_tokens: Any = None,
    retention_ratio: float | None = None,
    allocate: str | None = None,
    processor: Any = None,
    positions: str = "auto",
    unit: str = "image",
    question: Callable[[Tensor, Tensor], Tensor] | None = None,
    **options: Any,
) -> PatchHandle:
    """Return a handle on a model that from now on runs at a chosen number of vision tokens per image.

    `forward` and `generate` of this one instance encode the images, compress them and shorten the prompt; everything
    downstream (masks, positions, labels, cache) is as if the processor had written the short prompt. At a budget of at
    least the image's own tokens nothing changes, bit for bit. Logits have the columns of the short prompt
    (`handle.last.shorten(labels, fill=-100)` maps labels to them); stopping criteria, logits processors and streamers
    see it too. `generate` still returns the caller's own ids followed by the new tokens. A model that reads images by
    cross-attention (mllama) keeps its prompt; its language model attends to fewer states.

    Args:
        model: any Hugging Face image-text model, also inside PEFT, torch.compile or data-parallel wrappers.
        compressor: a `TokenCompressor`, or a registered name.
        num_tokens: tokens per image: an int, a list with an int per image of the call, or `f(n, grid) -> int`. Default:
            the compressor's own.
        retention_ratio: instead of `num_tokens`, the share kept in (0, 1]: `max(1, round(retention_ratio * n))`.
        allocate: how the images of a row share `num_tokens` times their number (or the ratio of all their tokens):
            "uniform" fills small images and gives the rest to others, "proportional" goes by size, "content" by how
            unlike an image's tokens are. Default: each image has its own budget.
        processor: the model's processor, for the ids of marker tokens between the tiles of one image.
        positions: "compact" counts the kept tokens anew, "original" leaves each where it was; "auto" is "original" for
            rotary positions of several axes and "compact" elsewhere.
        unit: what gets `num_tokens`: "image" (a video counts as one), "tile", or "frame", a temporal group of a video.
            Models that are given a video in pieces (kimi_k25, minicpmv4_6 and its line) need "frame" for videos.
        question: `f(input_ids_row, is_image_row) -> bool mask` that says what the compressor hears; default the text
            after the image, without special ids and answers.
        options: keywords of a compressor given by name; `dim` and `text_dim` default to the model's.

    Raises:
        UnsupportedModelError: the model has no prompt to shorten, or cannot give the context that the compressor needs.
        PatchError: the model is already patched.
        ShapeError: the compressor was built for another width.
        BudgetError, ArgumentError, KeywordError: an argument is not among what it may be.

    Cost: a pass over `input_ids` and a few synchronisations per call; the compressor's own cost. The images are encoded
    once, as without the patch.

    Example:
        >>> import tokscale
        >>> tokscale.patch(object(), "divprune", num_tokens=4)
        Traceback (most recent call last):
        tokscale.errors.ArgumentError: patch() needs a model (torch.nn.Module), got object
    """
    inner = unwrap(model)
    if (seam := find(inner, SEAMS)) is not None:
        raise PatchError(
            f"this {type(inner).__name__} is already patched (by {seam.state._by()}); call handle.remove() first, or "
            "set handle.num_tokens"
        )
    host = examine(inner)
    one_of("unit", unit, ("image", "tile", "frame"))
    if question is not None and not callable(question):
        raise ArgumentError(
            f"question must be a function of (input_ids_row, is_image_row), got {type(question).__name__}"
        )
    budget, ratio = check_budget(num_tokens, retention_ratio)
    made = _compressor(host, compressor, budget, ratio, options)
    handle = PatchHandle(host, made)
    handle._positions = resolve(host, positions)
    handle._unit, handle._question = _unit(host, unit), question
    handle._join = families.join_of(host.model_type, processor)
    needs = frozenset(made.needs)
    if unmet := sorted(needs - COLLECTED):
        raise MissingContextError(
            f"{type(made).__name__} needs {' and '.join(unmet)}, which patch() does not collect (it gives "
            f"{', '.join(sorted(COLLECTED))}); choose a method that needs none"
        )
    handle._recorder = Recorder.find(host, made)
    rule: Any = frontdoor if host.reader is None else cross
    try:
        for owner, name in host.owners:
            front = rule.enter if owner is inner and name in ("forward", "generate") else rule.answer
            handle._installed.append(install(owner, name, handle, front))
        if budget is not None:
            handle.num_tokens = budget
        handle._ratio = ratio
        handle.allocate = allocate
    except BaseException:
        handle.remove()
        raise
    return handle


def _compressor(host: Host, compressor: Any, budget: Budget, ratio: float | None, options: dict[str, Any]) -> Any:
    """Return the compressor module, made from a name or given, after checking its widths."""
    weight = next(p for p in host.model.parameters() if p.is_floating_point())  # quantised weights are integers
    if isinstance(compressor, str):
        accepts = keywords_of(compressor_class(compressor))
        for key in options if None not in accepts else ():
            if key not in accepts:
                raise unknown_keyword(compressor, key, dict.fromkeys((*(n for n in accepts if n), *KEYWORDS)))
        if budget is None and ratio is None:
            raise ArgumentError(f'"{compressor}" is given by name: pass num_tokens or retention_ratio with it')
        for name, width in (("dim", host.dim), ("text_dim", host.text_dim)):
            if name in accepts and options.get(name) is None:
                options = {**options, name: width}
        if "num_queries" in accepts and options.get("num_queries") is None and not isinstance(budget, (int, list)):
            raise ArgumentError(f'"{compressor}" learns queries: beside a ratio or a function, pass num_queries=')
        first: int = max(budget) if isinstance(budget, list) else budget if isinstance(budget, int) else 1
        made = create_compressor(compressor, num_tokens=first, **options)
        made.to(device=weight.device, dtype=weight.dtype).train(host.model.training)
    else:
        if not isinstance(compressor, TokenCompressor):
            what = f"the class {compressor.__name__}" if isinstance(compressor, type) else type(compressor).__name__
            raise ArgumentError(f"compressor must be a registered name or a TokenCompressor instance, got {what}")
        if options:
            raise KeywordError(
                f"{', '.join(sorted(options))}: keywords are for a compressor given by name; this "
                f"{type(compressor).__name__} is already built{_meant(options)}"
            )
        made = compressor
    name = type(made).__name__
    for attribute, verb in (("dim", "was built for"), ("out_dim", "returns tokens of")):
        size = getattr(made, attribute, None)
        if isinstance(size, int) and size != host.dim:
            raise ShapeError(
                f"{name} {verb} {attribute}={size}, the vision tokens of this {host.model_type} have {host.dim}"
            )
    if "text" in frozenset(made.needs) | frozenset(made.uses):
        size = getattr(made, "text_dim", None)
        if isinstance(size, int) and size != host.text_dim:
            raise ShapeError(
                f"{name} was built for text_dim={size}, the text tokens of this {host.model_type} have {host.text_dim}"
            )
    return made


def _meant(options: dict[str, Any]) -> str:
    """Return a suggestion where an unknown keyword is near one of patch()."""
    found = next((near for key in sorted(options) if (near := suggestion(key, KEYWORDS))), "")
    return f".{found}" if found else ""


def _unit(host: Host, unit: str) -> str:
    if unit == "tile" and host.model_type not in families.CUT_AT_RUNS and host.reader is None:
        raise ArgumentError(f'unit="tile": no run of placeholders of {host.model_type} is a tile; use unit="image"')
    if unit == "frame" and "video" not in host.features:
        raise ArgumentError(f'unit="frame": {host.model_type} takes no videos of its own; use unit="image"')
    return unit
