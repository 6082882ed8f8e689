"""`vision_token_count`: the processor's arithmetic where it is right, else the placeholders of a blank picture."""

from __future__ import annotations

import types

import pytest

from tests.hf import processors
from tests.hf.processors import FIXED, SMALL
from tokscale.errors import ArgumentError, KeywordError, UnsupportedInputError
from tokscale.hf import vision_token_count
from tokscale.hf.count import by_arithmetic, by_running

SIZES = [(1920, 1080), (640, 480), (3000, 100), (100, 3000), (512, 512), (20, 30), (64, 64)]
MARKS = {"internvl", "aya_vision", "cohere2_vision", "idefics3", "smolvlm", "pixtral", "mistral3"}  # they count these
NO_FORMULA = {"lfm2_vl", "got_ocr2"}


@pytest.mark.parametrize("name", [*SMALL, *FIXED])
def test_the_formula_and_the_run_agree_or_the_run_is_taken(name):
    processor = (SMALL | FIXED)[name]()
    run = [by_running(processor, size) for size in SIZES]
    said = by_arithmetic(processor, SIZES)
    assert vision_token_count(processor, SIZES) == run
    if name in NO_FORMULA:
        assert said is None
    elif name in MARKS:
        assert all(more > n for more, n in zip(said, run))
    else:
        assert said == run


def test_internvl_counts_two_marks_that_are_no_vision_tokens():
    processor = processors.internvl(56, 16)
    assert [a - b for a, b in zip(by_arithmetic(processor, SIZES), vision_token_count(processor, SIZES))] == [2] * 7


def test_the_formula_spares_the_pictures_where_it_is_right(monkeypatch):
    processor, seen = processors.qwen2_vl(), []
    made = type(processor).__call__
    monkeypatch.setattr(
        type(processor),
        "__call__",
        lambda self, **given: (seen.append(given["images"][0].size), made(self, **given))[1],
    )
    assert vision_token_count(processor, [(1920, 1080)] * 3) == [1222] * 3
    assert seen == [(64, 64), (640, 320)]


def test_keywords_hold_for_one_count_and_the_formula_hears_them():
    processor = processors.qwen2_vl()
    size = {"shortest_edge": 3136, "longest_edge": 64 * 28**2}
    assert vision_token_count(processor, [(1920, 1080), (3840, 2160)], size=size) == [60, 60]
    assert vision_token_count(processor, [(1920, 1080), (30, 30)]) == [1222, 4]
    with pytest.raises(KeywordError, match=r"Qwen2VLImageProcessor has no keyword 'max_pixel'; it takes .*merge_size"):
        vision_token_count(processor, [(30, 30)], max_pixel=3)


def test_a_formula_that_fails_is_no_formula(monkeypatch):
    processor = processors.qwen2_vl()
    monkeypatch.setattr(type(processor), "_get_num_multimodal_tokens", lambda *_, **__: 1 / 0)
    assert vision_token_count(processor, [(1920, 1080)]) == [1222]


@pytest.mark.parametrize("size", [(0, 3), (3,), "12", (1.5, 2), 7, (True, 2)])
def test_a_size_that_is_none(size):
    with pytest.raises(ArgumentError, match=r"a size is a pair \(width, height\) of integers >= 1, got "):
        vision_token_count(processors.qwen2_vl(), [size])


def test_what_cannot_be_counted_is_refused():
    assert vision_token_count(None, []) == []
    with pytest.raises(UnsupportedInputError, match="Qwen2VLImageProcessor cannot be counted: it has no tokenizer"):
        vision_token_count(processors.qwen2_vl().image_processor, [(30, 30)])
    nameless = types.SimpleNamespace(tokenizer=object(), image_token="<image>")
    with pytest.raises(UnsupportedInputError, match="names no image placeholder"):
        vision_token_count(nameless, [(30, 30)])
    with pytest.raises(UnsupportedInputError) as caught:
        vision_token_count(processors.qwen2_vl(), [(3000, 10)])
    assert str(caught.value) == (
        "Qwen2_5_VLProcessor (Qwen2VLImageProcessor) cannot process a picture of 3000x10: ValueError: absolute aspect "
        "ratio must be smaller than 200, got 300.0"
    )
