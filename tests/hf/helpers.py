"""What the tests of `tokscale.patch` share: two compressors, three references and greedy loops.

None of it uses `tokscale.hf`. The references say what a patched model must compute, from an unpatched one:

* `reference`: run the model up to its language model, take all arguments of that call, gather them at the kept columns.
* `short_prompt`: write the short prompt as a processor would, and pass ready features (`ready`).
* `recomputed`: greedy decoding without a cache, one whole forward call per token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.hf.versions import cache_of, encodes_first, with_cache
from tests.tiny_models import SPECIAL, Family, Prompt, module
from tokscale import Compressed, TokenCompressor

K = 3
CLOSE = 2e-6  # see test_contract.py
ONE: list[list[Any]] = [[3, "image", 4]]
TWO: list[list[Any]] = [[2, "image", 3, "image", 2]]
ROWS = TWO
RAGGED: list[list[Any]] = [[2, "image", 5, "image", 2], [3, "image", 4]]
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": SPECIAL}


class ByNorm(TokenCompressor):
    """Keeps the tokens of largest norm; `calls` counts the images seen, `seen` their contexts."""

    def __init__(self, num_tokens: int = 3) -> None:
        super().__init__(num_tokens)
        self.calls = 0

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.calls += len(vision_tokens)
        k = self.output_length(vision_tokens.shape[1])
        order = vision_tokens.detach().norm(dim=-1).sort(dim=-1, descending=True, stable=True).indices
        index = order[:, :k].sort(-1).values
        return Compressed(vision_tokens.gather(1, index[..., None].expand(-1, -1, vision_tokens.shape[-1])), index)


class Listed(TokenCompressor):
    """Keeps the positions it is given, in every image."""

    def __init__(self, index: list[int]) -> None:
        super().__init__(len(index))
        self.index = torch.tensor(index)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        return Compressed(vision_tokens[:, self.index], self.index.expand(len(vision_tokens), -1))


class Mixer(TokenCompressor):
    """Trainable: each output is a softmax average of all tokens; anchors are spread evenly."""

    trainable = True
    mixture = True

    def __init__(self, num_tokens: int = 3, dim: int = 64) -> None:
        super().__init__(num_tokens)
        generator = torch.Generator().manual_seed(5)
        self.queries = nn.Parameter(torch.randn(32, dim, generator=generator, dtype=torch.float64))
        self.calls = 0

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.calls += len(vision_tokens)
        n = vision_tokens.shape[1]
        k = self.output_length(n)
        assignment = (self.queries[:k] @ vision_tokens.transpose(1, 2)).softmax(-1)  # b k n
        positions = (torch.arange(k) * n // k).expand(len(vision_tokens), -1)
        return Compressed(assignment @ vision_tokens, positions, assignment)


COMPRESSORS = {"selector": ByNorm, "mixture": Mixer}


def close(a: Tensor, b: Tensor, tolerance: float = CLOSE) -> None:
    """Assert that two tensors differ by at most `tolerance` anywhere."""
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def forget(model: nn.Module) -> None:
    """Reset what M-RoPE models remember of the call before, so that calls can be compared."""
    for part in model.modules():
        if hasattr(part, "rope_deltas"):
            part.rope_deltas = None


def forward(model: nn.Module, inputs: dict[str, Any], **more: Any) -> Any:
    """A forward call without gradients and without a memory of the call before."""
    forget(model)
    with torch.no_grad():
        return model(**inputs, **more)


def generate(model: Any, inputs: dict[str, Any], **more: Any) -> Any:
    """Greedy generation of six ordinary ids (or as asked), without a memory of the call before."""
    forget(model)
    return model.generate(**inputs, **{**GREEDY, **more})


def captured(family: Family, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """All arguments with which the unpatched model calls its language model."""
    held: dict[str, Any] = {}

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert not args
        held.update(kwargs)

    handle = module(model, family.language_model).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        forget(model)
        model(**inputs)
    finally:
        handle.remove()
    return held


def gathered(value: Any, index: Tensor, width: int) -> Any:
    """An argument of the language model at the kept columns `index` (b, k); what has no columns stays."""
    if isinstance(value, dict):
        return {key: gathered(each, index, width) for key, each in value.items()}
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4:  # b 1 q k: an attention mask, cut on both sides
        rows = index[:, None, :, None].expand(-1, value.shape[1], -1, value.shape[3])
        columns = index[:, None, None, :].expand(-1, value.shape[1], index.shape[1], -1)
        return value.gather(2, rows).gather(3, columns)
    if value.ndim == 3 and value.shape[-1] != width:  # b s d
        return value.gather(1, index[..., None].expand(-1, -1, value.shape[-1]))
    return value.gather(-1, index.expand(*value.shape[:-1], -1))  # b s, or axes b s


def shortened(compressor: Any, tokens: Tensor) -> Compressed:
    """What is left of one image; one that fits the budget stays as it is, for a mixture too."""
    n = tokens.shape[1]
    if isinstance(compressor, TokenCompressor) and compressor.output_length(n) == n:
        return Compressed(tokens, torch.arange(n)[None])
    return compressor.compress(tokens)


@dataclass
class Expected:
    """What a patched forward call must give: `logits` (b, S', vocab), `keep` (b, S), `positions` per row and image."""

    logits: Tensor
    keep: Tensor
    positions: list[list[Tensor]]

    def loss(self, labels: Tensor) -> Tensor:
        """The cross-entropy of the kept columns, each from the column before it, in float32 as transformers does it."""
        kept = labels[self.keep].view(len(labels), -1)
        return F.cross_entropy(self.logits[:, :-1].flatten(0, 1).float(), kept[:, 1:].flatten(), ignore_index=-100)


def reference(
    family: Family, model: Any, batch: Prompt, compressor: TokenCompressor, *, original: bool = False
) -> Expected:
    """The language model on the gathered arguments, with the images' embeddings compressed; rows must keep alike."""
    arguments = captured(family, model, batch.inputs)
    embeds, width = arguments["inputs_embeds"], batch.ids.shape[1]
    keep = torch.ones(batch.ids.shape, dtype=torch.bool)
    written, positions = embeds.clone(), []
    for row, images in enumerate(batch.images):
        positions.append([])
        for columns in images:
            where = torch.tensor(columns)
            short = shortened(compressor, embeds[row, where][None])
            kept = where[short.positions[0]]
            keep[row, where] = False
            keep[row, kept] = True
            written[row, kept] = short.tokens[0]
            positions[-1].append(short.positions[0])
    index = keep.nonzero()[:, 1].view(len(keep), -1)
    call = {key: gathered(value, index, width) for key, value in arguments.items()}
    call["inputs_embeds"] = gathered(written, index, -1)
    call |= with_cache(module(model, family.language_model), None)
    if original and not family.mrope:
        mask = batch.inputs["attention_mask"]
        call["position_ids"] = gathered((mask.cumsum(-1) - 1).clamp(min=0), index, width)
    hidden = module(model, family.language_model)(**call)[0]
    return Expected(model.get_output_embeddings()(hidden), keep, positions)


def short_prompt(family: Family, model: Any, batch: Prompt, compressor: TokenCompressor) -> dict[str, Any]:
    """Inputs as if a processor had written the short prompt, for the unpatched model; rows must keep alike."""
    forget(model)
    with torch.no_grad():
        embeds = captured(family, model, batch.inputs)["inputs_embeds"]
        keep = torch.ones(batch.ids.shape, dtype=torch.bool)
        entries = []
        for row, images in enumerate(batch.images):
            for columns in images:
                where = torch.tensor(columns)
                short = shortened(compressor, embeds[row, where][None])
                keep[row, where] = False
                keep[row, where[short.positions[0]]] = True
                entries.append(short.tokens[0])
    features: Any = torch.cat(entries)[None] if family.container == "stacked" else entries
    inputs = {k: v[keep].view(len(keep), -1) for k, v in batch.inputs.items() if v.shape == batch.ids.shape}
    if family.mrope:
        grid = batch.inputs["image_grid_thw"]
        types, mask = batch.inputs["mm_token_type_ids"], batch.inputs["attention_mask"]
        axes, _ = model.model.get_rope_index(batch.ids, types, image_grid_thw=grid, attention_mask=mask)
        inputs["position_ids"] = axes[:, keep].view(len(axes), len(keep), -1)
    inputs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=features)}
    return inputs


@contextlib.contextmanager
def ready(model: nn.Module, short: dict[str, Any], batch: Prompt) -> Iterator[dict[str, Any]]:
    """What `short_prompt` made of a batch of one row, as this model takes it.

    A model that takes no features ready made is given the pixels; its own method then answers with the features.
    """
    if encodes_first(model):
        yield {**short, "mm_encoder_outputs": dict(short["mm_encoder_outputs"])}  # generate writes into it
        return
    features = torch.cat([each.flatten(0, -2) for each in short["mm_encoder_outputs"]["image"].pooler_output])
    owner = [part for part in model.modules() if hasattr(type(part), "get_image_features")][-1]
    own = owner.get_image_features

    def answer(pixel_values: Tensor, *args: Any, **more: Any) -> BaseModelOutputWithPooling:
        stacked = isinstance(own(pixel_values, *args, **more).pooler_output, Tensor)
        again = [features] * (len(pixel_values) // len(batch.inputs["pixel_values"]))  # repeated for beams
        return BaseModelOutputWithPooling(pooler_output=torch.stack(again) if stacked else again)

    owner.__dict__["get_image_features"] = answer
    try:
        yield {**batch.inputs, **{k: v for k, v in short.items() if k != "mm_encoder_outputs"}}
    finally:
        del owner.__dict__["get_image_features"]


def continued(family: Family, inputs: dict[str, Any], token: Tensor) -> dict[str, Any]:
    """The inputs with one more text id per row."""
    more = dict(inputs)
    more["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
    if "attention_mask" in inputs:
        more["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(token)], 1)
    if family.types:
        more[family.types] = torch.cat([inputs[family.types], torch.zeros_like(token)], 1)
    if (mask := inputs.get("cross_attention_mask")) is not None:
        more["cross_attention_mask"] = torch.cat([mask, mask[:, -1:]], 1)
    return more


def pick(logits: Tensor) -> Tensor:
    """The greedy next id, (b, 1), among ordinary ids."""
    scores = logits[:, -1].clone()
    scores[:, SPECIAL] = -torch.inf
    return scores.argmax(-1, keepdim=True)


def recomputed(family: Family, model: Any, inputs: dict[str, Any], steps: int = 6) -> Tensor:
    """Greedy ids by a whole forward call per step, no cache."""
    for _ in range(steps):
        inputs = continued(family, inputs, pick(forward(model, inputs, use_cache=False).logits))
    return inputs["input_ids"]


def own_loop(model: Any, inputs: dict[str, Any], masks: Any = None, steps: int = 6) -> Tensor:
    """Greedy ids by the caller's own loop: one forward call with the prompt, then one id at a time with the cache.

    `masks(output)` gives the short attention mask of the prompt, to which columns of ones are added; without it the
    later calls pass no mask. M-RoPE models take no mask that is longer than the new ids unless they are told the
    positions (unpatched too): the caller counts real tokens and adds the model's `rope_deltas`.
    """
    forget(model)
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        mask = masks(output) if masks else None
        tokens = [pick(output.logits)]
        for _ in range(steps - 1):
            more: dict[str, Tensor] = {}
            if mask is not None:
                mask = torch.cat([mask, torch.ones_like(tokens[-1])], 1)
                more["attention_mask"] = mask
                if (deltas := getattr(model.base_model, "rope_deltas", None)) is not None:
                    more["position_ids"] = ((mask.cumsum(-1) - 1)[:, -1:] + deltas).expand(3, -1, -1)
            output = model(input_ids=tokens[-1], **with_cache(model, cache_of(output)), use_cache=True, **more)
            tokens.append(pick(output.logits))
    return torch.cat(tokens, 1)


def kept_placeholders(batch: Prompt, keep: Tensor) -> list[list[int]]:
    """How many placeholders of each image are kept, per row."""
    return [[int(keep[r, columns].sum()) for columns in images] for r, images in enumerate(batch.images)]
