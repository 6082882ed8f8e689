"""What the tower's attention gives a compressor: importance late and early, and keys, against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.hf.derivative import by_definition, observe
from tests.hf.helpers import forget, forward, generate
from tests.hf.notes import Notes, noted
from tests.hf.versions import checkpointing
from tests.tiny_models import FAMILIES, Family, Prompt, alone, module, prompt
from tokscale.hf.attention import _layers
from tokscale.hf.tap import Tap

K = 3

WITH_IMPORTANCE = [name for name in FAMILIES if name != "llava_next"]


def expected(family: Family, batch: Prompt, what: str = "importance") -> list[Tensor]:
    """By the definitions, for each picture: of the layer that is read, or of the first (where layers have windows, the
    one without), mean over the patches that a feature depends on, which the derivative shows.
    """
    twin = family.model()
    tower = module(twin, family.tower)
    keys = ("pixel_values", "image_sizes", "image_grid_thw")
    seen = observe(twin, _layers(tower), tower, {k: v for k, v in batch.inputs.items() if k in keys})
    early = 1 if family.name == "qwen2_5_vl" else 0
    found = by_definition(
        seen,
        list(range(len(seen.features))),
        layer=early if what == "shallow_importance" else None,
        cat=what == "cat",
    )
    values = found["importance" if "importance" in what else "keys"]
    return list(values.split([len(columns) for images in batch.images for columns in images]))


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    rows = [[2, "image", 3, "image", 2], [3, "image", 4]]
    batch = prompt(family, rows)
    wanted = expected(family, batch)
    before = [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")]

    class Watches(Notes):
        def compress(self, vision_tokens: Tensor, **context: Any) -> tokscale.Compressed:
            now = [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")]
            assert now == before  # it is switched during the encode only
            return super().compress(vision_tokens, **context)

    contexts = noted(family, model, batch, Watches({"importance"}))  # features bitwise those of SDPA
    for context, theirs in zip(contexts, wanted):
        ours = context["importance"]
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        assert theirs.std() > 0
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-7)
    assert [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")] == before


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_of_a_row_alone(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    rows = [[2, "image", 3, "image", 2], [3, "image", 4]]
    together = noted(family, model, prompt(family, rows), Notes({"importance"}))
    single = noted(family, model, alone(family, rows, 1), Notes({"importance"}))
    torch.testing.assert_close(together[2]["importance"], single[0]["importance"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_in_generate_and_in_training(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[3, "image", 4]])
    (one,) = noted(family, model, batch, Notes({"importance"}))
    model.train()
    checkpointing(model, True)
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor, **family.options()):
        forget(model)
        loss = model(**batch.inputs, labels=batch.ids, use_cache=False).loss
        loss.backward()  # recomputation runs outside the call: it must find nothing to write to
    assert len(compressor.seen) == 1
    torch.testing.assert_close(compressor.seen[0][1]["importance"], one["importance"], rtol=1e-5, atol=1e-8)
    checkpointing(model, False)
    model.eval()
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor, **family.options()):
        generate(model, batch.inputs)
    assert len(compressor.seen) == 1
    assert torch.equal(compressor.seen[0][1]["importance"], one["importance"])


def test_importance_under_eager_attention() -> None:
    """The setting that the user chose is there again afterwards, and the importance is the same."""
    family = FAMILIES["llava"]
    batch = prompt(family, [[3, "image", 4]])
    (one,) = noted(family, family.model(), batch, Notes({"importance"}))
    model = family.model()
    module(model, family.tower).set_attn_implementation("eager")
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor):
        forward(model, batch.inputs)
    assert module(model, family.tower).config._attn_implementation == "eager"
    assert module(model, family.language_model).config._attn_implementation == "sdpa"
    torch.testing.assert_close(compressor.seen[0][1]["importance"], one["importance"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
@pytest.mark.parametrize("what", ["shallow_importance", "mean", "cat"])
def test_an_early_layer_and_keys(name: str, what: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[2, "image", 3, "image", 2], [3, "image", 4]])
    compressor = Notes({what if what == "shallow_importance" else "keys"})
    compressor.keys_reduce = what if what in ("mean", "cat") else "mean"
    for context, theirs in zip(noted(family, model, batch, compressor), expected(family, batch, what)):
        (ours,) = (value for key, value in context.items() if key in ("shallow_importance", "keys"))
        assert ours.dtype == torch.float32 and ours.shape == theirs.shape and theirs.std() > 0
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_the_depth_is_the_compressors_choice() -> None:
    """At a share of .9 the early layer of two is the last one."""
    family = FAMILIES["gemma3"]
    batch = prompt(family, [[3, "image", 4]])
    compressor = Notes({"importance", "shallow_importance"})
    (first,) = noted(family, family.model(), batch, compressor)
    assert not torch.equal(first["importance"], first["shallow_importance"])
    compressor = Notes({"importance", "shallow_importance"})
    compressor.shallow_layer = 0.9
    (last,) = noted(family, family.model(), batch, compressor)
    assert torch.equal(last["importance"], last["shallow_importance"])
    assert torch.equal(last["importance"], first["importance"])


def test_only_what_is_asked_for_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    note = Tap.note
    monkeypatch.setattr(Tap, "note", lambda self, *args: (seen.append(self.what), note(self, *args))[1])
    family = FAMILIES["llava"]
    batch = prompt(family, [[3, "image", 4]])
    noted(family, family.model(), batch, Notes({"text"}, {"grid"}))
    assert seen == []
    noted(family, family.model(), batch, Notes({"keys"}))
    assert seen == ["keys"]


def test_what_handle_encode_gives_serves_every_context() -> None:
    family = FAMILIES["internvl"]
    model, batch = family.model(), prompt(family, [[3, "image", 4]])
    reads = {"importance", "shallow_importance", "keys"}
    compressor = Notes(reads)
    with tokscale.patch(model, compressor, **family.options()) as handle:
        forward(model, batch.inputs)
        forward(model, batch.inputs, mm_encoder_outputs=handle.encode(**batch.inputs))
    (_, first), (_, second) = compressor.seen
    assert set(first) == reads and all(torch.equal(first[what], second[what]) for what in reads)
