"""`native_budget`: at most k vision tokens by a processor's own setting, measured on genuine processors."""

from __future__ import annotations

import math
import random
import re
import sys

import pytest

from tests.hf import processors
from tests.hf.processors import FIXED, PROCESSORS, SMALL
from tests.tiny_models import FAMILIES, IMAGE
from tokscale.errors import BudgetError, KeywordError, UnsupportedModelError
from tokscale.hf import native_budget, vision_token_count
from tokscale.hf.count import by_arithmetic, by_running
from tokscale.hf.knobs import SOFT_TOKENS
from tokscale.hf.native import applied
from tokscale.hf.turned import turned

PAGE = [(1920, 1080), (640, 480), (3000, 100), (512, 512)]
SIZES = [(1280, 720), (100, 3000), (512, 512), (20, 30), (9, 200)]
LEAST = {"gemma4": 70, "llava_next": 10, "llava_onevision": 36, "internvl": 16, "aya_vision": 9, "cohere2_vision": 16,
         "idefics3": 16, "smolvlm": 9}  # fmt: skip


@pytest.mark.parametrize(
    "name, k, counts",
    [
        ("qwen2_vl", 64, [60, 54, 43, 64]),
        ("qwen2_vl", 256, [252, 234, 174, 256]),
        ("qwen3_vl", 64, [60, 54, 43, 64]),
        ("qwen3_vl", 256, [252, 234, 174, 256]),
        ("qwen3_vl", 1024, [1008, 300, 282, 256]),
        ("glm4v", 64, [60, 54, 43, 64]),
        ("gemma4", 100, [66, 63, 45, 64]),
        ("lfm2_vl", 100, [91, 88, 54, 100]),
        ("lfm2_vl", 1024, [764, 234, 174, 256]),
        ("pixtral", 64, [40, 48, 8, 64]),
        ("mistral3", 256, [144, 192, 16, 256]),
        ("llava_next", 1200, [926, 1026, 576, 1176]),
        ("llava_next", 2048, [1608, 1368, 674, 1176]),
        ("llava_onevision", 3000, [2052, 1728, 975, 1485]),
        ("internvl", 1024, [768, 256, 1024, 256]),
        ("aya_vision", 600, [507, 169, 507, 169]),
        ("cohere2_vision", 2048, [1792, 768, 1792, 256]),
        ("idefics3", 1024, [845, 845, 507, 845]),
        ("smolvlm", 400, [320, 320, 192, 320]),
    ],
)
def test_what_known_processors_make_of_known_pictures(name, k, counts):
    processor = PROCESSORS[name]()
    with applied(processor, k):
        assert [by_running(processor, size) for size in PAGE] == counts


@pytest.mark.parametrize("name", SMALL)
def test_never_more_than_k_and_more_with_a_larger_k(name):
    processor = SMALL[name]()
    least = LEAST.get(name, 1)
    most = {}
    for k in sorted({least, least + 1, *(n for n in (31, 90, 333, 1000) if n >= least)}):
        with applied(processor, k) as keywords:
            # a picture longer than k times its width is beyond what kinds that count pixels promise
            wide = [size for size in SIZES if max(size) <= k * min(size)] if "size" in keywords or k < 31 else SIZES
            counts = [by_running(processor, size) for size in wide]
        assert all(1 <= n <= k for n in counts), (k, keywords, counts)
        most[k] = max(counts, default=0)
    assert sorted(most.values()) == [*most.values()] and most[1000] > most[least]  # a larger budget keeps no fewer


@pytest.mark.parametrize("name", ["qwen2_vl", "glm4v", "gemma4", "llava_next", "llava_onevision"])
def test_no_size_of_a_picture_goes_beyond(name):
    processor, draw = SMALL[name](), random.Random(0)
    for k in (2, 7, 16, 64, 100, 400):
        if k < LEAST.get(name, 1):
            continue
        with applied(processor, k):
            longest = math.log(min(k, 190))  # pixels: pictures at most k times as long as wide
            for _ in range(300):
                area, ratio = math.exp(draw.uniform(4, 16)), math.exp(draw.uniform(-longest, longest))
                size = max(1, int(math.sqrt(area * ratio))), max(1, int(math.sqrt(area / ratio)))
                if max(size) <= min(k, 190) * min(size):
                    (count,) = by_arithmetic(processor, [size])
                    assert 1 <= count <= k, (k, size)


@pytest.mark.parametrize("name", LEAST)
def test_below_the_least_is_an_error_that_names_it(name):
    processor, least = SMALL[name](), LEAST[name]
    with pytest.raises(BudgetError, match=f"num_tokens={least - 1} is below {least}, the least that "):
        native_budget(processor, least - 1)
    assert native_budget(processor, least)
    with pytest.raises(BudgetError, match="num_tokens must be an integer >= 1, got 0"):
        native_budget(processor, 0)


def test_the_arithmetic_of_the_least():
    with pytest.raises(BudgetError) as caught:
        native_budget(PROCESSORS["gemma4"](), 69)
    assert str(caught.value) == (
        "num_tokens=69 is below 70, the least that Gemma4Processor can be told to make of a picture (it pools to at "
        "most one of 70, 140, 280, 560, 1120). Use num_tokens >= 70, or compress with tokscale.patch, which reaches "
        "any budget"
    )
    with pytest.raises(BudgetError, match=r"\(the picture of 576 tokens, one tile of 576 and 24 newlines\)"):
        native_budget(PROCESSORS["llava_next"](), 1175)


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_count_is_refused_with_the_reason(name):
    processor = FIXED[name]()
    count = by_running(processor, (64, 64))
    with pytest.raises(UnsupportedModelError) as caught:
        native_budget(processor, 64)
    assert re.search(rf"makes {count} vision tokens of every picture.*: resizing changes no count", str(caught.value))


def test_a_processor_without_any_known_setting_is_refused():
    with pytest.raises(UnsupportedModelError, match="has none of the settings for fewer vision tokens"):
        native_budget(object(), 64)


def test_a_setting_with_another_arithmetic_is_refused(monkeypatch):
    processor = PROCESSORS["qwen2_vl"]()
    monkeypatch.setattr(type(processor), "replace_image_token", lambda self, *_, **__: self.image_token * 70)
    with pytest.raises(
        UnsupportedModelError, match=r"another arithmetic: with .* it makes 70 vision tokens of a picture"
    ):
        native_budget(processor, 64)


def test_tiles_with_another_arithmetic_are_refused():
    from transformers import Granite4VisionProcessor  # LLaVA-NeXT's tiles, of which it keeps a quarter each way

    processor = processors.llava_next(56)
    fewer = Granite4VisionProcessor(
        processor.image_processor, processor.tokenizer, patch_size=14, vision_feature_select_strategy="full",
        downsample_rate="1/2",
    )  # fmt: skip
    with pytest.raises(
        UnsupportedModelError, match=r"makes 10 vision tokens of a picture of one tile, where .* are 36:"
    ):
        native_budget(fewer, 400)


def test_a_picture_processor_with_another_arithmetic_is_refused():
    from transformers import HunYuanVLImageProcessor  # a newline and two marks more, all of them placeholders

    with pytest.raises(UnsupportedModelError, match=r"describes the patches of a picture by tuple and no number"):
        native_budget(HunYuanVLImageProcessor(), 64)


def test_an_image_processor_alone_is_enough_where_pixels_are_counted():
    images = PROCESSORS["qwen3_vl"]().image_processor
    assert native_budget(images, 64) == {"size": {"shortest_edge": 16384, "longest_edge": 65536}}
    assert images(images=[_picture((1920, 1080))], **native_budget(images, 64))["image_grid_thw"].prod() == 4 * 60


def test_a_picture_longer_than_k_times_its_width_is_beyond_the_promise():
    processor = PROCESSORS["qwen2_vl"]()
    assert vision_token_count(processor, [(3000, 100), (1600, 100)], **native_budget(processor, 16)) == [21, 16]


def test_soft_tokens_are_those_that_the_processor_takes():
    images = PROCESSORS["gemma4"]().image_processor
    assert tuple(sys.modules[type(images).__module__]._SUPPORTED_SOFT_TOKENS) == SOFT_TOKENS


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma4", "llava_next", "internvl", "idefics3", "lfm2_vl", "pixtral"])
def test_the_processor_is_given_back_as_it_was(name):
    processor = SMALL[name]()
    images = processor.image_processor
    before = [dict(vars(owner)) for owner in (processor, images)]
    with pytest.raises(ZeroDivisionError), applied(processor, LEAST.get(name, 64)) as keywords:
        assert any(vars(images)[key] != before[1].get(key) for key in keywords)
        _ = 1 / 0
    for owner, held in zip((processor, images), before):
        assert vars(owner).keys() == held.keys() and all(vars(owner)[key] is held[key] for key in held)
    with pytest.raises(KeywordError, match="has no keyword 'colour'"), turned(processor, {"colour": 1}):
        pass


def test_the_processors_own_defaults_go_before_its_image_processors():
    processor = processors.internvl(56, 16)
    processor.images_kwargs = held = {"crop_to_patches": True, "max_patches": 6}
    with turned(processor, {"max_patches": 2}):
        assert by_running(processor, (224, 56)) == 3 * 16
    assert processor.images_kwargs is held == {"crop_to_patches": True, "max_patches": 6}
    assert by_running(processor, (224, 56)) == 5 * 16


def test_a_model_that_repeats_the_setting_is_turned_too():
    """LLaVA-NeXT's model cuts its features by its own list of resolutions."""
    import torch

    model, processor = FAMILIES["llava_next"].model(), processors.llava_next(32, 16)
    processor.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    model.config.image_token_id = processor.image_token_id
    pinpoints = model.config.image_grid_pinpoints
    with torch.no_grad(), applied(processor, 10, model):
        inputs = processor(images=[_picture((96, 64))], text=["w <image> w"], return_tensors="pt").to(torch.float64)
        assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 4 + 4 + 2
        assert model(**inputs).logits.isfinite().all()
    assert model.config.image_grid_pinpoints is pinpoints and processor.image_token_id != IMAGE


def _picture(size):
    from PIL import Image

    return Image.new("RGB", size)
