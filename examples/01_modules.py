"""The three modules: vision tokens (batch, n, dim) in, exactly `num_tokens` of them out. Runs on a CPU in seconds."""

import torch

import tokscale

torch.manual_seed(0)
vision = torch.randn(2, 576, 256)  # two images, a 24 x 24 grid each
question = torch.randn(2, 12, 256)  # the embedded words of a question per image

# Mean of each cell of an exact partition of the grid: any number of tokens, no parameters.
pooler = tokscale.AdaptivePooler(num_tokens=64)
print("AdaptivePooler     ", tuple(pooler(vision).shape))

# The 64 tokens with the highest score, in their order, and where they stood.
selector = tokscale.TopKSelector(num_tokens=64, score="text")
kept = selector.compress(vision, text_tokens=question)
print("TopKSelector       ", tuple(kept.tokens.shape), "positions", kept.positions[0, :6].tolist(), "...")

# Cross-attention from pooled and learned queries to the image and the question; one module for every budget up to 64.
fuser = tokscale.CrossAttentionFuser(num_tokens=64, dim=256, num_heads=8)
print("CrossAttentionFuser", tuple(fuser(vision, text_tokens=question).shape))
fuser.num_tokens = 9
fused = fuser(vision, text_tokens=question)
print("  the same, asked for 9", tuple(fused.shape))

# They are ordinary modules: gradients reach their weights, and weights go to safetensors and back.
fused.square().mean().backward()
print("  parameters with a gradient:", sum(p.grad is not None for p in fuser.parameters()))

# By name: published methods and your own stand in one registry.
print("registered:", ", ".join(tokscale.list_compressors()))
diverse = tokscale.create_compressor("divprune", num_tokens=64)
print(diverse, "->", tuple(diverse(vision).shape))
