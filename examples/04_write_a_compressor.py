"""A compressor says which tokens come out; the guards, the patch, the sweep and the contract tests are inherited."""

import torch

import tokscale
from tokscale import demo
from tokscale.testing import check_compressor


@tokscale.register_compressor("contrast")
class Contrast(tokscale.TokenCompressor):
    """Keeps the tokens farthest from the mean token of their image: `||x_i - mean x||_2`."""

    def compress(self, vision_tokens, **context):
        x = vision_tokens.float()
        scores = (x - x.mean(1, keepdim=True)).norm(dim=-1)
        order = scores.sort(dim=1, descending=True, stable=True).indices  # stable: ties go to the lower index
        return tokscale.Compressed.select(vision_tokens, order[:, : self.output_length(x.shape[1])], scores=scores)


x = torch.randn(2, 100, 32)
print(tuple(tokscale.create_compressor("contrast", num_tokens=10)(x).shape))

check_compressor(Contrast)  # exact length, order, batch = members alone, ties, zeros, half types, ...
print("the contract holds")

model, processor = demo.load()
questions = demo.samples(64, kind="cell")
for name in ("contrast", "random"):
    with tokscale.patch(model, name, num_tokens=36):
        print(f"{name:>9} at 36 tokens: {demo.evaluate(model, processor, questions).accuracy:.2f}")
