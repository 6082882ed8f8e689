"""Key-value caches of shortened prompts, remembered so that a call that mixes one with long ids or masks raises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import UnsupportedInputError

if TYPE_CHECKING:
    from .handle import PatchHandle


def given(named: dict[str, Any]) -> Any:
    """Return the cache among the arguments of a call, under its present or its earlier name, or None."""
    cache = named.get("cache")
    return named.get("past_key_values") if cache is None else cache


def length(named: dict[str, Any]) -> int:
    """Return how many tokens the cache among the arguments holds."""
    cache = given(named)
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except (ValueError, NotImplementedError):  # no layer of it counts tokens
            return 0
    return int(cache[0][0].shape[-2]) if len(cache) else 0


def remember(handle: PatchHandle, named: dict[str, Any], result: Any, long: int, short: int) -> None:
    """Note that the cache of a call, handed in or returned, holds `short` columns of a prompt of `long`."""
    held = getattr(result, "__dict__", {})
    found = [given(named), held.get("cache"), held.get("past_key_values")]
    if isinstance(result, tuple):
        found += result
    for cache in found:
        if hasattr(cache, "get_seq_length"):
            handle._caches[cache] = (long, short)


def refuse_stale(handle: PatchHandle, named: dict[str, Any], ids: Tensor, cached: int) -> bool:
    """Return whether a call without pixels goes on from a shortened prompt; raise if with its long ids or mask."""
    width, host = ids.shape[1], handle._host
    if not cached or _sizes(handle, named) is None:
        return False
    masks = [host.placeholders(modality, named, ids) for modality in (*host.tokens, *host.masks)]
    if width > 1 and any(mask is not None and bool(mask.any()) for mask in masks):
        raise kept(cached)
    refuse_mask(handle, named, "attention_mask", width)
    return True


def refuse_mask(handle: PatchHandle, named: dict[str, Any], name: str, width: int) -> None:
    """Raise if the mask of a call that goes on from a shortened prompt has the columns of the long one."""
    mask, cached, sizes = named.get(name), length(named), _sizes(handle, named)
    if cached and sizes and isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > cached + width:
        ids = name.replace("attention_mask", "input_ids")
        raise UnsupportedInputError(
            f"{name} has {mask.shape[1]} columns, the cache holds {cached} tokens and {ids} {width}: the "
            f"prompt was shortened from {sizes[0]} to {sizes[1]}. Pass handle.last.shorten(attention_mask) of the call "
            "with the images, and a column of ones for each new token"
        )


def _sizes(handle: PatchHandle, named: dict[str, Any]) -> tuple[int, int] | None:
    """Return the columns of the long and the short prompt that the cache of a call may hold, None for neither."""
    cache, last = given(named), handle.last
    sizes = handle._caches.get(cache) if hasattr(cache, "get_seq_length") else None
    if sizes is None and last is not None and last.index is not None:  # perhaps a copy of the last call's cache
        sizes = last.keep.shape[1], last.index.shape[1]
    return sizes


def kept(cached: int) -> UnsupportedInputError:
    """Return the error for a cache in a call with images."""
    return UnsupportedInputError(
        f"a cache of {cached} tokens and images in one call: a compressed prompt cannot be continued with its long "
        "ids. Pass the whole conversation without a cache"
    )
