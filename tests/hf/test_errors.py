"""Every refusal of `tokscale.patch` in its words, and that a refused call or patch leaves the model as it was."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokscale
from tests.hf.helpers import ByNorm, Listed, forget, forward, generate, kept_placeholders
from tests.hf.versions import cache_of, with_cache
from tests.tiny_models import FAMILIES, IMAGE, Prompt, prompt
from tokscale import errors

K = 3


@pytest.fixture(scope="module")
def llava() -> Any:
    return FAMILIES["llava"].model()


@pytest.fixture(scope="module")
def qwen() -> Any:
    return FAMILIES["qwen2_5_vl"].model()


@pytest.fixture(autouse=True)
def _left_alone(llava: Any, qwen: Any) -> Any:
    """No test may leave a model patched or a seam behind."""
    yield
    for model in (llava, qwen):
        for part in model.modules():
            assert not {"forward", "generate", "get_image_features", "get_rope_index"} & set(vars(part))


def says(kind: type[Exception], text: str) -> Any:
    """An error of this kind with exactly this message."""
    return pytest.raises(kind, match=f"^{re.escape(text)}$")


def llava_prompt(text: int = 3) -> Prompt:
    return prompt(FAMILIES["llava"], [[text, "image", text]])


class Needs(ByNorm):
    def __init__(self, *needs: str) -> None:
        super().__init__(K)
        self.needs = frozenset(needs)


# models


def tiny(kind: str) -> Any:
    """A small model of a kind that has no vision tokens, or none that can be reached."""
    import transformers as t

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**size, "image_size": 8, "patch_size": 4}
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**size, vocab_size=32))
    if kind == "git":
        return t.GitForCausalLM(t.GitConfig(vision_config=vision, **size, vocab_size=32, num_image_with_embedding=None))
    both = {"hidden_size": 16, "d_ff": 16, "d_kv": 8}
    vision = {**both, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_embed_hidden_size": 16}
    text = {**both, "num_layers": 1, "num_heads": 2, "vocab_size": 32}
    return t.Pix2StructForConditionalGeneration(t.Pix2StructConfig(text_config=text, vision_config=vision))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("llama", "LlamaForCausalLM makes no image features; patch() needs an image-text model"),
        (
            "git",
            "git: the image is a prefix without placeholder tokens, so there is no prompt to shorten; "
            "use a model with placeholders",
        ),
        ("pix2struct", "pix2struct: image and text are one encoder sequence; there are no vision tokens to compress"),
    ],
)
def test_models_without_a_seam(kind: str, text: str) -> None:
    model = tiny(kind)
    before = set(vars(model))
    with says(errors.UnsupportedModelError, text):
        tokscale.patch(model, ByNorm(K))
    assert set(vars(model)) == before


_PLACE = "there is no prompt to shorten; use a model with placeholders"
_DECODER = (
    "its decoder reads what an encoder made of the image, and its prompt holds no image, so there is nothing in it to "
    "shorten; use "
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("blip", f"blip: {_DECODER}blip-2"),
        (
            "idefics",
            "idefics: its layers read all image states anew at every step, which patch() cannot shorten; use idefics3",
        ),
        ("pi0", f"pi0: the image is a prefix without placeholder tokens, so {_PLACE}"),
        ("udop", "udop: image and text are one encoder sequence; there are no vision tokens to compress"),
        ("pp_formulanet", f"pp_formulanet: {_DECODER}a model with placeholders"),
        ("vision-encoder-decoder", f"vision-encoder-decoder: {_DECODER}a model with placeholders"),
        ("evolla", "evolla: it reads proteins, not images; there are no vision tokens to compress"),
        ("mistral4", "mistral4: it reads text only; patch() needs an image-text model"),
    ],
)
def test_families_without_a_seam(kind: str, text: str) -> None:
    """The type of the configuration alone is read, before anything else of the model."""
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type=kind)
    with says(errors.UnsupportedModelError, text):
        tokscale.patch(model, ByNorm(K))


def test_something_that_is_no_model() -> None:
    for thing in (torch.nn.Linear(2, 2), None, "llava"):
        with pytest.raises(errors.TokscaleError):
            tokscale.patch(thing, ByNorm(K))


def test_patched_twice(llava: Any) -> None:
    text = (
        "this LlavaForConditionalGeneration is already patched (by ByNorm, num_tokens=3); "
        "call handle.remove() first, or set handle.num_tokens"
    )
    with tokscale.patch(llava, ByNorm(K)) as handle:
        for wrapped in (llava, torch.nn.DataParallel(llava)):
            with says(errors.PatchError, text):
                tokscale.patch(wrapped, "divprune", num_tokens=2)
        forward(llava, llava_prompt().inputs)
        assert handle.last.images[0].k == K  # the first patch is still there
        handle.num_tokens = 2
        with says(errors.PatchError, text.replace("=3", "=2")):
            tokscale.patch(llava, ByNorm(K))


# inputs


@pytest.mark.parametrize("call", [forward, generate])
def test_counts(llava: Any, call: Any) -> None:
    batch = prompt(FAMILIES["llava"], [[3, "image", 2, "image", 4]])
    inputs = dict(batch.inputs)
    first = batch.images[0][1][0]
    text = (
        "input_ids hold {} image placeholders, the model made {} image features. "
        "Were placeholders truncated, or generated in an earlier turn?"
    )
    with tokscale.patch(llava, ByNorm(K)):
        for cut in (inputs["input_ids"][:, : first + 8],):
            with says(errors.UnsupportedInputError, text.format(24, 32)):
                call(llava, {**inputs, "input_ids": cut, "attention_mask": torch.ones_like(cut)})
        longer = torch.cat([inputs["input_ids"], torch.full((1, 8), IMAGE)], 1)
        with says(errors.UnsupportedInputError, text.format(40, 32)):
            call(llava, {**inputs, "input_ids": longer, "attention_mask": torch.ones_like(longer)})
        with says(errors.UnsupportedInputError, text.format(32, 16)):
            call(llava, {**inputs, "pixel_values": inputs["pixel_values"][:1]})
        assert call(llava, inputs) is not None


def test_counts_that_agree_only_in_total(llava: Any) -> None:
    """Placeholders of two rows that sum to the features of two images, but not row by row."""
    ids = torch.full((2, 24), 50)
    ids[0, 2:22] = IMAGE  # 20
    ids[1, 2:14] = IMAGE  # 12
    pixels = prompt(FAMILIES["llava"], [["image"], ["image"]]).inputs["pixel_values"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    with tokscale.patch(llava, ByNorm(K)):
        for call in (forward, generate):
            with pytest.raises(errors.UnsupportedInputError, match="placeholders"):
                call(llava, inputs)


def test_embeddings_instead_of_ids(llava: Any) -> None:
    batch = llava_prompt()
    inputs = {k: v for k, v in batch.inputs.items() if k != "input_ids"}
    embeds = llava.get_input_embeddings()(batch.ids).detach()
    with (
        tokscale.patch(llava, ByNorm(K)),
        pytest.raises(errors.UnsupportedInputError, match="placeholders are found in input_ids; pass input_ids"),
    ):
        forward(llava, {**inputs, "inputs_embeds": embeds})


def kept_cache_text(length: int) -> str:
    return (
        f"a cache of {length} tokens and images in one call: a compressed prompt cannot be continued with its long "
        "ids. Pass the whole conversation without a cache"
    )


def test_a_kept_cache_with_images(llava: Any) -> None:
    batch = llava_prompt(6)  # 28 columns, 15 kept
    with tokscale.patch(llava, ByNorm(K)):
        cache = cache_of(forward(llava, batch.inputs, use_cache=True))
        assert cache.get_seq_length() == 15
        long = {k: torch.cat([v, torch.full((1, 2), 60 if k == "input_ids" else 1)], 1) for k, v in batch.inputs.items()
                if k != "pixel_values"}  # fmt: skip
        for more in ({"pixel_values": batch.inputs["pixel_values"]}, {}):  # {}: its ids hold placeholders
            with says(errors.UnsupportedInputError, kept_cache_text(15)):
                generate(llava, {**long, **more}, **with_cache(llava, cache))
            with says(errors.UnsupportedInputError, kept_cache_text(15)):
                forward(llava, {**long, **more}, **with_cache(llava, cache))
        assert cache.get_seq_length() == 15  # refused before any work


def test_an_empty_cache_is_no_cache(llava: Any) -> None:
    from transformers import DynamicCache

    batch = llava_prompt()
    with tokscale.patch(llava, ByNorm(K)):
        expected = forward(llava, batch.inputs).logits
        assert torch.equal(
            forward(llava, batch.inputs, **with_cache(llava, DynamicCache(config=llava.config))).logits, expected
        )


def test_a_text_cache_then_an_image(llava: Any) -> None:
    """Any kept cache in one call with images is refused, also where nothing in it was compressed."""
    batch = llava_prompt()
    with tokscale.patch(llava, ByNorm(K)):
        text = prompt(FAMILIES["llava"], [[5]])
        cache = cache_of(forward(llava, text.inputs, use_cache=True))
        with pytest.raises(errors.UnsupportedInputError, match="a cache of 5 tokens and images in one call"):
            forward(llava, {k: v for k, v in batch.inputs.items() if k != "attention_mask"}, **with_cache(llava, cache))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3", "idefics3"])
def test_the_long_mask(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[5, "image", 5]])
    long = batch.ids.shape[1]
    n = len(batch.images[0][0])
    short = long - n + K
    mask = torch.ones(1, long + 1, dtype=torch.long)
    text = (
        f"attention_mask has {long + 1} columns, the cache holds {short} tokens and input_ids 1: the prompt was "
        f"shortened from {long} to {short}. Pass handle.last.shorten(attention_mask) of the call with the images, and "
        "a column of ones for each new token"
    )
    with tokscale.patch(model, ByNorm(K)):
        for rows in (1, 2):
            inputs = prompt(family, [[5, ("image", 0), 5]] * rows).inputs
            cache = cache_of(forward(model, inputs, use_cache=True))
            with torch.no_grad(), says(errors.UnsupportedInputError, text):
                model(
                    input_ids=torch.full((rows, 1), 50),
                    **with_cache(model, cache),
                    attention_mask=mask.expand(rows, -1),
                )
            assert cache.get_seq_length() == short


def test_the_long_mask_as_the_page_writes_it(llava: Any) -> None:
    batch = llava_prompt(5)
    with tokscale.patch(llava, ByNorm(K)):
        cache = cache_of(forward(llava, batch.inputs, use_cache=True))
        with says(
            errors.UnsupportedInputError,
            "attention_mask has 27 columns, the cache holds 13 tokens and input_ids 1: the prompt was shortened from "
            "26 to 13. Pass handle.last.shorten(attention_mask) of the call with the images, and a column of ones for "
            "each new token",
        ):
            llava(
                input_ids=torch.tensor([[50]]),
                **with_cache(llava, cache),
                attention_mask=torch.ones(1, 27, dtype=torch.long),
            )


def test_the_long_mask_of_an_earlier_cache(llava: Any) -> None:
    """Another call in between, which shortened nothing, must not make the long mask pass for the first one's cache."""
    batch = llava_prompt(5)
    mask = torch.ones(1, 27, dtype=torch.long)
    with tokscale.patch(llava, ByNorm(K)) as handle:
        cache = cache_of(forward(llava, batch.inputs, use_cache=True))
        handle.num_tokens = 10_000
        forward(llava, prompt(FAMILIES["llava"], [[1, "image", 1]]).inputs)
        with pytest.raises(
            errors.UnsupportedInputError, match="attention_mask has 27 columns, the cache holds 13 tokens"
        ):
            llava(input_ids=torch.tensor([[50]]), **with_cache(llava, cache), attention_mask=mask)
        handle.num_tokens = 2
        forward(llava, prompt(FAMILIES["llava"], [[1, "image", 1]]).inputs)
        with pytest.raises(
            errors.UnsupportedInputError, match="attention_mask has 27 columns, the cache holds 13 tokens"
        ):
            llava(input_ids=torch.tensor([[50]]), **with_cache(llava, cache), attention_mask=mask)


def test_a_misspelt_keyword_is_suggested(llava: Any) -> None:
    for given, near in (("num_token", "num_tokens"), ("position", "positions"), ("retention", "retention_ratio")):
        with pytest.raises(errors.KeywordError, match=f"divprune has no keyword '{given}'; .* Did you mean '{near}'"):
            tokscale.patch(llava, "divprune", **{given: 4})
    with pytest.raises(errors.KeywordError, match=r"this ByNorm is already built\. Did you mean 'num_tokens'"):
        tokscale.patch(llava, ByNorm(K), num_token=4)


def test_a_folder_is_no_name(llava: Any, tmp_path: Any) -> None:
    text = (
        f"'{tmp_path}' is a folder, not a registered name; load what was saved there with "
        f"tokscale.TokenCompressor.from_pretrained('{tmp_path}')"
    )
    with says(errors.UnknownCompressorError, text):
        tokscale.patch(llava, str(tmp_path), num_tokens=4)
    with says(errors.UnknownCompressorError, text):
        tokscale.create_compressor(str(tmp_path), num_tokens=4)


def test_a_handle_takes_no_attribute_that_it_does_not_have(llava: Any) -> None:
    with tokscale.patch(llava, ByNorm(K)) as handle:
        with says(AttributeError, "PatchHandle has no attribute 'budget'. The budget is handle.num_tokens."):
            handle.budget = 3
        with says(AttributeError, "PatchHandle has no attribute 'num_token'. Did you mean 'num_tokens'?"):
            handle.num_token = 3
        assert handle.num_tokens == K
        handle.num_tokens, handle.last = 2, None
        assert copy.deepcopy(llava).forward.state.num_tokens == 2


def test_a_long_mask_of_a_model_that_is_not_shortened(llava: Any) -> None:
    """The right mask of a prompt that was kept whole passes."""
    batch = llava_prompt(5)
    mask = torch.ones(1, 27, dtype=torch.long)
    with torch.no_grad():
        cache = cache_of(forward(llava, batch.inputs, use_cache=True))
        expected = llava(input_ids=torch.tensor([[50]]), **with_cache(llava, cache), attention_mask=mask).logits
        with tokscale.patch(llava, ByNorm(10_000)):
            cache = cache_of(forward(llava, batch.inputs, use_cache=True))
            assert torch.equal(
                llava(input_ids=torch.tensor([[50]]), **with_cache(llava, cache), attention_mask=mask).logits, expected
            )


def test_a_short_prompt_of_three_axes_needs_positions(qwen: Any) -> None:
    family = FAMILIES["qwen2_5_vl"]
    batch = prompt(family, [[3, "image", 4]])
    with tokscale.patch(qwen, ByNorm(K)) as handle:
        forward(qwen, batch.inputs)
        keep = handle.last.keep
        short = {k: v[keep][None] if v.shape == batch.ids.shape else v for k, v in batch.inputs.items()}
        with pytest.raises(errors.UnsupportedInputError, match="position_ids"):
            forward(qwen, short)


@pytest.mark.parametrize("name", ["llava", "internvl", "gemma3", "qwen2_5_vl", "idefics3", "llava_next"])
def test_features_that_are_not_finite(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[3, "image", 4]])
    bad = dict(batch.inputs)
    bad["pixel_values"] = torch.full_like(bad["pixel_values"], torch.nan)
    with tokscale.patch(model, ByNorm(K)):
        for call in (forward, generate):
            with pytest.raises(errors.NonFiniteError, match=r"vision_tokens is not finite in sample \[0\]"):
                call(model, bad)
        assert torch.isfinite(forward(model, batch.inputs).logits).all()


def test_new_padding_is_no_image(llava: Any) -> None:
    """New padding must not read as an image, in rows that keep unequal numbers."""
    rows = [[2, "image", 5, "image", 2], [23, "image", 2]]  # 41 columns each
    batch = prompt(FAMILIES["llava"], rows)
    assert batch.inputs["attention_mask"].all()
    with tokscale.patch(llava, ByNorm(K)) as handle:
        forward(llava, batch.inputs)
        assert kept_placeholders(batch, handle.last.keep) == [[K, K], [K]]


def test_a_removed_handle(llava: Any) -> None:
    handle = tokscale.patch(llava, ByNorm(K))
    handle.remove()
    with pytest.raises(errors.PatchError, match="removed"):
        handle.num_tokens = 2
    with pytest.raises(errors.PatchError, match="removed"), handle:
        pass


# options


def test_positions(llava: Any, qwen: Any) -> None:
    with says(
        errors.ArgumentError,
        'positions="compact" has no meaning for the three-axis positions of qwen2_5_vl; use "original"',
    ):
        tokscale.patch(qwen, ByNorm(K), positions="compact")
    for word in ("absolute", None, 3):
        with pytest.raises(errors.ArgumentError, match="positions"):
            tokscale.patch(llava, ByNorm(K), positions=word)
    tokscale.patch(llava, ByNorm(K), positions="compact").remove()
    tokscale.patch(qwen, ByNorm(K), positions="original").remove()


def test_units(llava: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="unit"):
        tokscale.patch(llava, ByNorm(K), unit="patch")
    with pytest.raises(errors.TokscaleError, match="tile"):
        tokscale.patch(llava, ByNorm(K), unit="tile")


def test_width(llava: Any) -> None:
    fuser = tokscale.CrossAttentionFuser(num_tokens=K, dim=32, num_heads=2)
    with says(errors.ShapeError, "CrossAttentionFuser was built for dim=32, the vision tokens of this llava have 64"):
        tokscale.patch(llava, fuser)


@pytest.mark.parametrize("budget", [0, -1, 1.5, True, "4"])
def test_budgets_that_are_none(llava: Any, budget: Any) -> None:
    text = f"num_tokens must be an integer >= 1, got {budget!r}"
    with says(errors.BudgetError, text):
        tokscale.patch(llava, ByNorm(K), num_tokens=budget)
    with says(errors.BudgetError, text):
        tokscale.patch(llava, "divprune", num_tokens=budget)
    with tokscale.patch(llava, ByNorm(K)) as handle:
        with says(errors.BudgetError, text):
            handle.num_tokens = budget
        assert handle.num_tokens == K
        forward(llava, llava_prompt().inputs)
        assert handle.last.images[0].k == K


@pytest.mark.parametrize("budget", [0, -1, 1.5, None])
def test_budgets_of_a_call(llava: Any, budget: Any) -> None:
    """A list's entry, or what a function returns."""
    batch = llava_prompt()
    with pytest.raises(errors.BudgetError), tokscale.patch(llava, ByNorm(K), num_tokens=lambda n, grid: budget):
        forward(llava, batch.inputs)
    with pytest.raises(errors.BudgetError), tokscale.patch(llava, ByNorm(K), num_tokens=[budget]):
        forward(llava, batch.inputs)


def test_a_list_of_another_length(llava: Any) -> None:
    batch = prompt(FAMILIES["llava"], [[3, "image", 2, "image", 4]])
    for budgets in ([3], [3, 3, 3]):
        with tokscale.patch(llava, ByNorm(K), num_tokens=budgets):
            for call in (forward, generate):
                with pytest.raises(errors.BudgetError, match="2"):
                    call(llava, batch.inputs)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, float("nan"), "half"])
def test_ratios(llava: Any, ratio: Any) -> None:
    with pytest.raises(errors.TokscaleError, match="retention_ratio"):
        tokscale.patch(llava, ByNorm(K), retention_ratio=ratio)


def test_two_budgets(llava: Any) -> None:
    with pytest.raises(errors.TokscaleError, match="retention_ratio"):
        tokscale.patch(llava, ByNorm(K), num_tokens=3, retention_ratio=0.5)


def test_a_budget_above_the_queries(llava: Any) -> None:
    fuser = tokscale.CrossAttentionFuser(num_tokens=4, dim=64, num_heads=2)
    text = "num_tokens=300 exceeds the 4 queries this CrossAttentionFuser was built with"
    with pytest.raises(errors.BudgetError, match=text):
        tokscale.patch(llava, fuser, num_tokens=300)
    with tokscale.patch(llava, fuser) as handle:
        with pytest.raises(errors.BudgetError, match=text):
            handle.num_tokens = 300
        assert handle.num_tokens == 4


def test_names(llava: Any) -> None:
    text = r"unknown compressor 'divprun'\. Did you mean 'divprune'\?"
    with pytest.raises(errors.UnknownCompressorError, match=text):
        tokscale.patch(llava, "divprun", num_tokens=K)
    with pytest.raises(errors.TokscaleError, match="num_tokens"):
        tokscale.patch(llava, "divprune")
    with pytest.raises(errors.KeywordError, match="divprune has no keyword 'ratio'; it takes num_tokens"):
        tokscale.patch(llava, "divprune", num_tokens=K, ratio=0.5)
    for thing in (5, None, torch.nn.Linear(64, 64), ByNorm):
        with pytest.raises(errors.TokscaleError):
            tokscale.patch(llava, thing, num_tokens=K)


def test_options_beside_a_module(llava: Any) -> None:
    """Keywords that would build a compressor have no meaning for one that is built; a misspelt option is among them."""
    for options in ({"score": "norm"}, {"postions": "original"}):
        with pytest.raises(errors.TokscaleError, match=next(iter(options))):
            tokscale.patch(llava, ByNorm(K), **options)


# context


def test_context_without_a_map() -> None:
    family = FAMILIES["llava_next"]
    model = family.model()
    with says(
        errors.UnsupportedModelError,
        "llava_next: importance cannot be mapped to its tokens (padding cut off, newline features); "
        "choose a method that needs none",
    ):
        tokscale.patch(model, Needs("importance"))
    assert "forward" not in vars(model)


def test_context_that_no_patch_gives(llava: Any) -> None:
    with pytest.raises((errors.MissingContextError, errors.UnsupportedModelError), match=r"aligned.*(c|C)hoose"):
        tokscale.patch(llava, Needs("aligned"))


def test_a_grid_where_there_is_none() -> None:
    family = FAMILIES["llava_next"]
    model = family.model()
    batch = prompt(family, [[3, "image", 4]])
    with tokscale.patch(model, Needs("grid")), pytest.raises(errors.MissingContextError, match="grid"):
        forward(model, batch.inputs)


# compressors that break their contract


class Short(ByNorm):
    def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
        return tokscale.Compressed.select(vision_tokens, torch.arange(self.output_length(vision_tokens.shape[1]) - 1))


class Backwards(ByNorm):
    def compress(self, vision_tokens: torch.Tensor, **context: Any) -> tokscale.Compressed:
        index = torch.arange(self.output_length(vision_tokens.shape[1])).flip(0).expand(len(vision_tokens), -1)
        return tokscale.Compressed(vision_tokens[:, index[0]], index)


@pytest.mark.parametrize("kind", [Short, Backwards])
def test_compressors_that_break_their_word(llava: Any, kind: Any) -> None:
    with tokscale.patch(llava, kind(K)), pytest.raises(errors.CompressorError, match=kind.__name__):
        forward(llava, llava_prompt().inputs)


def test_a_refused_call_leaves_no_trace(llava: Any) -> None:
    batch = llava_prompt()
    bad = {**batch.inputs, "pixel_values": batch.inputs["pixel_values"].repeat(2, 1, 1, 1)}
    with tokscale.patch(llava, Listed([1, 4, 8])):
        expected = forward(llava, batch.inputs).logits
        for call in (forward, generate):
            with pytest.raises(errors.UnsupportedInputError):
                call(llava, bad)
            forget(llava)
            assert torch.equal(forward(llava, batch.inputs).logits, expected)
