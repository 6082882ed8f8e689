"""The model at its start, its tokenizer and processor, and the packaged one as Hugging Face loads it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from tokscale import demo
from tokscale.demo import batches, data
from tokscale.demo import model as demo_model
from tokscale.errors import ArgumentError


@pytest.fixture(scope="module")
def processor():
    return demo_model.make_processor()


def test_word_ids_and_prompt(processor):
    assert len(data.WORDS) == 59
    tokenizer = processor.tokenizer
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(data.WORDS)}
    ids = processor(images=[demo.samples(1)[0].image], text=["<image> cell r3 c5 ?"], return_tensors="pt").input_ids
    assert [data.WORDS[i] for i in ids[0].tolist()] == ["<s>", *["<image>"] * 144, "cell", "r3", "c5", "?"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.padding_side == "left"
    assert tokenizer("what").input_ids == [1, 3]


def test_training_pixels_equal_the_processors(processor):
    asked = demo.samples(8)
    grey = np.stack([np.asarray(sample.image)[..., 0] for sample in asked])
    by_processor = demo.collate(asked, processor)["pixel_values"]
    assert (batches.to_pixel_values(grey) - by_processor).abs().max() <= 2**-23  # one rounding at 1


def test_saved_processor_reloads_with_the_same_ids_and_pixels(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    asked = [*demo.samples(2), *demo.samples(2, kind="row")]
    first, second = demo.collate(asked, processor), demo.collate(asked, again)
    assert set(first) == set(second) == {"input_ids", "attention_mask", "pixel_values"}
    assert all(first[key].equal(second[key]) for key in first)
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pkl"))


def test_start_is_seeded_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    one, two, other = demo_model.make_model(0), demo_model.make_model(0), demo_model.make_model(1)
    assert torch.get_rng_state().equal(state)
    assert sum(p.numel() for p in one.parameters()) == 281_984
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters()))
    assert not one.lm_head.weight.equal(other.lm_head.weight)


def test_the_look_up_head_finds_the_cell_at_the_start(processor):
    """Layer 1, head 0: the last word of a `cell` prompt attends to the four patches of the asked cell."""
    model = demo_model.make_model(0).eval()
    model.set_attn_implementation("eager")
    asked = demo.samples(32)
    with torch.no_grad():
        attention = model(**demo.collate(asked, processor), output_attentions=True).attentions[1][:, 0, -1, 1:145]
    attention = attention.view(-1, 6, 2, 6, 2).sum(dim=(2, 4))  # b 6 6: over the patches of a cell
    right = [attention[i, int(s.question[6]), int(s.question[9])].item() for i, s in enumerate(asked)]
    assert sum(right) / len(right) > 0.3  # uniform attention would give .028


def test_every_part_is_stock(packaged):
    model, processor = packaged
    assert model.num_parameters() == 281_984 and not model.training
    for part in model.modules():
        assert type(part).__module__.split(".")[0] in {"transformers", "torch"}
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__module__.startswith("transformers.")


def test_load_gives_a_new_object_quickly(packaged):
    began = time.process_time()
    model, _ = demo.load(dtype=torch.bfloat16)
    assert time.process_time() - began < 2  # .2 s measured; the bound leaves room for a busy machine
    assert model is not packaged[0] and model.dtype == torch.bfloat16
    assert packaged[0].dtype == torch.float32


def test_collate_pads_left_and_labels_the_answer(processor):
    asked = [*demo.samples(2), *demo.samples(1, kind="most"), *demo.samples(1, kind="row")]
    inputs = demo.collate(asked, processor, answers=True)
    assert inputs["attention_mask"][:, -1].all()
    for sample, ids, labels in zip(asked, inputs["input_ids"], inputs["labels"]):
        words = [data.WORDS[i] for i in ids.tolist() if i != 0]
        assert words == ["<s>", *["<image>"] * 144, *sample.question.split(), sample.answer, "</s>"]
        assert [data.WORDS[i] for i in labels[labels != -100].tolist()] == [sample.answer, "</s>"]
    with pytest.raises(ArgumentError, match="collate needs at least one sample"):
        demo.collate([], processor)


def test_unknown_fuser():
    with pytest.raises(ArgumentError, match=r'^name="best" is unknown; choose from blind, question$'):
        demo.load_fuser("best")
