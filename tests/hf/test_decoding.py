"""Ways of decoding under a patch: beams, caches, chunks, sampling, lengths, assistants, streams."""

from __future__ import annotations

from typing import Any

import torch

import tokscale
from tests.hf.helpers import (
    ONE,
    RAGGED,
    ROWS,
    TWO,
    ByNorm,
    K,
    Mixer,
    forget,
    generate,
    ready,
    short_prompt,
)
from tests.hf.versions import encodes_first
from tests.tiny_models import FAMILIES, IMAGE, SPECIAL, Family, alone, prompt


def test_beams_equal_those_of_a_short_prompt(family: Family, model: Any, compressor: Any) -> None:
    """The unpatched model's own beams on the short prompt (M-RoPE: on positions put in the place of its own)."""
    batch = prompt(family, TWO)
    short = short_prompt(family, model, batch, compressor)
    axes = short.pop("position_ids", None)
    if axes is not None:
        short["image_grid_thw"] = batch.inputs["image_grid_thw"]
        delta = axes.amax((0, 2))[:, None] + 1 - axes.shape[-1]
        model.model.get_rope_index = lambda ids, *_, **__: (
            axes.expand(-1, len(ids), -1),
            delta.expand(len(ids), -1),
        )
    try:
        with ready(model, short, batch) as inputs:
            expected = generate(model, inputs, num_beams=2)[:, -6:]
    finally:
        model.model.__dict__.pop("get_rope_index", None)
    with tokscale.patch(model, compressor, **family.options()):
        assert torch.equal(generate(model, batch.inputs, num_beams=2)[:, -6:], expected)


def test_images_are_counted_in_the_prompt_of_the_caller() -> None:
    """A `generate` that sums placeholders to know which pixels belong to a row (video_llama_3 in some versions)."""
    family, counted = FAMILIES["llava"], []
    model = family.model()

    class Sums(type(model)):  # type: ignore[misc]
        def _get_image_nums_and_video_nums(self, input_ids: Any, inputs_embeds: Any = None) -> Any:
            return (input_ids == IMAGE).sum(1).tolist(), [0] * len(input_ids)

        def _expand_inputs_for_generation(self, *args: Any, **more: Any) -> Any:
            counted.append(self._get_image_nums_and_video_nums(more["input_ids"])[0])
            return super()._expand_inputs_for_generation(*args, **more)

    model.__class__ = Sums
    batch = prompt(family, RAGGED)
    with tokscale.patch(model, ByNorm(K)):
        generate(model, batch.inputs, num_beams=2)
    assert counted == [(batch.ids == IMAGE).sum(1).tolist()]


def test_beams_in_a_padded_batch(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, RAGGED)
    ids = generate(model, batch.inputs, num_beams=2, num_return_sequences=2)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids.repeat_interleave(2, 0))
    for row in range(2):
        own = generate(model, alone(family, RAGGED, row).inputs, num_beams=2, num_return_sequences=2)
        assert torch.equal(own[:, -6:], ids[2 * row : 2 * row + 2, -6:])


def test_caches_and_returns(family: Family, model: Any, selected: Any) -> None:
    batch = prompt(family, RAGGED)
    ids = generate(model, batch.inputs)
    assert torch.equal(generate(model, batch.inputs, use_cache=False), ids)
    static = generate(model, batch.inputs, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, ids)
    told = generate(model, batch.inputs, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(told.sequences, ids)
    assert len(told.scores) == 6
    if encodes_first(model):  # else, unpatched too, no chunk is given the pixels
        assert torch.equal(generate(model, batch.inputs, prefill_chunk_size=5), ids)


def test_lengths_are_the_callers(family: Family, model: Any, selected: Any) -> None:
    """`max_length` and `min_length` count the caller's prompt, however passed; nothing passed in is changed."""
    from transformers import GenerationConfig

    batch = prompt(family, TWO)
    long = batch.ids.shape[1]
    plain = generate(model, batch.inputs)
    assert torch.equal(generate(model, batch.inputs, max_new_tokens=None, max_length=long + 4), plain[:, : long + 4])
    config = GenerationConfig(max_length=long + 5, pad_token_id=0, do_sample=False, suppress_tokens=SPECIAL)
    told = config.to_dict()
    forget(model)
    assert torch.equal(model.generate(**batch.inputs, generation_config=config), plain[:, : long + 5])
    assert config.to_dict() == told
    end = int(plain[0, long])
    stopping = {"eos_token_id": end}
    assert generate(model, batch.inputs, **stopping).shape[1] == long + 1
    at_least = generate(model, batch.inputs, **stopping, max_new_tokens=None, max_length=long + 6, min_length=long + 3)
    assert at_least.shape[1] >= long + 3
    assert end not in at_least[0, long : long + 3]
    forget(model)
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig(max_length=long + 2, pad_token_id=0)
        kept = model.generation_config.to_dict()
        ids = model.generate(**batch.inputs, do_sample=False, suppress_tokens=SPECIAL)
        assert torch.equal(ids, plain[:, : long + 2])
        assert model.generation_config.to_dict() == kept
    finally:
        model.generation_config = own


def test_generate_holds_no_graph(llava: Any) -> None:
    """All of `generate` runs without gradients, the compressor too: it lies outside the original's own decorator."""

    class Looks(Mixer):
        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            self.grad = torch.is_grad_enabled(), vision_tokens.requires_grad
            return super().compress(vision_tokens, **context)

    batch = prompt(FAMILIES["llava"], ROWS)
    with tokscale.patch(llava, Looks(K)) as handle:
        generate(llava, batch.inputs)
        assert handle.compressor.grad == (False, False)
        llava(**batch.inputs)
        assert handle.compressor.grad == (True, True)


def test_assisted_decoding(llava: Any) -> None:
    """Prompt lookup, and an unpatched assistant of the same family that reads text alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    batch = prompt(FAMILIES["llava"], [[3, "image", 4]])
    with tokscale.patch(llava, ByNorm(K)):
        plain = generate(llava, batch.inputs)
        assert torch.equal(generate(llava, batch.inputs, prompt_lookup_num_tokens=2), plain)
        if not encodes_first(llava):  # then generate gives the pixels to the assistant too, which refuses them
            return
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        assistant = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=256)).to(torch.float64).eval()
        assistant.generation_config.pad_token_id = 0
        assert torch.equal(generate(llava, batch.inputs, assistant_model=assistant), plain)


def test_sampling_equals_that_of_a_short_prompt(llava: Any) -> None:
    """The same draws from the same distributions as the unpatched model makes on the prompt a processor would write."""
    batch = prompt(FAMILIES["llava"], TWO)
    short = short_prompt(FAMILIES["llava"], llava, batch, ByNorm(K))
    drawn = {"do_sample": True, "temperature": 0.7, "top_k": 20, "num_return_sequences": 3}
    torch.manual_seed(0)
    with ready(llava, short, batch) as inputs:
        expected = generate(llava, inputs, **drawn)[:, -6:]
    with tokscale.patch(llava, ByNorm(K)):
        torch.manual_seed(0)
        ids = generate(llava, batch.inputs, **drawn)
    assert torch.equal(ids[:, -6:], expected)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids.expand(3, -1))
    assert len({tuple(row) for row in expected.tolist()}) > 1  # it does draw


def test_a_stream_sees_the_short_prompt_then_the_new_ids(llava: Any) -> None:
    from transformers.generation.streamers import BaseStreamer

    class Kept(BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def put(self, value: torch.Tensor) -> None:
            self.seen.append(value.flatten())

        def end(self) -> None:
            self.seen.append(torch.tensor([-1]))

    batch, stream = prompt(FAMILIES["llava"], ONE), Kept()
    with tokscale.patch(llava, ByNorm(K)) as handle:
        ids = generate(llava, batch.inputs, streamer=stream)
        assert torch.equal(stream.seen[0], batch.ids[handle.last.keep])
    assert torch.equal(torch.cat(stream.seen[1:-1]), ids[0, -6:])
