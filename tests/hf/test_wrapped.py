"""A patched model wrapped and trained: PEFT, accelerate, gradient checkpointing, torch.compile, parallel wrappers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import tokscale
from tests.hf.helpers import (
    COMPRESSORS,
    ROWS,
    ByNorm,
    K,
    Mixer,
    forget,
    forward,
    generate,
    own_loop,
    reference,
)
from tests.hf.lent import Lent
from tests.hf.versions import checkpointing
from tests.tiny_models import FAMILIES, Family, labels_of, module, prompt


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT asks by the old name
def test_peft(family: Family) -> None:
    from peft import LoraConfig, get_peft_model

    model = family.model()
    batch = prompt(family, ROWS)
    labels = labels_of(batch)
    suffixes = r".*(language_model|text_model)\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=suffixes, init_lora_weights=False))
    wrapped = wrapped.to(torch.float64)
    mixer = Mixer(K)
    handle = tokscale.patch(wrapped, mixer, **family.options())
    forget(model)
    loss = wrapped(**batch.inputs, labels=labels).loss
    loss.backward()
    adapters = [p for n, p in wrapped.named_parameters() if "lora_" in n]
    assert adapters
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in adapters)
    assert handle.compressor.queries.grad[:K].abs().max() > 0
    assert all(p.grad is None for n, p in wrapped.named_parameters() if "lora_" not in n)
    ids = generate(wrapped, batch.inputs)
    assert torch.equal(ids[:, : batch.ids.shape[1]], batch.ids)
    assert torch.equal(ids[:, -6:], own_loop(wrapped, batch.inputs))
    handle.remove()
    with torch.no_grad():
        expected = reference(family, wrapped.get_base_model(), batch, mixer)
    torch.testing.assert_close(loss.detach(), expected.loss(labels), rtol=0, atol=2e-6)


def test_accelerate_hooks_come_back(llava: Any) -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    model = copy.deepcopy(llava)
    batch = prompt(FAMILIES["llava"], ROWS)
    with tokscale.patch(model, ByNorm(K)):
        expected = forward(model, batch.inputs).logits
    add_hook_to_module(model, AlignDevicesHook(execution_device="cpu"))
    lent = Lent(model, batch)
    theirs = vars(model)["forward"]
    with tokscale.patch(model, ByNorm(K)):
        assert torch.equal(forward(model, batch.inputs).logits, expected)
    assert vars(model)["forward"] is theirs
    lent.check()
    remove_hook_from_module(model)
    assert torch.equal(forward(model, batch.inputs).logits, lent.logits)


@pytest.mark.parametrize("kind", list(COMPRESSORS))
def test_gradient_checkpointing(family: Family, kind: str) -> None:
    model = family.model().train()
    batch = prompt(family, ROWS)
    compressor = COMPRESSORS[kind](K)
    weights = [*module(model, family.tower).parameters(), *compressor.parameters()]

    def learn() -> tuple[torch.Tensor, list[Any]]:
        forget(model)
        loss = model(**batch.inputs, labels=labels_of(batch), use_cache=False).loss
        return loss.detach(), list(torch.autograd.grad(loss, weights, allow_unused=True))

    with tokscale.patch(model, compressor, **family.options()):
        loss, gradients = learn()
        checkpointing(model, True)
        again, recomputed = learn()
    assert torch.equal(loss, again)
    for ours, theirs in zip(gradients, recomputed):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours - theirs).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("order", ["compile, patch", "patch, compile"])
def test_compile(name: str, order: str) -> None:
    torch._dynamo.reset()
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, ROWS)
    with tokscale.patch(model, ByNorm(K)):
        expected = forward(model, batch.inputs).logits
    if order == "compile, patch":
        compiled = torch.compile(model, backend="eager")
        handle = tokscale.patch(compiled, ByNorm(K))
    else:
        handle = tokscale.patch(model, ByNorm(K))
        compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        got = forward(compiled, batch.inputs).logits
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    handle.remove()
    torch._dynamo.reset()


def test_data_parallel_wrapper(llava: Any) -> None:
    batch = prompt(FAMILIES["llava"], ROWS)
    with tokscale.patch(llava, ByNorm(K)):
        expected = forward(llava, batch.inputs).logits
    wrapper = nn.DataParallel(llava)
    with tokscale.patch(wrapper, ByNorm(K)):
        assert torch.equal(forward(llava, batch.inputs).logits, expected)
    assert "forward" not in vars(llava)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_after_the_patch(llava: Any) -> None:
    """Adapters put into a model that is patched already: the seams stay on the model inside."""
    from peft import LoraConfig, get_peft_model

    batch = prompt(FAMILIES["llava"], ROWS)
    model = copy.deepcopy(llava)
    with tokscale.patch(model, ByNorm(K)) as handle:
        expected = generate(model, batch.inputs)
        targets = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).to(torch.float64)
        assert torch.equal(generate(wrapped, batch.inputs), expected)  # fresh adapters change nothing
        wrapped(**batch.inputs, labels=labels_of(batch)).loss.backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for n, p in wrapped.named_parameters() if "lora_" in n)
        assert [image.k for image in handle.last.images] == [K] * len(handle.last.images)
        assert torch.equal(generate(wrapped.merge_and_unload(), batch.inputs), expected)
    assert "forward" not in vars(wrapped.get_base_model())


@pytest.mark.parametrize("order", ["dispatch, patch", "patch, dispatch"])
def test_a_device_map(llava: Any, order: str) -> None:
    """Weights kept aside and brought to their layer when it is called."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_submodules

    batch = prompt(FAMILIES["llava"], ROWS)
    with tokscale.patch(llava, ByNorm(K)):
        expected = generate(llava, batch.inputs)
    model = copy.deepcopy(llava)
    if order == "dispatch, patch":
        cpu_offload(model, execution_device="cpu")
        handle = tokscale.patch(model, ByNorm(K))
    else:
        handle = tokscale.patch(model, ByNorm(K))
        cpu_offload(model, execution_device="cpu")
    assert torch.equal(generate(model, batch.inputs), expected)
    assert handle.last.images[0].k == K
    handle.remove()
    remove_hook_from_submodules(model)
    assert torch.equal(forward(model, batch.inputs).logits, forward(llava, batch.inputs).logits)


def test_a_model_given_back_can_be_pickled(llava: Any) -> None:
    model = FAMILIES["llava"].model()
    batch = prompt(FAMILIES["llava"], ROWS)
    tokscale.patch(model, ByNorm(K)).remove()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(forward(again, batch.inputs).logits, forward(model, batch.inputs).logits)
