"""Columns: which stay, how every argument follows, and what an image is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tokscale import UnsupportedInputError
from tokscale.hf.families import Join, join_of
from tokscale.hf.images import Image, Run, cut, join_runs, presized, runs_of
from tokscale.hf.prompt import (
    Short,
    keep_mask,
    real_columns,
    restore,
    shorten_arguments,
    shorten_columns,
    shorten_lengths,
)

X = 10  # the placeholder
NONE: frozenset[str] = frozenset()


def test_keep_mask_counts_over_the_batch() -> None:
    is_image = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    keep = keep_mask(is_image, torch.tensor([0, 2, 4]))  # first and third of row 0, second of row 1
    assert keep.tolist() == [[True, True, False, True, True], [False, True, True, True, True]]


def short_of(keep: list[list[int]], real: list[list[int]] | None = None, *, left: bool = False) -> Short:
    mask = torch.tensor(keep, dtype=torch.bool)
    padding = None if real is None else torch.tensor(real, dtype=torch.bool)
    return shorten_columns(mask, (~mask).sum(1).tolist(), real=padding, pad_left=left)


def test_rows_that_lose_alike_keep_their_padding() -> None:
    short = short_of([[1, 0, 1, 1], [1, 1, 0, 1]], [[0, 1, 1, 1], [0, 0, 1, 1]])
    assert short.index.tolist() == [[0, 2, 3], [0, 1, 3]]
    assert not short.padded
    assert short.removed == 1
    assert short.lost.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("left", "index"), [(True, [[-1, 0, 3], [1, 2, 3]]), (False, [[0, 3, -1], [1, 2, 3]])], ids=["left", "right"]
)
def test_ragged_rows_are_padded_anew(left: bool, index: list[list[int]]) -> None:
    short = short_of([[1, 0, 0, 1], [1, 1, 1, 1]], [[1, 1, 1, 1], [0, 1, 1, 1]], left=left)
    assert short.padded
    assert short.index.tolist() == index
    values = torch.arange(8).view(2, 4)
    filled = [[-9 if i < 0 else 4 * row + i for i in columns] for row, columns in enumerate(index)]
    assert short.gather(values, -9).tolist() == filled


def test_gather_on_leading_axes() -> None:
    short = short_of([[1, 0, 1], [0, 1, 1]])
    axes = torch.arange(18).view(3, 2, 3)
    assert short.gather(axes).tolist() == [[[0, 2], [4, 5]], [[6, 8], [10, 11]], [[12, 14], [16, 17]]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_gather_keeps_the_dtype(dtype: torch.dtype) -> None:
    short = short_of([[1, 0, 0], [1, 1, 1]])
    assert short.gather(torch.ones(2, 3, dtype=dtype)).dtype == dtype


def arguments(**named: Any) -> dict[str, Any]:
    return {"input_ids": torch.tensor([[5, X, X, 6], [7, 8, 9, 5]]), **named}


def test_every_argument_follows() -> None:
    short = short_of([[1, 0, 0, 1], [1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, -100, 6], [7, 8, 9, 5]])
    pixels = torch.zeros(2, 4)  # of the prompt's shape by chance
    new, before = shorten_arguments(
        arguments(labels=labels, pixel_values=pixels, custom=torch.ones(2, 4), flag=True, other=torch.ones(3)),
        short,
        pad=1,
        skip=frozenset({"pixel_values"}),
        real=None,
    )
    assert new["input_ids"].tolist() == [[5, 6, 1, 1], [7, 8, 9, 5]]
    assert new["labels"].tolist() == [[-100, 6, -100, -100], [7, 8, 9, 5]]
    assert new["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]  # made: padding is new
    assert new["custom"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert new["pixel_values"] is pixels
    assert new["flag"] is True
    assert new["other"].shape == (3,)
    assert before["labels"] is labels
    assert "attention_mask" not in before


def test_positions_of_one_row_serve_all() -> None:
    short = short_of([[1, 0, 1, 1], [1, 1, 0, 1]])
    new, _ = shorten_arguments(arguments(position_ids=torch.arange(4)[None]), short, pad=0, skip=NONE, real=None)
    assert new["position_ids"].tolist() == [[0, 2, 3], [0, 1, 3]]


def test_columns_whose_logits_are_kept() -> None:
    short = short_of([[1, 0, 1, 1], [1, 0, 1, 1]])
    call = arguments(logits_to_keep=torch.tensor([0, 3]))
    assert shorten_arguments(call, short, pad=0, skip=NONE, real=None)[0]["logits_to_keep"].tolist() == [0, 2]
    with pytest.raises(UnsupportedInputError, match="placeholders that were dropped"):
        shorten_arguments(arguments(logits_to_keep=torch.tensor([1])), short, pad=0, skip=NONE, real=None)
    unlike = short_of([[1, 0, 1, 1], [1, 1, 0, 1]])
    with pytest.raises(UnsupportedInputError, match="pass a number"):
        shorten_arguments(call, unlike, pad=0, skip=NONE, real=None)
    assert shorten_arguments(arguments(logits_to_keep=2), unlike, pad=0, skip=NONE, real=None)[0]["logits_to_keep"] == 2


@pytest.mark.parametrize("mask", [torch.ones(2, 1, 4, 4), torch.ones(2, 3), {"full_attention": None}])
def test_masks_that_cannot_be_cut(mask: Any) -> None:
    short = short_of([[1, 0, 1, 1], [1, 1, 0, 1]])
    with pytest.raises(UnsupportedInputError, match="attention_mask"):
        shorten_arguments(arguments(attention_mask=mask), short, pad=0, skip=NONE, real=None)


def test_padding_is_told_by_the_mask_or_as_generate_guesses() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 5]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(real_columns(ids, mask, generating=True, pad=0, eos=[2]), mask.bool())
    assert torch.equal(real_columns(ids, None, generating=True, pad=0, eos=[2]), ids != 0)
    for call in ({"generating": False, "pad": 0, "eos": [2]}, {"generating": True, "pad": 0, "eos": [0]}):
        assert real_columns(ids, None, **call) is None
    assert real_columns(ids, None, generating=True, pad=3, eos=[]) is None  # no padding in sight


def test_lengths() -> None:
    config = GenerationConfig(max_length=40, min_length=30)
    named: dict[str, Any] = {"generation_config": config}
    shorten_lengths(named, None, 10)
    assert (named["generation_config"].max_length, named["generation_config"].min_length) == (30, 20)
    assert (config.max_length, config.min_length) == (40, 30)  # the caller's own
    named = {"max_length": 40, "min_length": 5}
    shorten_lengths(named, GenerationConfig(max_length=99), 10)
    assert named == {"max_length": 30, "min_length": 0}
    named = {}
    shorten_lengths(named, GenerationConfig(max_length=40), 10)  # the model's own counts the long prompt
    assert named == {"max_length": 30}
    named = {"max_new_tokens": 6}
    shorten_lengths(named, GenerationConfig(max_length=40), 10)
    assert named == {"max_new_tokens": 6}


def test_restored_sequences() -> None:
    ids = torch.tensor([[1, X, X, 2], [1, X, X, 3]])
    out = torch.tensor([[1, 2, 50], [1, 2, 51], [1, 3, 52], [1, 3, 53]])  # two beams a row
    assert restore(out, ids, 2).tolist() == [[1, X, X, 2, 50], [1, X, X, 2, 51], [1, X, X, 3, 52], [1, X, X, 3, 53]]


# images


MASK = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool)


def test_runs() -> None:
    assert runs_of(MASK) == [Run(0, 0, 2, 1, 3), Run(0, 2, 3, 4, 5), Run(1, 3, 5, 0, 2)]
    assert runs_of(torch.zeros(2, 3, dtype=torch.bool)) == []


def ranges(images: list[Image]) -> list[tuple[int, int, int]]:
    return [(image.row, image.start, image.end) for image in images]


def test_cut_at_entries_and_rows() -> None:
    """Two images in one run, then a row of its own: `<image><image>` is one run and two images."""
    assert ranges(cut([2, 2, 3], [4, 3], None)) == [(0, 0, 2), (0, 2, 4), (1, 4, 7)]
    assert ranges(cut([2, 3], [0, 2, 0, 3], None)) == [(1, 0, 2), (3, 2, 5)]  # rows without an image
    with pytest.raises(UnsupportedInputError, match="two rows"):
        cut([4, 3], [3, 4], None)


def test_cut_at_runs() -> None:
    runs = runs_of(MASK)
    assert ranges(cut([5], [3, 2], [[run] for run in runs])) == [(0, 0, 2), (0, 2, 3), (1, 3, 5)]
    joined = cut([1, 1, 1, 2], [3, 2], [runs[:2], runs[2:]])
    assert ranges(joined) == [(0, 0, 3), (1, 3, 5)]
    assert [image.tile for image in joined] == [False, True]
    assert [image.tile for image in cut([2, 2], [4], [[Run(0, 0, 4, 0, 4)]])] == [False]  # two tiles in one run


def test_join_by_the_marker_before_the_last_tile() -> None:
    join = Join(last=frozenset({15}), ends=frozenset(), markers=frozenset({14, 15, 16, 17, 18}))
    row = [14, 17, X, 14, 18, X, 16, 14, 15, X, 14, 60, 14, 15, X, 14]
    groups = join_runs(runs_of(torch.tensor([row]) == X), [row], join)
    assert [[run.first for run in group] for group in groups] == [[2, 5, 9], [14]]
    touching = [14, 17, X, 14, 15, X, 14, 15, X, 14]  # the second image begins where the first ended
    groups = join_runs(runs_of(torch.tensor([touching]) == X), [touching], join)
    assert [len(group) for group in groups] == [2, 1]


def test_join_by_the_marker_that_closes() -> None:
    join = Join(last=frozenset(), ends=frozenset({13}), markers=frozenset({12, 14}))
    rows = [[12, X, 14, X, 14, 13, 12, X, 14, 13], [X, 14, X, 60, X, 13, 60, 60, 60, 60]]
    groups = join_runs(runs_of(torch.tensor(rows) == X), rows, join)
    assert [[(run.row, run.first) for run in group] for group in groups] == [
        [(0, 1), (0, 3)],
        [(0, 7)],
        [(1, 0), (1, 2)],
        [(1, 4)],
    ]


def test_marker_ids_come_from_the_vocabulary() -> None:
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            names = ["<global-img>", "<fake_token_around_image>", "<row_1_col_2>", "Ċ", "ĊĊ", "word", "Ġ", "<image>"]
            return {name: 100 + i for i, name in enumerate(names)}

    join = join_of("idefics3", type("Processor", (), {"tokenizer": Tokenizer()})())
    assert join is not None
    assert join.last == {100}
    assert join.markers == {100, 101, 102, 103, 104}
    assert join_of("llava", object()) is None
    assert join_of("idefics3", None) is None


def test_prompts_that_were_cut_before() -> None:
    def three(i: int, n: int) -> int:
        return min(3, n)

    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    found = presized([16, 9, 16], [6, 3], runs_of(mask), True, three)
    assert found is not None
    assert [(image.row, image.start, image.end, k) for image, k in found] == [
        (0, 0, 16, 3),
        (0, 16, 25, 3),
        (1, 25, 41, 3),
    ]
    assert presized([16, 9], [6, 3], runs_of(mask), True, three) is None  # six placeholders are made, nine stand there
    assert presized([16, 9, 16], [5, 4], runs_of(mask), True, three) is None  # an image in two rows
    runs = torch.tensor([[1, 1, 1, 0, 1, 1, 1]], dtype=torch.bool)
    found = presized([9, 9, 9, 9], [6], runs_of(runs), False, three)  # two images of two tiles
    assert found is not None
    assert [(image.n, k) for image, k in found] == [(18, 3), (18, 3)]
    assert presized([9, 9, 9], [6], runs_of(runs), False, three) is None  # which run has two tiles cannot be told
