"""Given back bit for bit, whatever happened in between; and nothing registered, shared or saved while patched."""

from __future__ import annotations

import copy
import gc
import inspect
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokscale
from tests.hf.helpers import (
    ROWS,
    ByNorm,
    K,
    Mixer,
    forward,
    generate,
    kept_placeholders,
)
from tests.hf.lent import Lent
from tests.tiny_models import FAMILIES, Family, labels_of, module, prompt


class Stops(ByNorm):
    """Raises `error` in its `at`-th call."""

    def __init__(self, error: type[BaseException], at: int = 1) -> None:
        super().__init__(K)
        self.error, self.at, self.times = error, at, 0

    def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
        self.times += 1
        if self.times == self.at:
            raise self.error("stopped here")
        return super().compress(vision_tokens, **context)


# given back as lent


def test_given_back_after_use(family: Family, model: Any) -> None:
    batch = prompt(family, ROWS)
    lent = Lent(model, batch)
    handle = tokscale.patch(model, ByNorm(K), **family.options())
    forward(model, batch.inputs, labels=labels_of(batch))
    generate(model, batch.inputs)
    handle.remove()
    handle.remove()  # idempotent
    lent.check()


def test_given_back_after_collecting_context(family: Family, model: Any) -> None:
    """Importance, where the family has it, is collected by a view of the tapped layer's config; it is undone."""

    class Wants(ByNorm):
        needs = frozenset({"text", "importance"} if family.name != "llava_next" else {"text"})
        uses = frozenset({"grid"})

    batch = prompt(family, ROWS)
    lent = Lent(model, batch)
    with tokscale.patch(model, Wants(K), **family.options()):
        forward(model, batch.inputs)
        generate(model, batch.inputs)
        towers = [p.config._attn_implementation for p in module(model, family.tower).modules() if hasattr(p, "config")]
        assert set(towers) == {"sdpa"}
    lent.check()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [forward, generate], ids=["forward", "generate"])
def test_given_back_after_an_exception_in_compress(
    family: Family, model: Any, error: type[BaseException], call: Callable[..., Any]
) -> None:
    batch = prompt(family, ROWS)
    lent = Lent(model, batch)
    with tokscale.patch(model, ByNorm(K), **family.options()):
        expected = forward(model, batch.inputs).logits
    stops = Stops(error, at=1)
    with pytest.raises(error, match="stopped here"), tokscale.patch(model, stops, **family.options()):
        call(model, batch.inputs)
    lent.check()
    stops.times = 0
    with tokscale.patch(model, stops, **family.options()):
        with pytest.raises(error, match="stopped here"):
            call(model, batch.inputs)
        assert torch.equal(forward(model, batch.inputs).logits, expected)  # still patched, still right
    lent.check()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_given_back_after_an_exception_in_generate(family: Family, model: Any, error: type[BaseException]) -> None:
    """Raised from a logits processor at the third token, while the original `generate` runs."""
    batch = prompt(family, ROWS)
    lent = Lent(model, batch)
    steps: list[int] = []

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps.append(ids.shape[1])
        if len(steps) == 3:
            raise error("third token")
        return scores

    handle = tokscale.patch(model, ByNorm(K), **family.options())
    ids = generate(model, batch.inputs)
    with pytest.raises(error, match="third token"):
        generate(model, batch.inputs, logits_processor=[processor])
    assert steps[0] < batch.ids.shape[1]  # processors see the short prompt
    assert torch.equal(generate(model, batch.inputs), ids)
    handle.remove()
    lent.check()


def test_given_back_after_an_exception_in_the_tower(family: Family, model: Any) -> None:
    batch = prompt(family, ROWS)
    lent = Lent(model, batch)
    tower = module(model, family.tower)

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt("in the tower")

    with tokscale.patch(model, ByNorm(K), **family.options()):
        hook = tower.register_forward_pre_hook(fails)
        with pytest.raises(KeyboardInterrupt):
            forward(model, batch.inputs)
        hook.remove()
        expected = forward(model, batch.inputs).logits
        assert torch.equal(forward(model, batch.inputs).logits, expected)
    lent.check()


def test_removed_in_the_middle_of_a_scope(llava: Any) -> None:
    lent = Lent(llava, prompt(FAMILIES["llava"], ROWS))
    with tokscale.patch(llava, ByNorm(K)) as handle:
        handle.remove()
        lent.check()
    lent.check()
    with tokscale.patch(llava, ByNorm(K)) as handle:  # and it can be patched again
        forward(llava, lent.batch.inputs)
        assert kept_placeholders(lent.batch, handle.last.keep) == [[K, K]]
    lent.check()


# while patched


def test_nothing_is_registered(family: Family, model: Any, tmp_path: Path) -> None:
    keys, parameters, parts = list(model.state_dict()), list(model.parameters()), list(model.modules())
    signatures = inspect.signature(model.forward), inspect.signature(model.generate)
    features = inspect.signature(model.base_model.get_image_features)
    doc = model.forward.__doc__
    with tokscale.patch(model, Mixer(K), **family.options()) as handle:
        assert list(model.state_dict()) == keys
        assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
        assert [id(p) for p in model.modules()] == [id(p) for p in parts]
        assert (inspect.signature(model.forward), inspect.signature(model.generate)) == signatures
        assert inspect.signature(model.base_model.get_image_features) == features
        assert model.forward.__doc__ == doc
        assert model.forward.__name__ == "forward"
        assert [p.shape for p in handle.compressor.parameters()] == [(32, 64)]


def test_saved_while_patched(tmp_path: Path, llava: Any) -> None:
    from safetensors import safe_open

    llava.save_pretrained(tmp_path / "bare")
    with tokscale.patch(llava, Mixer(K)):
        llava.save_pretrained(tmp_path / "patched")
    names = []
    for folder in ("bare", "patched"):
        with safe_open(tmp_path / folder / "model.safetensors", "pt") as stored:
            names.append(sorted(stored.keys()))
    assert names[0] == names[1]
    configs = [(tmp_path / folder / "config.json").read_text() for folder in ("bare", "patched")]
    assert configs[0] == configs[1]


def test_another_instance_is_not_patched(family: Family, model: Any) -> None:
    other = family.model()
    batch = prompt(family, ROWS)
    expected = forward(other, batch.inputs).logits
    with tokscale.patch(model, ByNorm(K), **family.options()):
        assert torch.equal(forward(other, batch.inputs).logits, expected)
        assert "forward" not in vars(other)


def test_two_models_of_one_config(llava: Any) -> None:
    """Config objects are shared between models built from one config; what one collects must not disturb the other."""

    class Wants(ByNorm):
        needs = frozenset({"importance"})

    family = FAMILIES["llava"]
    batch = prompt(family, ROWS)
    twin = type(llava)(llava.config).to(torch.float64).eval()
    twin.load_state_dict(llava.state_dict())
    expected = forward(twin, batch.inputs).logits
    with tokscale.patch(llava, Wants(K)):
        short = forward(llava, batch.inputs).logits
        assert torch.equal(forward(twin, batch.inputs).logits, expected)
        with tokscale.patch(twin, Wants(K)):
            assert torch.equal(forward(twin, batch.inputs).logits, short)
            assert torch.equal(forward(llava, batch.inputs).logits, short)
    assert torch.equal(forward(twin, batch.inputs).logits, expected)


def test_deepcopy(family: Family, model: Any) -> None:
    batch = prompt(family, ROWS)
    with tokscale.patch(model, ByNorm(K), **family.options()) as handle:
        logits, ids = forward(model, batch.inputs).logits, generate(model, batch.inputs)
        twin = copy.deepcopy(model)
        assert torch.equal(forward(twin, batch.inputs).logits, logits)
        assert torch.equal(generate(twin, batch.inputs), ids)
        with torch.no_grad():
            for parameter in module(twin, family.language_model).parameters():
                parameter.zero_()  # the copy must run its own weights
        assert not torch.equal(forward(twin, batch.inputs).logits, logits)
        assert torch.equal(forward(model, batch.inputs).logits, logits)
        handle.num_tokens = 2  # and keep its own budget
        forward(model, batch.inputs)
        assert kept_placeholders(batch, handle.last.keep) == [[2, 2]]
        columns = batch.ids.shape[1] - sum(len(c) - K for c in batch.images[0])
        assert forward(twin, batch.inputs).logits.shape[1] == columns
    columns = batch.ids.shape[1] - sum(len(c) - K for c in batch.images[0])
    assert forward(twin, batch.inputs).logits.shape[1] == columns  # removing the first leaves the copy patched


def test_a_patched_model_is_freed(llava: Any) -> None:
    twin = copy.deepcopy(llava)
    tokscale.patch(twin, ByNorm(K))
    forward(twin, prompt(FAMILIES["llava"], ROWS).inputs)
    gone = weakref.ref(twin)
    del twin
    gc.collect()
    assert gone() is None


def test_an_interruption_while_the_tower_is_tapped(llava: Any) -> None:
    """Ctrl-C in the tapped layer: every part has its own config again, and a later setting is the user's."""

    class Wants(ByNorm):
        needs = frozenset({"importance"})

    batch = prompt(FAMILIES["llava"], ROWS)
    tower = module(llava, FAMILIES["llava"].tower)
    tapped = module(tower, "encoder.layers.0.self_attn")
    assert tapped.config is tower.config

    def interrupted(part: Any, _: Any) -> None:
        assert part.config is not tower.config  # a view of it
        raise KeyboardInterrupt

    with tokscale.patch(llava, Wants(K)):
        hook = tapped.register_forward_pre_hook(interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                forward(llava, batch.inputs)
        finally:
            hook.remove()
        assert all(part.config is tower.config for part in tower.modules() if hasattr(part, "config"))
        try:
            tower.set_attn_implementation("eager")
            forward(llava, batch.inputs)
            assert tower.config._attn_implementation == tapped.config._attn_implementation == "eager"
        finally:
            tower.set_attn_implementation("sdpa")


def test_integer_weights_do_not_name_the_dtype() -> None:
    """Quantised models hold integer parameters, perhaps first of all."""
    model = FAMILIES["llava"].model()
    model.codes = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    assert next(model.parameters()).dtype == torch.uint8
    with tokscale.patch(model, "cross_attention", num_tokens=K, num_heads=4) as handle:
        assert {p.dtype for p in handle.compressor.parameters()} == {torch.float64}
