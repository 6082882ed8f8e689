"""The patch on a trained model: nothing changes at full budget, and the accuracies are those recorded."""

from __future__ import annotations

import pytest
import torch

import tokscale
from tokscale import demo


@pytest.fixture(scope="module")
def lent():
    return demo.load()


@pytest.mark.parametrize("name", ["divprune", "adaptive_pool", "random"])
@pytest.mark.parametrize("budget", [144, 10_000])
def test_keeping_all_changes_no_bit(lent, name, budget):
    model, processor = lent
    asked = demo.samples(6, kind="cell") + demo.samples(3, kind="most")  # rows of unlike length: padded on the left
    inputs, answered = demo.collate(asked, processor), demo.collate(asked, processor, answers=True)
    before = model(**answered)
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    with tokscale.patch(model, name, num_tokens=budget):
        after = model(**answered)
        assert torch.equal(before.logits, after.logits) and torch.equal(before.loss, after.loss)
        assert torch.equal(ids, model.generate(**inputs, max_new_tokens=3, do_sample=False))
    assert torch.equal(before.logits, model(**answered).logits)


def test_an_interrupted_generation_gives_the_model_back(lent):
    from transformers import LogitsProcessor, LogitsProcessorList

    model, processor = lent
    inputs = demo.collate(demo.samples(2), processor)
    before = model(**inputs).logits
    state = {key: value.clone() for key, value in model.state_dict().items()}

    class Interrupting(LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tokscale.patch(model, "divprune", num_tokens=36):
        model.generate(**inputs, max_new_tokens=3, logits_processor=LogitsProcessorList([Interrupting()]))
    assert "forward" not in vars(model) and "generate" not in vars(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(before, model(**inputs).logits)


def test_methods_differ_as_recorded(lent):
    """256 questions: divprune at 36 beats random, one token is enough for the hearing fuser and not for the blind."""
    model, processor = lent
    asked = demo.samples(256, seed=11)

    def accuracy(compressor, budget):
        with tokscale.patch(model, compressor, num_tokens=budget):
            return demo.evaluate(model, processor, asked).accuracy

    assert accuracy("divprune", 36) > accuracy("random", 36) + 0.3
    assert accuracy(demo.load_fuser("question"), 1) > 0.93
    assert accuracy(demo.load_fuser("blind"), 1) < 0.25
    assert accuracy(demo.load_fuser("blind"), 36) > 0.92
