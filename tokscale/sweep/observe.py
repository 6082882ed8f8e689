"""What a model really did while somebody else called it, read by hooks that change nothing: prompts, images, tokens."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import nn


def decoder_of(model: Any) -> nn.Module | None:
    """Return the language model inside a Hugging Face model, or None where it has none of its own."""
    getter = getattr(model, "get_decoder", None)
    decoder = getter() if callable(getter) else None
    return decoder if isinstance(decoder, nn.Module) and decoder is not model else None


def vision_parts(model: Any) -> list[nn.Module]:
    """Return the modules that make image features (tower, projector): the decoder's siblings."""
    decoder = decoder_of(model)
    owners = [m for m in model.modules() if callable(getattr(type(m), "get_image_features", None))]
    if not owners and hasattr(model.config, "vision_config"):  # read by cross-attention
        owners = [m for m in model.modules() if decoder in m.children()]
    if decoder is None or not owners:
        return []
    inside = set(decoder.modules())
    return [part for part in owners[-1].children() if part not in inside and decoder not in part.modules()]


class Observer:
    """Counts the prompts, images and vision tokens of all calls of `model` inside a `with` block.

    Under a handle, `most` is the largest number of tokens that one image kept.

    Args:
        model: a Hugging Face model, patched or not.
        handle: its `PatchHandle`, or None for the unpatched model.
    """

    def __init__(self, model: Any, handle: Any = None) -> None:
        self.model, self.handle = model, handle
        self.prompts = self.prompt_tokens = self.images = self.before = self.kept = self.most = 0
        self.compress_ms: list[float] = []
        self._unknown_images = False
        self._last = None if handle is None else handle.last
        self._hooks: list[Any] = []

    def __enter__(self) -> Observer:
        decoder = decoder_of(self.model)
        if decoder is not None:
            self._hooks.append(decoder.register_forward_pre_hook(self._saw_prompt, with_kwargs=True))
        if self.handle is None:
            self._hooks.append(self.model.register_forward_pre_hook(self._saw_placeholders, with_kwargs=True))
        else:
            self._hooks.append(self.model.register_forward_hook(lambda *_: self._saw_call()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        if self.handle is not None:
            self._saw_call()  # a call that did not pass through the model's `__call__`, such as the last `generate`

    def columns(self) -> dict[str, float | int | None]:
        """Return the columns of a sweep's table that were observed, None where nothing was."""
        images = 0 if self._unknown_images else self.images
        return {
            "images": images or None,
            "native_tokens": self.before / images if images else None,
            "num_tokens_kept": self.kept / images if images else None,
            "mean_tokens": self.kept / images if images else None,
            "prompt_tokens": self.prompt_tokens / self.prompts if self.prompts else None,
            "compress_ms": sum(self.compress_ms) / len(self.compress_ms) if self.compress_ms else None,
        }

    @property
    def images_per_prompt(self) -> float | None:
        return self.images / self.prompts if self.prompts and self.images and not self._unknown_images else None

    def _saw_prompt(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        embedded = kwargs.get("inputs_embeds")
        given = embedded if embedded is not None else kwargs.get("input_ids", args[0] if args else None)
        if given is None or given.shape[1] == 1:  # one token: a decode step
            return
        mask = kwargs.get("attention_mask")
        self.prompts += given.shape[0]
        if isinstance(mask, torch.Tensor) and mask.shape == given.shape[:2]:
            self.prompt_tokens += int(mask.sum())
        else:
            self.prompt_tokens += given.shape[0] * given.shape[1]

    def _saw_call(self) -> None:
        last = self.handle.last
        if last is None or last is self._last:
            return
        self._last = last
        self.images += len(last.images)
        self.before += sum(image.n for image in last.images)
        self.kept += sum(image.k for image in last.images)
        self.most = max((self.most, *(image.k for image in last.images)))
        self.compress_ms.append(float(last.milliseconds))

    def _saw_placeholders(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids, config = kwargs.get("input_ids", args[0] if args else None), getattr(module, "config", None)
        image_id = getattr(config, "image_token_id", None)
        if ids is None or image_id is None or ids.shape[1] == 1:
            return
        tokens = int((ids == image_id).sum())
        if tokens == 0:
            return
        grids, per_image = kwargs.get("image_grid_thw"), _tokens_per_image(config)
        if grids is not None:
            images = len(grids)
        elif per_image and tokens % per_image == 0:
            images = tokens // per_image
        else:  # how placeholders divide into images is the patcher's knowledge: better empty than wrong
            self._unknown_images = True
            return
        self.images += images
        self.before += tokens
        self.kept += tokens


def _tokens_per_image(config: Any) -> int | None:
    for owner in (config, getattr(config, "text_config", None)):
        for field in ("image_seq_length", "mm_tokens_per_image", "num_image_tokens"):
            if isinstance(getattr(owner, field, None), int):
                return getattr(owner, field)
    return None
