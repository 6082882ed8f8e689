"""Stable order, ranks and ranges, the question's masks, and the checks of arguments that methods share."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tokscale
from tokscale.compressors.layers import fraction, whole
from tokscale.compressors.question import mean_text_cosine, question, text_cosine
from tokscale.compressors.rules import kept, minmax, norms, order, ranks, top
from tokscale.compressors.similarity import cosine_between, cosine_matrix, pair_distance, tamed


def test_equal_scores_go_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 3, 2, 3, 3, 0.0, -0.0]])
    assert order(scores).tolist() == [[1, 3, 4, 2, 0, 5, 6]]
    assert top(scores, 2).tolist() == [[1, 3]]
    assert ranks(scores).tolist() == [[4, 0, 3, 1, 2, 5, 6]]


def test_ranks_of_any_shape_invert_the_order() -> None:
    scores = torch.randint(0, 4, (2, 3, 9)).float()
    assert torch.equal(ranks(scores).gather(-1, order(scores)), torch.arange(9).expand(2, 3, 9))


def test_kept_are_the_marked_in_order() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert kept(mask, 2).tolist() == [[0, 2], [2, 3]]


def test_minmax() -> None:
    assert minmax(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])).tolist() == [[0, 1, 0.5], [1, 1, 1]]
    assert minmax(torch.tensor([[-3e38, 3e38]])).tolist() == [[0, 1]]
    assert minmax(torch.tensor([[1.0, 2.0]]).bfloat16()).dtype == torch.float32


def test_norms_do_not_overflow() -> None:
    x = torch.tensor([[[3.0, -4.0]]])
    assert norms(x).item() == 5 and norms(x, 1).item() == 7
    assert norms(x * 1e30).item() == pytest.approx(5e30) and norms(x * 3e-30).item() == pytest.approx(1.5e-29)


def test_masked_junk_and_an_empty_question_have_cosine_zero() -> None:
    image = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    text, mask = question(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(text_cosine(image, text), torch.tensor([[[0.6, 0.8, 0.0], [0.0, 0.0, 0.0]]]))
    torch.testing.assert_close(mean_text_cosine(image, text, mask), torch.tensor([[0.7, 0.0]]))
    assert mean_text_cosine(image, text[:, :0], mask[:, :0]).tolist() == [[0, 0]]


def test_the_mean_cosine_does_not_depend_on_the_batch() -> None:
    image, text = torch.randn(3, 37, 64), torch.randn(3, 5, 64)
    mask = torch.ones(3, 5, dtype=torch.bool)
    together = mean_text_cosine(image, text, mask)
    for i in range(3):
        assert torch.equal(mean_text_cosine(image[i : i + 1], text[i : i + 1], mask[i : i + 1]), together[i : i + 1])


def test_cosines_between_two_sets_follow_the_same_rules() -> None:
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [4.0, -3.0]]])
    assert torch.equal(cosine_between(x, x), cosine_matrix(x))
    assert cosine_between(x[:, 1:2], x).tolist() == [[[0, 1, 0, 0]]]

    distance = pair_distance(x, x[:, [2, 1, 1, 0]])
    assert distance.tolist() == [[0, 0, 1, 1]]


def test_copies_that_differ_in_rounding_are_one() -> None:
    x = torch.randn(1, 6, 33)
    c = cosine_matrix(torch.cat([x, x * 0.1, x * 3 + 1e-9], 1))
    assert c.view(3, 6, 3, 6).diagonal(dim1=1, dim2=3).eq(1).all()


def test_only_huge_values_are_divided() -> None:
    x = torch.tensor([[[1.0, 2.0], [1e20, 3e20]]])
    assert torch.equal(tamed(x, (-1,)), torch.tensor([[[1.0, 2.0], [1e20 / 3e20, 1.0]]]))
    assert torch.equal(tamed(x[:, :1], (-1,)), x[:, :1])


@pytest.mark.parametrize(
    "check, text",
    [
        (lambda: whole("window", 1.0), "window must be an integer >= 0, got 1.0"),
        (lambda: whole("window", 0, least=1), "window must be an integer >= 1, got 0"),
        (lambda: fraction("share", -0.1), "share must be a number in [0, 1], got -0.1"),
        (lambda: fraction("share", True), "share must be a number in [0, 1], got True"),
        (lambda: fraction("share", 1.0, below=True), "share must be a number in [0, 1), got 1.0"),
    ],
)
def test_arguments_are_checked(check: Any, text: str) -> None:
    with pytest.raises(tokscale.ArgumentError, match=f"^{re.escape(text)}$"):
        check()
