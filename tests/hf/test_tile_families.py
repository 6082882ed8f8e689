"""One image of several tiles in every family whose processor writes markers between them, as that processor does."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.families import tiny
from tests.families.case import Case, Spread
from tests.families.case import case as case_of
from tests.families.compressed import expected
from tests.tiny_models import IMAGE, Prompt
from tokscale.hf import families
from tokscale.hf.images import join_runs, runs_of
from tokscale.hf.twin.build import collate, written

K = 3
MINICPM = SimpleNamespace(
    image_start_token="<image>",
    image_end_token="</image>",
    slice_start_token="<slice>",
    slice_end_token="</slice>",
    image_token="<unk>",
    slice_mode=True,
)


def genuine(kind: str, name: str = "replace_image_token") -> Any:
    """A function of the family's own processor, to be called with what it reads of `self`."""
    module = importlib.import_module(f"transformers.models.{kind}.processing_{kind}")
    processor = next(v for k, v in vars(module).items() if k.endswith("Processor") and v.__module__ == module.__name__)
    return getattr(processor, name)


def _fake(kind: str, n: int, tiles: int) -> str:
    names = SimpleNamespace(
        image_seq_len=n,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_tag="<global-img>",
        global_image_token="<global-img>",
    )
    one = 1 if kind == "granite_docling" else 0  # it writes a picture of one tile as row 1, column 1
    rows, columns = (1, tiles - 1) if tiles > 1 else (one, one)
    return genuine(kind)(names, {"rows": [[rows]], "cols": [[columns]]}, 0)


def _aya(kind: str, n: int, tiles: int) -> str:
    names = SimpleNamespace(
        img_size=round(n**0.5),
        patch_size=1,
        start_of_img_token="<|START_OF_IMG|>",
        end_of_img_token="<|END_OF_IMG|>",
        img_patch_token="<image>",
        tile_token="TILE",
        tile_global_token="TILE_GLOBAL",
    )
    return genuine(kind)(names, {"num_patches": [tiles]}, 0)


def _cohere2(kind: str, n: int, tiles: int) -> str:
    names = SimpleNamespace(
        patch_size=n**0.5,
        image_token="<image>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    return genuine(kind)(names, {"num_patches": [tiles]}, 0)


def _llama4(kind: str, n: int, tiles: int) -> str:
    return genuine(kind, "_prompt_split_image")(None, (1, max(1, tiles - 1)), n).replace("<|patch|>", "<image>")


def _lfm2(kind: str, n: int, tiles: int) -> str:
    names = SimpleNamespace(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    return genuine(kind, "_build_image_tokens")(names, 1, max(1, tiles - 1), n, n, True, True)


def _ovis2(kind: str, n: int, tiles: int) -> str:
    written = genuine(kind)(SimpleNamespace(image_seq_length=n), {"grids": torch.tensor([[1, max(1, tiles - 1)]])}, 0)
    return written.replace("<IMG_ATOM>", "<image>")


def _minicpm(kind: str, n: int, tiles: int) -> str:
    inputs = {
        "grids": [(1, tiles - 1) if tiles > 1 else (0, 0)],
        "num_patches_per_image": [tiles],
        "target_sizes": torch.tensor([[n, 1]] * tiles),
    }
    text = genuine(kind)(MINICPM, inputs, 0, image_token_divisor=1)
    return text.replace("<image>", "<start>").replace("<unk>", "<image>")


WRITERS: dict[str, Callable[[str, int, int], str]] = {
    "idefics3": _fake,
    "smolvlm": _fake,
    "granite_docling": _fake,
    "aya_vision": _aya,
    "cohere2_vision": _cohere2,
    "llama4": _llama4,
    "lfm2_vl": _lfm2,
    "ovis2": _ovis2,
    "minicpmv4_6": _minicpm,
    "minicpmv4_7": _minicpm,
    "minicpm_ocr": _minicpm,
}
BROKEN = {"llama4"}  # every forward raises, unpatched, in this version of transformers


class Vocabulary(dict[str, int]):
    """Ids of what a processor writes: the placeholder, and markers from 14 on."""

    def ids(self, text: str) -> list[int]:
        parts = re.findall(r"<image>|<[^<>]+>|TILE_GLOBAL|TILE_\d+|\n", text)
        assert "".join(parts) == text
        return [self.setdefault(part, IMAGE if part == "<image>" else 14 + len(self)) for part in parts]

    @property
    def processor(self) -> Any:
        return SimpleNamespace(**vars(MINICPM), tokenizer=SimpleNamespace(get_vocab=lambda: dict(self)))


def batch_of(case: Case, kind: str, images: list[int]) -> tuple[Prompt, Vocabulary, int]:
    """A row of text with images of so many tiles, the second and third side by side; tokens of a tile."""
    vocabulary, ids, columns, tiles = Vocabulary(), [50, 51], [], []
    for number, count in enumerate(images):
        these = [written(case.model, kind, 3 * (number + 4 * tile)) for tile in range(count)]
        n = these[0].ids.count(IMAGE)
        part = vocabulary.ids(WRITERS[kind](kind, n, count))
        columns.append([len(ids) + i for i, token in enumerate(part) if token == IMAGE])
        assert len(columns[-1]) == n * count
        ids += part + ([52, 53] if number == 0 else [])
        tiles += these
    ids += [54, 55, 56]
    pixels = collate([tiles], kind)
    if kind in families.ROW_ENTRIES:  # a row's pictures stand on the second axis
        pixels = {name: torch.cat([tile.pixels[name] for tile in tiles], 1) for name in pixels}
    row = torch.tensor([ids])
    inputs: dict[str, Tensor] = {"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}
    if case.family.types:
        inputs[case.family.types] = (row == IMAGE).long()
    return Prompt(inputs, [columns]), vocabulary, n


@pytest.mark.parametrize("kind", families._JOINS)
def test_tiles_are_joined(kind: str) -> None:
    """Three tiles are three tokens in all; images side by side are not one; equal to the reference."""
    case = case_of(kind)
    batch, vocabulary, n = batch_of(case, kind, [3, 1, 3])
    join = families.join_of(kind, vocabulary.processor)
    groups = join_runs(runs_of(batch.ids == IMAGE), batch.ids.tolist(), join)
    assert [sum(run.end - run.start for run in group) for group in groups] == [3 * n, n, 3 * n]
    if kind in BROKEN:
        return
    logits, keep = expected(case, batch, Spread())
    with tokscale.patch(case.model, Spread(K), processor=vocabulary.processor) as handle:
        ours = case.forward(batch).logits
        assert [(image.n, image.k) for image in handle.last.images] == [(3 * n, K), (n, K), (3 * n, K)]
        assert torch.equal(handle.last.keep[0], keep)
    torch.testing.assert_close(ours, logits, rtol=0, atol=case.tolerance)
    with tokscale.patch(case.model, Spread(K)) as handle:
        with pytest.warns(tokscale.errors.TileWarning, match=f"{kind} writes marker tokens") as told:
            case.forward(batch)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case.forward(batch)
        assert len(told) == 1
    with tokscale.patch(case.model, Spread(K), unit="tile", processor=vocabulary.processor) as handle:
        case.forward(batch)
        assert [(image.n, image.k) for image in handle.last.images] == [(n, K)] * 7


@pytest.mark.parametrize("kind", sorted(families.TILE_ENTRIES - set(families._JOINS)))
def test_tiles_of_one_run(kind: str) -> None:
    """Where no marker stands between tiles an image is a run, and no processor is asked for."""
    case = case_of(kind)
    tiles = [written(case.model, kind, 3 * number) for number in range(3)]
    n = tiles[0].ids.count(IMAGE)
    ids = [50, *[IMAGE] * 2 * n, 51, *[IMAGE] * n, 52, 53]
    columns = [list(range(1, 1 + 2 * n)), list(range(2 + 2 * n, 2 + 3 * n))]
    row = torch.tensor([ids])
    pixels = collate([tiles], kind)
    if pixels["pixel_values"].ndim == 5:  # pictures, tiles, 3, h, w
        pixels = {"pixel_values": pixels["pixel_values"].transpose(0, 1)}
    batch = Prompt({"input_ids": row, "attention_mask": torch.ones_like(row), **pixels}, [columns])
    logits, keep = expected(case, batch, Spread())
    with tokscale.patch(case.model, Spread(K)) as handle:
        ours = case.forward(batch).logits
        assert [(image.n, image.k) for image in handle.last.images] == [(2 * n, K), (n, K)]
        assert torch.equal(handle.last.keep[0], keep)
    torch.testing.assert_close(ours, logits, rtol=0, atol=case.tolerance)
    with tokscale.patch(case.model, Spread(K), unit="tile") as handle:
        case.forward(batch)
        assert [image.n for image in handle.last.images] == [n] * 3


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "gemma3"])
def test_no_tiles_to_ask_for(kind: str) -> None:
    text = f'unit="tile": no run of placeholders of {kind} is a tile; use unit="image"'
    with pytest.raises(tokscale.ArgumentError) as told:
        tokscale.patch(tiny.build(kind), Spread(K), unit="tile")
    assert str(told.value) == text
