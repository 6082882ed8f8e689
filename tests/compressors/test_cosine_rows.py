"""Few of many tokens on the CPU: the choice that reads only the rows it needs is that of the whole matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale.compressors import cosine_rows
from tokscale.compressors.similarity import cosine_matrix, directions

N = cosine_rows.MANY
METHODS = {
    "dpp": {},
    "cdpruner": {"text_tokens": torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(2))},
    "idpruner": {"importance": torch.rand(2, N, generator=torch.Generator().manual_seed(3))},
}


def tokens(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, N, 48, generator=draw)
    if kind == "clusters":
        x = 0.3 * x + torch.randn(2, 9, 48, generator=draw)[:, torch.arange(N) % 9]
    if kind == "twice":
        x[:, N // 2 :] = x[:, : N // 2]
    if kind == "zeros":
        x[:, ::3] = 0
    return x


@pytest.mark.parametrize("kind", ["plain", "clusters", "twice", "zeros"])
@pytest.mark.parametrize("name", METHODS)
def test_the_choice_is_that_of_the_whole_matrix(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, context = tokens(kind), METHODS[name]
    module: Any = tokscale.create_compressor(name, num_tokens=40)
    assert cosine_rows.pays(x, 40)
    by_rows = module.compress(x, **context).positions
    one = {key: value[1:] for key, value in context.items()}
    assert torch.equal(module.compress(x[1:], **one).positions, by_rows[1:])
    monkeypatch.setattr(cosine_rows, "pays", lambda x, k: False)
    assert torch.equal(module.compress(x, **context).positions, by_rows)


@pytest.mark.parametrize("name", METHODS)
def test_past_the_rank_it_goes_on_as_the_whole_matrix_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens("plain")
    x[..., 5:] = 0
    module: Any = tokscale.create_compressor(name, num_tokens=40)
    context = {"text_tokens": METHODS[name]["text_tokens"]} if name == "cdpruner" else METHODS[name]
    kept = module.compress(x, **context).positions
    monkeypatch.setattr(cosine_rows, "pays", lambda x, k: False)
    assert torch.equal(module.compress(x, **context).positions, kept)


def test_rows_are_those_of_the_matrix_and_few_are_made() -> None:
    x = tokens("zeros").double()
    whole = cosine_matrix(x)[0].numpy()
    rows = cosine_rows.CosineRows(*(part[0] for part in directions(x)))
    for i, values in ((5, whole[5]), (3, whole[5]), (5, whole[0])):
        assert abs(rows(i, values) - whole[i]).max() < 1e-12
    assert len(rows._made) <= 2 * (cosine_rows.AT_ONCE + 1)
    assert not cosine_rows.pays(x, N // cosine_rows.SHARE + 1)
