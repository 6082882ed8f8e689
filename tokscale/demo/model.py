"""The demo's model: tokenizer, processor, configuration and the structured start that makes it trainable.

Two words (`r3 c5`) must find one of 36 places among 144 vision tokens, and a decoder of this size does not find that by
itself. The start therefore writes a place code into the vision tokens, the same code into the words, one head that
gathers the last two words and one head that compares the codes. Everything stays trainable.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .data import GRID, WORDS

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

    from ..compressors import CrossAttentionFuser

__all__ = ["FOLDER", "load", "load_fuser", "make_config", "make_model", "make_processor", "make_tokenizer"]

FOLDER = Path(__file__).parent / "digits"
ROPE_THETA = 1e6


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: one id per word of `WORDS`, `<s>` in front, padding on the left."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def make_processor() -> LlavaProcessor:
    """Return the processor: pictures scaled to [-1, 1], `<image>` in the text written as 144 placeholders."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    half, size = [0.5] * 3, {"height": 96, "width": 96}
    pictures = CLIPImageProcessor(
        do_resize=False,
        do_center_crop=False,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=half,
        image_std=half,
        size=size,
        crop_size=size,
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=make_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def make_config() -> LlavaConfig:
    """Return the configuration: a CLIP tower of 2 layers and a Qwen2 decoder of 3, both 64 wide, 144 vision tokens."""
    from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config

    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=96,
        patch_size=8,
        projection_dim=64,
        hidden_act="gelu",
    )
    text = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        initializer_range=0.06,
        **special,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=WORDS.index("<image>"),
        projector_hidden_act="linear",
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=144,
        tie_word_embeddings=False,
        **special,
    )


def make_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """Return the untrained model at its structured start (281,984 parameters, float32), the same for the same seed."""
    from transformers import LlavaForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(make_config())
        _write_structure(model)
    return model


@torch.no_grad()
def _write_structure(model: Any) -> None:
    tower, decoder = model.model.vision_tower, model.model.language_model
    code = _hadamard()[1 : GRID + 1]  # GRID rows of 8, orthogonal, +-1

    vision = getattr(tower, "vision_model", tower).embeddings
    place = vision.position_embedding.weight
    place.zero_()
    side = 2 * GRID
    for i in range(side):
        for j in range(side):
            row = place[1 + i * side + j]  # position 0 is [CLS]
            row[0:8], row[8:16] = code[i // 2], code[j // 2]
            row[62], row[63] = 1 - 2 * (i % 2), 1 - 2 * (j % 2)
    vision.patch_embedding.weight.normal_(0, 192**-0.5)
    vision.patch_embedding.weight[:32] = 0

    words = decoder.embed_tokens.weight
    words.normal_(0, 1)
    words[:, :32] = 0
    for i in range(GRID):
        words[WORDS.index(f"r{i}"), 16:24] = code[i]
        words[WORDS.index(f"c{i}"), 24:32] = code[i]

    for linear in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        linear.weight.copy_(torch.eye(64))
        linear.bias.zero_()

    # Layer 0, head 1 gathers the words 1 and 2 back: a constant q and k bias under rotary positions scores by distance.
    local, head = decoder.layers[0].self_attn, 32
    for m in range(5):
        angle = torch.tensor(1.5 * ROPE_THETA ** (-m / 16))
        local.q_proj.bias[head + m], local.q_proj.bias[head + m + 16] = 4, 0
        local.k_proj.bias[head + m], local.k_proj.bias[head + m + 16] = 4 * angle.cos(), 4 * angle.sin()
    local.v_proj.weight[head : head + 32] *= 0.3
    dims = torch.arange(16)
    local.v_proj.weight[head + dims, 16 + dims] += 1
    local.o_proj.weight[16 + dims, head + dims] += 3

    # Layer 1, head 0 compares the code of the words with the code of the places, in slowly rotating pairs.
    look_up = decoder.layers[1].self_attn
    slow = torch.cat([torch.arange(6, 14), torch.arange(22, 30)])
    look_up.q_proj.weight[slow, 16 + dims] += 1.4
    look_up.k_proj.weight[slow, dims] += 1.4
    dims = torch.arange(32)
    look_up.v_proj.weight[dims, 32 + dims] += 1
    look_up.o_proj.weight[32 + dims, dims] += 2


def _hadamard() -> torch.Tensor:
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return functools.reduce(torch.kron, [two, two, two])


def load(
    *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return the packaged trained model and its processor: a genuine `LlavaForConditionalGeneration`, in eval mode.

    It answers four kinds of question about pictures of handwritten digits (see `samples`) and nothing else, and it
    cannot count. Each call builds a new object; nothing is downloaded.

    Args:
        device: where the weights go.
        dtype: floating-point type of the weights.

    Cost: 1.1 MB read, under half a second once `transformers` is imported.

    Example:
        >>> model, processor = load()
        >>> model.num_parameters()
        281984
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for 1 MB is noise
    try:
        model = LlavaForConditionalGeneration.from_pretrained(FOLDER, local_files_only=True, dtype=dtype)
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.to(device).eval(), AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def load_fuser(name: str = "question") -> CrossAttentionFuser:
    """Return a `CrossAttentionFuser` trained inside the frozen demo model, in eval mode.

    Args:
        name: "question" (hears the question and answers from one token) or "blind" (hears nothing).

    Raises:
        ArgumentError: unknown name.

    Example:
        >>> load_fuser("blind").num_tokens
        72
    """
    from .._checks import one_of
    from ..compressors import CrossAttentionFuser

    one_of("name", name, ("question", "blind"))
    return CrossAttentionFuser.from_pretrained(FOLDER / f"fuser_{name}").eval()
