"""Patch a Hugging Face VLM at a token budget, ask it, and give it back. Uses the small trained model of the package."""

import torch

import tokscale
from tokscale import demo

model, processor = (
    demo.load()
)  # a LlavaForConditionalGeneration of 282k parameters; with your own model: from_pretrained
sample = demo.samples(1, seed=3, kind="cell")[0]
inputs = demo.collate([sample], processor)
length = inputs["input_ids"].shape[1]


def ask() -> str:
    out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
    return processor.tokenizer.decode(out[0, length:])


print(f"question: {sample.question!r}, right answer: {sample.answer}")
print(f"as lent, 144 vision tokens: {ask()}")

handle = tokscale.patch(model, "divprune", num_tokens=72)
for budget in (72, 36, 9):
    handle.num_tokens = budget  # takes effect at the next call; nothing is re-patched
    answer = ask()
    image = handle.last.images[0]
    print(f"divprune, {image.n} -> {image.k} vision tokens: {answer}")
handle.remove()

# A fuser that hears the question needs one token here. Scoped: the model is restored on leaving, after an error too.
with tokscale.patch(model, demo.load_fuser("question"), num_tokens=1) as handle:
    print(f"trained fuser, {handle.num_tokens} vision token: {ask()}")

# Training goes through the same patch: the loss of the short prompt, gradients to the compressor.
fuser = tokscale.CrossAttentionFuser(num_tokens=16, dim=64)
with tokscale.patch(model, fuser):
    loss = model(**demo.collate([sample], processor, answers=True)).loss
    loss.backward()
print(f"loss at 16 tokens: {loss.item():.3f}; gradient reached the fuser: {fuser.queries.grad is not None}")
print(f"as lent again: {ask()}", "| gradient mode:", torch.is_grad_enabled())
