"""Genuine processors over a word-level vocabulary, offline: `PROCESSORS[name]()` makes one at its usual sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MARKS = {
    "image_token": "<image>", "video_token": "<video>", "boi_token": "<boi>", "eoi_token": "<eoi>",
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "vision_start_token": "<vs>", "vision_end_token": "<ve>", "img_line_break_token": "<break>",
    "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>",
}  # fmt: skip
OTHERS = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|START_OF_IMG|>", "<|END_OF_IMG|>",
          "<|IMG_PATCH|>", "<|img_thumbnail|>", "<|image_start|>", "<|image_end|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]",
          "<imgpad>"]  # fmt: skip


def tokenizer(*named: str) -> Any:
    """A tokenizer that knows every mark, and names those that are asked for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", *MARKS.values(), *OTHERS]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate([*special, "w"])}, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={name: MARKS[name] for name in named},
    )  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": special[4:]})
    return fast


def _video(kind: str) -> Any:
    import transformers

    return getattr(transformers, kind)()


def qwen2_vl(**sizes: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor

    words = tokenizer("image_token", "video_token", "vision_start_token", "vision_end_token")
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**sizes), words, _video("Qwen2VLVideoProcessor"))


def qwen3_vl() -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor

    words = tokenizer("image_token", "video_token", "vision_start_token", "vision_end_token")
    size = {"shortest_edge": 65536, "longest_edge": 16777216}
    return Qwen3VLProcessor(Qwen2VLImageProcessor(patch_size=16, size=size), words, _video("Qwen3VLVideoProcessor"))


def glm4v() -> Any:
    from transformers import Glm4vImageProcessor, Glm4vProcessor

    return Glm4vProcessor(Glm4vImageProcessor(), tokenizer("image_token", "video_token"), _video("Glm4vVideoProcessor"))


def gemma4() -> Any:
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor

    words = tokenizer("image_token", "boi_token", "eoi_token", "audio_token", "boa_token", "eoa_token")
    return Gemma4Processor(Gemma4AudioFeatureExtractor(), Gemma4ImageProcessor(), words, _video("Gemma4VideoProcessor"))


def llava_next(side: int = 336, patch: int = 14) -> Any:
    from transformers import LlavaNextImageProcessor, LlavaNextProcessor

    images = LlavaNextImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side],
                              [side, 3 * side]],
    )  # fmt: skip
    return LlavaNextProcessor(
        images, tokenizer("image_token"), patch_size=patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


def llava_onevision(side: int = 384, across: int = 27, most: int = 9) -> Any:
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor

    grid = [[side * h, side * w] for h in range(1, 7) for w in range(1, 7)]
    images = LlavaOnevisionImageProcessor(size={"height": side, "width": side}, image_grid_pinpoints=grid)
    return LlavaOnevisionProcessor(
        images, tokenizer("image_token", "video_token"), _video("LlavaOnevisionVideoProcessor"),
        num_image_tokens=across**2, vision_feature_select_strategy="full", vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip


def internvl(side: int = 448, seq: int = 256) -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor

    words = tokenizer("start_image_token", "end_image_token", "context_image_token", "video_token")
    images = GotOcr2ImageProcessor(size={"height": side, "width": side}, max_patches=12)
    return InternVLProcessor(images, words, _video("InternVLVideoProcessor"), image_seq_length=seq)


def aya_vision(side: int = 364) -> Any:
    from transformers import AyaVisionProcessor, GotOcr2ImageProcessor

    images = GotOcr2ImageProcessor(size={"height": side, "width": side})
    return AyaVisionProcessor(images, tokenizer(), patch_size=14, downsample_factor=2, img_size=side)


def cohere2_vision(side: int = 512, across: int = 16) -> Any:
    from transformers import Cohere2VisionImageProcessor, Cohere2VisionProcessor

    words = tokenizer("image_token", "boi_token", "eoi_token", "img_line_break_token")
    images = Cohere2VisionImageProcessor(size={"height": side, "width": side}, patch_size=across)
    return Cohere2VisionProcessor(images, words)


def got_ocr2() -> Any:
    from transformers import GotOcr2ImageProcessor, GotOcr2Processor

    return GotOcr2Processor(GotOcr2ImageProcessor(size={"height": 64, "width": 64}), tokenizer())


def idefics3(side: int = 364, across: int = 4, seq: int = 169) -> Any:
    from transformers import Idefics3ImageProcessor, Idefics3Processor

    images = Idefics3ImageProcessor(size={"longest_edge": across * side}, max_image_size={"longest_edge": side})
    return Idefics3Processor(images, tokenizer(), image_seq_len=seq)


def smolvlm(side: int = 512, across: int = 4, seq: int = 64) -> Any:
    """SmolVLM's pictures with the prompts of Idefics3, which are the same: its own processor wants a package more."""
    from transformers import Idefics3Processor, SmolVLMImageProcessor

    images = SmolVLMImageProcessor(size={"longest_edge": across * side}, max_image_size={"longest_edge": side})
    return Idefics3Processor(images, tokenizer(), image_seq_len=seq)


def lfm2_vl() -> Any:
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    return Lfm2VlProcessor(Lfm2VlImageProcessor(), tokenizer())


def pixtral(patch: int = 16, merge: int = 1) -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    return PixtralProcessor(PixtralImageProcessor(), tokenizer(), patch_size=patch, spatial_merge_size=merge)


def mistral3() -> Any:
    return pixtral(14, 2)


def llava() -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return LlavaProcessor(
        images, tokenizer(), patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def paligemma() -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    images = SiglipImageProcessor(size={"height": 224, "width": 224})
    images.image_seq_length = 256
    return PaliGemmaProcessor(images, tokenizer("image_token"))


def gemma3() -> Any:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    return Gemma3Processor(Gemma3ImageProcessor(), tokenizer("image_token", "boi_token", "eoi_token"))


PROCESSORS: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        qwen2_vl, qwen3_vl, glm4v, gemma4, llava_next, llava_onevision, internvl, aya_vision, cohere2_vision, idefics3,
        smolvlm, lfm2_vl, pixtral, mistral3,
    )
}  # fmt: skip
SMALL: dict[str, Callable[[], Any]] = {  # the same at small tiles, where pictures are many
    **PROCESSORS,
    "llava_next": lambda: llava_next(28),
    "llava_onevision": lambda: llava_onevision(32, 4),
    "internvl": lambda: internvl(56, 16),
    "aya_vision": lambda: aya_vision(84),
    "cohere2_vision": lambda: cohere2_vision(64, 4),
    "idefics3": lambda: idefics3(57, 4, 16),
    "smolvlm": lambda: smolvlm(48, 4, 9),
}
FIXED: dict[str, Callable[[], Any]] = {f.__name__: f for f in (llava, paligemma, gemma3, got_ocr2)}
