"""The patched demo model inside the pipeline of transformers, which tokenises, encodes and generates by itself."""

from __future__ import annotations

import transformers

import tokscale
from tokscale import demo


def test_pipeline() -> None:
    model, processor = demo.load()
    asked = demo.samples(4, seed=3)
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)

    def answers() -> list[str]:
        found = pipe(
            images=[sample.image for sample in asked],
            text=[f"<image> {sample.question}" for sample in asked],
            max_new_tokens=1,
            return_full_text=False,
        )
        return [(each[0] if isinstance(each, list) else each)["generated_text"].strip() for each in found]

    plain = answers()
    with tokscale.patch(model, demo.load_fuser("question"), num_tokens=1) as handle:
        short = answers()
        assert [image.k for image in handle.last.images] == [1] * len(handle.last.images)
    assert answers() == plain
    assert short == plain == [sample.answer for sample in asked]
