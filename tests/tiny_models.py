"""Tiny image-text models of six families, built from configs, offline, with prompts as their processors write them.

`FAMILIES[name]` holds everything a test needs: `model()` gives a random float64 model under SDPA, `picture(i)` one
image (the ids that a processor writes for it and its pixels), `prompt(family, rows)` a padded batch. A later family is
one more entry here, and the contract tests run over it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

IMAGE, VIDEO, PAD = 10, 11, 0
START, END, FAKE, GLOBAL, NEWLINE, ROW_COL = 12, 13, 14, 15, 16, 17  # ROW_COL, ROW_COL + 1, ...: tile markers
TEXT = 40  # the first id of ordinary text; everything below is special
VOCAB = 256
SPECIAL = list(range(TEXT))


@dataclass(frozen=True)
class Picture:
    """One image or video: `ids` as a processor writes it, `pixels` what the model is given.

    A video has `groups` temporal groups of equally many tokens, unless one of them has a newline more.
    """

    ids: list[int]
    pixels: dict[str, Tensor]
    tokens: int | None = None  # where a placeholder stands for the whole image
    placeholder: int = IMAGE
    groups: int = 1

    @property
    def num_features(self) -> int:
        return self.ids.count(self.placeholder) if self.tokens is None else self.tokens


@dataclass(frozen=True)
class Family:
    """How to build one family, write its pictures, and reach its parts."""

    name: str
    build: Callable[[], Any]
    picture: Callable[[int], Picture]  # different integers: different contents, and sizes where the family allows
    collate: Callable[[list[list[Picture]]], dict[str, Any]]
    language_model: str  # the submodule that receives inputs_embeds
    tower: str
    types: str | None = None  # a (batch, columns) argument that marks image columns with 1
    touching: bool = False  # two images may stand side by side with no id between them
    mrope: bool = False
    options: Callable[[], dict[str, Any]] = field(default=dict)  # what tokscale.patch needs to see one image as one
    video: Callable[[int], Picture] | None = None  # as `picture`, for parts "video" of a prompt
    container: str = "list"  # of get_image_features: a list of (n, d), or one stacked tensor
    columns: Callable[[dict[str, Any]], dict[str, Tensor]] | None = None  # arguments that depend on ids and pixels

    def model(self) -> Any:
        """A fresh copy of the model; building is done once per process."""
        import copy

        return copy.deepcopy(_built(self.build))


@functools.cache
def _built(build: Callable[[], Any]) -> Any:
    return build()


@dataclass
class Prompt:
    """A batch: `inputs` for the model, `images[row][i]` the columns of the placeholders of each image."""

    inputs: dict[str, Any]
    images: list[list[list[int]]]

    @property
    def ids(self) -> Tensor:
        return self.inputs["input_ids"]

    def real(self, row: int) -> Tensor:
        """The columns of a row that are no padding."""
        return self.inputs["attention_mask"][row].nonzero()[:, 0]


def prompt(
    family: Family, rows: Sequence[Sequence[int | str]], *, side: str = "left", first: int = 0, seed: int = 7
) -> Prompt:
    """A padded batch from rows such as `[3, "image", 4]`: three text ids, an image ("video": a video), four text ids.

    Pictures are numbered from `first` over the batch; a tuple ("image", 5) asks for picture 5 by number. Text depends
    on the length of the row's description and `seed` alone, so a row written alone equals the same row in a batch.
    """
    written, images, pictures, videos, types, number = [], [], [], [], [], first
    for row in rows:
        generator = torch.Generator().manual_seed(seed + len(row))
        ids: list[int] = []
        columns: list[list[int]] = []
        inside: list[Picture] = []
        clips: list[Picture] = []
        marks: list[int] = []
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(TEXT, VOCAB, (part,), generator=generator).tolist()
                continue
            kind, which = part if isinstance(part, tuple) else (part, number)
            picture = family.picture(which) if kind == "image" else family.video(which)  # type: ignore[misc]
            number += 1
            columns.append([len(ids) + j for j, token in enumerate(picture.ids) if token == picture.placeholder])
            marks += [0] * (len(ids) - len(marks))
            marks += [(1 if kind == "image" else 2) * (token == picture.placeholder) for token in picture.ids]
            ids += picture.ids
            (inside if kind == "image" else clips).append(picture)
        written.append(ids)
        images.append(columns)
        pictures.append(inside)
        videos.append(clips)
        types.append(marks)
    width = max(map(len, written))
    input_ids = torch.full((len(rows), width), PAD)
    mask, marked = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for r, ids in enumerate(written):
        offset = width - len(ids) if side == "left" else 0
        input_ids[r, offset : offset + len(ids)] = torch.tensor(ids)
        mask[r, offset : offset + len(ids)] = 1
        marked[r, offset : offset + len(types[r])] = torch.tensor(types[r], dtype=torch.long)
        images[r] = [[c + offset for c in columns] for columns in images[r]]
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
    if family.types:
        inputs[family.types] = marked
    for each in (pictures, videos):
        if any(each):
            inputs.update(family.collate(each))
    if any(pictures) and family.columns:
        inputs.update(family.columns(inputs))
    return Prompt(inputs, images)


def alone(family: Family, rows: Sequence[Sequence[Any]], row: int) -> Prompt:
    """Row `row` of `prompt(family, rows)` as a batch of its own, with the same pictures and no padding."""
    first = sum(part in ("image", "video") for before in rows[:row] for part in before)
    return prompt(family, [rows[row]], first=first)


def labels_of(batch: Prompt) -> Tensor:
    """Labels for every real column that is no image and no special id; -100 elsewhere."""
    ids = batch.ids
    return torch.where((ids >= TEXT) & batch.inputs["attention_mask"].bool(), ids, torch.full_like(ids, -100))


def module(model: nn.Module, path: str) -> nn.Module:
    """A submodule by its dotted path."""
    return model.get_submodule(path)


# building


def _pixels(number: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 + number), dtype=torch.float64)


def _finish(config: Any, seed: int = 0) -> Any:
    from transformers import AutoModelForImageTextToText, GenerationConfig

    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").to(torch.float64).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.08, generator=generator)
    model.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=1, use_cache=True)
    return model


def _config(model_type: str, *, text: dict[str, Any], vision: dict[str, Any], **top: Any) -> Any:
    from transformers import CONFIG_MAPPING

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CONFIG_MAPPING[model_type](
        text_config={**sizes, **text}, vision_config={**tower, **vision}, **{"image_token_id": IMAGE, **top}
    )


def build_llava() -> Any:
    return _finish(
        _config(
            "llava",
            text={"model_type": "llama"},
            vision={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 32},
        )
    )


def build_llava_next() -> Any:
    return _finish(
        _config(
            "llava_next",
            text={"model_type": "llama"},
            vision={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "projection_dim": 32},
            image_grid_pinpoints=[[32, 32], [32, 64], [64, 32]],
        )
    )


def build_qwen2_5_vl() -> Any:
    return _finish(
        _config(
            "qwen2_5_vl",
            text={
                "model_type": "qwen2_5_vl_text",
                "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
            },
            vision={
                "depth": 2,
                "num_heads": 4,
                "out_hidden_size": 64,
                "patch_size": 8,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 32,  # windows of 2 x 2 tokens in layer 0; layer 1 sees the whole image
                "fullatt_block_indexes": [1],
            },
            video_token_id=VIDEO,
            vision_start_token_id=START,
            vision_end_token_id=END,
        )
    )


def build_internvl() -> Any:
    return _finish(
        _config(
            "internvl",
            text={"model_type": "qwen2"},
            vision={"image_size": [48, 48], "patch_size": [8, 8]},
            image_seq_length=9,
        )
    )


def build_gemma3(window: int = 64) -> Any:
    return _finish(
        _config(
            "gemma3",
            text={
                "model_type": "gemma3_text",
                "layer_types": ["sliding_attention", "full_attention"],
                "sliding_window": window,
                "query_pre_attn_scalar": 16,
            },
            vision={"model_type": "siglip_vision_model", "image_size": 48, "patch_size": 8, "vision_use_head": False},
            mm_tokens_per_image=9,
            boi_token_id=START,
            eoi_token_id=END,
        )
    )


def build_gemma3_narrow() -> Any:
    """A window of 6 columns, so that the sliding layer does not see the whole prompt."""
    return build_gemma3(window=6)


def build_idefics3() -> Any:
    config = _config(
        "idefics3",
        text={"model_type": "llama"},
        vision={"image_size": 48, "patch_size": 8},
        scale_factor=2,
        pad_token_id=PAD,
    )
    return _finish(config)


# pictures


def _llava(number: int) -> Picture:
    return Picture([IMAGE] * 16, {"pixel_values": _pixels(number, 1, 3, 32, 32)})


def _llava_next(number: int) -> Picture:
    # base tile 2 x 2; then the tiles' 2 x 2 patches each with a newline per row, padding cut off
    size, tiles, n = [((32, 32), 2, 4 + 2 * 3), ((64, 32), 3, 4 + 4 * 3), ((32, 64), 3, 4 + 2 * 5)][number % 3]
    return Picture(
        [IMAGE] * n, {"pixel_values": _pixels(number, 1, tiles, 3, 32, 32), "image_sizes": torch.tensor([size])}
    )


def _qwen(number: int) -> Picture:
    h, w = [(6, 8), (4, 6), (8, 4)][number % 3]  # patches; tokens are 2 x 2 of them
    pixels = {"pixel_values": _pixels(number, h * w, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, h, w]])}
    return Picture([START, *[IMAGE] * (h * w // 4), END], pixels)


def _internvl(number: int) -> Picture:
    tiles = {3: 4}.get(number, 1 + number % 2)  # the tiles of one image are one run
    return Picture([START, *[IMAGE] * (9 * tiles), END], {"pixel_values": _pixels(number, tiles, 3, 48, 48)})


def _gemma3(number: int) -> Picture:
    return Picture([START, *[IMAGE] * 9, END], {"pixel_values": _pixels(number, 1, 3, 48, 48)})


def _idefics3(number: int) -> Picture:
    return Picture(tile_ids(0, 0), {"pixel_values": _pixels(number, 1, 1, 3, 48, 48)})


def _idefics3_tiles(number: int) -> Picture:
    rows, cols = [(1, 2), (0, 0), (2, 1)][number % 3]
    return Picture(tile_ids(rows, cols), {"pixel_values": _pixels(number, 1, rows * cols + 1, 3, 48, 48)})


def tile_ids(rows: int, cols: int, run: int = 9) -> list[int]:
    """One idefics3 image: `<fake><row_col>` run for each tile, a newline after each row, then the whole picture."""
    ids = []
    for r in range(rows):
        for c in range(cols):
            ids += [FAKE, ROW_COL + 6 * r + c, *[IMAGE] * run]
        ids += [NEWLINE]
    return [*ids, *([NEWLINE] if rows else []), FAKE, GLOBAL, *[IMAGE] * run, FAKE]


# batches of pixels


def _concatenated(rows: list[list[Picture]]) -> dict[str, Any]:
    pictures = [p for row in rows for p in row]
    return {key: torch.cat([p.pixels[key] for p in pictures]) for key in pictures[0].pixels}


def _padded_tiles(rows: list[list[Picture]]) -> dict[str, Any]:
    """llava_next: (images, most tiles, 3, h, w), the surplus filled with zeros as its image processor does."""
    pictures = [p for row in rows for p in row]
    most = max(p.pixels["pixel_values"].shape[1] for p in pictures)
    pixels = [nn.functional.pad(p.pixels["pixel_values"], (0,) * 7 + (most - p.pixels["pixel_values"].shape[1],))
              for p in pictures]  # fmt: skip
    return {"pixel_values": torch.cat(pixels), "image_sizes": torch.cat([p.pixels["image_sizes"] for p in pictures])}


def _padded_rows(rows: list[list[Picture]]) -> dict[str, Any]:
    """idefics3: (rows, most tiles of a row, 3, h, w), absent ones all zero."""
    held = [
        torch.cat([p.pixels["pixel_values"] for p in row], 1) if row else torch.zeros(1, 0, 3, 48, 48).double()
        for row in rows
    ]
    most = max(h.shape[1] for h in held)
    return {"pixel_values": torch.cat([nn.functional.pad(h, (0,) * 7 + (most - h.shape[1],)) for h in held])}


@functools.cache
def idefics3_processor() -> Any:
    """The genuine processor over a word-level vocabulary in which ids are those of this file."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Idefics3ImageProcessor, Idefics3Processor, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCAB)}
    names = {PAD: "<pad>", 1: "<s>", 2: "</s>", IMAGE: "<image>", FAKE: "<fake_token_around_image>"}
    names |= {GLOBAL: "<global-img>", NEWLINE: "\n", 3: "<unk>", 4: "<end_of_utterance>", VIDEO: "<video>"}
    names |= {ROW_COL + 6 * r + c: f"<row_{r + 1}_col_{c + 1}>" for r in range(3) for c in range(6)}
    for index, name in names.items():
        del words[f"w{index}"]
        words[name] = index
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": [n for i, n in names.items() if i >= IMAGE and i != VIDEO]})
    size = {"longest_edge": 96}
    return Idefics3Processor(
        Idefics3ImageProcessor(size=size, max_image_size={"longest_edge": 48}), fast, image_seq_len=9
    )


FAMILIES: dict[str, Family] = {
    f.name: f
    for f in [
        Family(
            "llava", build_llava, _llava, _concatenated, "model.language_model", "model.vision_tower", touching=True
        ),
        Family(
            "llava_next",
            build_llava_next,
            _llava_next,
            _padded_tiles,
            "model.language_model",
            "model.vision_tower",
            touching=True,
        ),
        Family(
            "qwen2_5_vl",
            build_qwen2_5_vl,
            _qwen,
            _concatenated,
            "model.language_model",
            "model.visual",
            types="mm_token_type_ids",
            mrope=True,
        ),
        Family(
            "internvl",
            build_internvl,
            _internvl,
            _concatenated,
            "model.language_model",
            "model.vision_tower",
            container="stacked",
        ),
        Family(
            "gemma3",
            build_gemma3,
            _gemma3,
            _concatenated,
            "model.language_model",
            "model.vision_tower",
            types="token_type_ids",
            container="stacked",
        ),
        Family(
            "idefics3",
            build_idefics3,
            _idefics3,
            _padded_rows,
            "model.text_model",
            "model.vision_model",
            options=lambda: {"processor": idefics3_processor()},
        ),
        Family(
            "idefics3_tiles",
            build_idefics3,
            _idefics3_tiles,
            _padded_rows,
            "model.text_model",
            "model.vision_model",
            options=lambda: {"processor": idefics3_processor()},
        ),
    ]
}
