"""A patched model among others: threads, models within models, PEFT, accelerate, checkpointing, torch.compile."""

from __future__ import annotations

import copy
import threading
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
    checkpointing,
    forget,
    forward,
    generate,
    own_loop,
    reference,
)
from tests.hf.lent import Lent
from tests.hf.together import run_together
from tests.tiny_models import FAMILIES, Family, labels_of, module, prompt


def test_two_threads_with_a_model_each(llava: Any) -> None:
    family = FAMILIES["llava"]
    batch, twin = prompt(family, ROWS), copy.deepcopy(llava)
    with tokscale.patch(llava, ByNorm(K)), tokscale.patch(twin, ByNorm(5)):
        serial = [generate(m, batch.inputs) for m in (llava, twin)]
        for _ in range(3):
            both = run_together(lambda: generate(llava, batch.inputs), lambda: generate(twin, batch.inputs))
            assert all(torch.equal(a, b) for a, b in zip(serial, both))


def test_two_threads_on_one_model(llava: Any) -> None:
    family = FAMILIES["llava"]
    batches = [prompt(family, ROWS), prompt(family, [[4, "image", 2]], first=3)]
    with tokscale.patch(llava, ByNorm(K)):
        serial = [generate(llava, b.inputs) for b in batches]
        for _ in range(3):
            both = run_together(*[lambda b=b: generate(llava, b.inputs) for b in batches])
            assert all(torch.equal(a, b) for a, b in zip(serial, both))


def test_threads_that_collect_importance(llava: Any) -> None:
    """Both switch the attention of one tower; the slower one must find it switched until it is done."""

    class Wants(ByNorm):
        needs = frozenset({"importance"})

        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            order = context["importance"].sort(dim=-1, descending=True, stable=True).indices
            return tokscale.Compressed.select(vision_tokens, order[:, : self.output_length(vision_tokens.shape[1])])

    family = FAMILIES["llava"]
    batches = [prompt(family, ROWS), prompt(family, [[4, "image", 2]] * 6, first=3)]
    tower = module(llava, family.tower)
    meet = threading.Barrier(2)
    with tokscale.patch(llava, Wants(K)):
        serial = [forward(llava, b.inputs).logits for b in batches]
        inside = module(llava, f"{family.tower}.encoder.layers.0")
        hook = inside.register_forward_pre_hook(lambda *_: [None, meet.wait(30)][0])  # both are encoding now
        try:
            both = run_together(*[lambda b=b: forward(llava, b.inputs).logits for b in batches])
        finally:
            hook.remove()
        assert all(torch.equal(a, b) for a, b in zip(serial, both))
    assert tower.config._attn_implementation == "sdpa"


def test_a_model_within_a_model() -> None:
    """A compressor that runs another patched model: the inner call must not be taken for the outer one."""
    family = FAMILIES["llava"]
    outer, inner = family.model(), family.model()
    batch = prompt(family, ROWS)
    inside = prompt(family, [[4, "image", 2]], first=3)

    class Asks(ByNorm):
        def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
            self.inner = forward(inner, inside.inputs).logits
            return super().compress(vision_tokens, **context)

    asks = Asks(K)
    with tokscale.patch(inner, ByNorm(5)):
        expected_inner = forward(inner, inside.inputs).logits
        with tokscale.patch(outer, ByNorm(K)):
            expected = forward(outer, batch.inputs).logits
        with tokscale.patch(outer, asks) as handle:
            assert torch.equal(forward(outer, batch.inputs).logits, expected)
            assert torch.equal(handle.compressor.inner, expected_inner)


# wrapped, trained, compiled


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
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        assistant = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=256)).to(torch.float64).eval()
        assistant.generation_config.pad_token_id = 0
        assert torch.equal(generate(llava, batch.inputs, assistant_model=assistant), plain)
