"""`mqt`, `token_packer`, `quecc`, `vision_selector`: their formulas, and that they train."""

from __future__ import annotations

import copy
import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tokscale
from tokscale import AdaptivePooler, TokenCompressor
from tokscale.compressors import GridResize, MQTResampler, QueCC, TokenPacker, VisionSelector, cells
from tokscale.compressors.attention_layers import Attention, sine_cosine

from .cases import CLIPS, question, words

DIM, TEXT_DIM = 8, 6
MIXING = [MQTResampler(5, DIM, num_heads=2), TokenPacker(5, DIM, num_heads=2), QueCC(5, DIM, TEXT_DIM, num_heads=2)]
ALL = [*MIXING, VisionSelector(5, DIM)]
NAMES = [type(module).__name__ for module in ALL]


def build(module: TokenCompressor) -> TokenCompressor:
    """A copy in float64 whose weights are all away from their initial zeros and ones."""
    module = copy.deepcopy(module).double().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return module


def inputs(grid: tuple[int, ...]) -> tuple[Tensor, dict[str, Any]]:
    x = torch.randn(2, math.prod(grid), DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, {"grid": grid, **question(TEXT_DIM)}


# The formulas, one sample, one query, one head at a time.


def attention(layer: Attention, queries: Tensor, keys: Tensor, values: Tensor, seen: list[list[int]]) -> Tensor:
    """Query i over the tokens `seen[i]`."""
    q, k, v = layer.to_q(queries), layer.to_k(keys), layer.to_v(values)
    width, rows = DIM // layer.num_heads, []
    for i, tokens in enumerate(seen):
        heads = []
        for h in range(layer.num_heads):
            cut = slice(h * width, (h + 1) * width)
            w = torch.softmax(k[tokens, cut] @ q[i, cut] / math.sqrt(width), 0)
            heads.append(w @ v[tokens, cut])
        rows.append(torch.cat(heads))
    return layer.to_out(torch.stack(rows))


def inside(k: int, grid: tuple[int, int, int]) -> list[list[int]]:
    """The tokens whose centre lies in each cell."""
    parts, (t, h, w) = cells(k, grid[1], grid[2], grid[0]), grid
    table = []
    for c in range(k):
        bounds = []
        for axis, size in enumerate(grid):
            i, r = int(parts.index[axis, c]), int(parts.parts[axis, c])
            bounds.append((Fraction(i * size, r), Fraction((i + 1) * size, r)))
        places = [(f, y, x) for f in range(t) for y in range(h) for x in range(w)]
        half = Fraction(1, 2)
        held = [all(low <= at + half < high for at, (low, high) in zip(place, bounds, strict=True)) for place in places]
        table.append([i for i, hold in enumerate(held) if hold])
    assert sorted(i for row in table for i in row) == list(range(t * h * w)) and all(table)
    return table


def codes(grid: tuple[int, int, int]) -> Tensor:
    rows, count = [], DIM // 4
    for i in range(math.prod(grid)):
        y, x = i // grid[2] % grid[1], i % grid[2]
        f = [10000 ** (-j / count) for j in range(count)]
        rows.append([g(at * w) for at in (y, x) for g in (math.sin, math.cos) for w in f])
    return torch.tensor(rows, dtype=torch.float64)


def mqt(module: MQTResampler, x: Tensor, k: int, grid: tuple[int, int, int], text: Tensor) -> Tensor:
    pos, anchors = codes(grid), cells(k, grid[1], grid[2], grid[0]).anchors()
    queries = module.norm_queries(module.queries[:k] + pos[anchors])
    keys = module.norm_keys(x + pos if module.keys == "content" else pos)
    return attention(module.attention, queries, keys, module.norm_values(x), [list(range(len(x)))] * k)


def token_packer(module: TokenPacker, x: Tensor, k: int, grid: tuple[int, int, int], text: Tensor) -> Tensor:
    layer = module.in_cells
    queries = module.to_queries(GridResize(k)(x[None], grid=grid)[0])
    return module.mlp(attention(layer.attention, queries, layer.keys(x), layer.values(x), inside(k, grid)))


def quecc(module: QueCC, x: Tensor, k: int, grid: tuple[int, int, int], text: Tensor) -> Tensor:
    layer = module.in_cells
    z = x + (module.from_text(text.mean(0)) if len(text) else 0)
    queries = AdaptivePooler(k)(module.to_queries(z)[None], grid=grid)[0]
    return attention(layer.attention, queries, layer.keys(x), layer.values(x), inside(k, grid))


@pytest.mark.parametrize("grid, d, k", CLIPS)
def test_the_formulas(grid: tuple[int, int, int], d: int, k: int) -> None:
    x, given = inputs(grid)
    resampler = MQTResampler(k, DIM, num_heads=4, keys="position")
    modules = [*MIXING, resampler]
    for module, formula in zip(modules, (mqt, token_packer, quecc, mqt), strict=True):
        module = build(module)
        module.num_tokens = k
        expected = torch.stack([formula(module, x[i], k, grid, words(given, i)) for i in range(2)])
        result = module.compress(x, **given)
        torch.testing.assert_close(result.tokens, expected, rtol=0, atol=1e-11)
        anchors = cells(k, grid[1], grid[2], grid[0]).anchors()
        assert result.positions.tolist() == [anchors.tolist()] * 2 and result.assignment is None


def test_codes_fill_what_is_left_with_zeros() -> None:
    table = sine_cosine((2, 3), 7, torch.float32, torch.device("cpu"))
    assert table.shape == (6, 7) and table[:, 4:].eq(0).all() and table.unique(dim=0).shape == (6, 7)
    assert sine_cosine((2, 3), 3, torch.float32, torch.device("cpu")).eq(0).all()


def test_an_empty_question_does_not_shift_quecc() -> None:
    module, (x, given) = build(QueCC(5, DIM, TEXT_DIM, num_heads=2)), inputs((4, 5))
    empty = module.compress(x, grid=(4, 5), text_tokens=given["text_tokens"][:, :0])
    masked = {"text_tokens": given["text_tokens"], "text_mask": torch.zeros(2, 6, dtype=torch.bool)}
    assert torch.equal(empty.tokens, module.compress(x, grid=(4, 5), **masked).tokens)
    expected = torch.stack([quecc(module, v, 5, (1, 4, 5), torch.empty(0, TEXT_DIM)) for v in x])
    torch.testing.assert_close(empty.tokens, expected, rtol=0, atol=1e-11)


def test_quecc_hears_the_question() -> None:
    module, (x, given) = build(QueCC(5, DIM, TEXT_DIM, num_heads=2)), inputs((4, 5))
    other = {**given, "text_tokens": given["text_tokens"].flip(-1)}
    assert not torch.allclose(module(x, **given), module(x, **other), atol=1e-3)


def test_positions_as_keys_do_not_see_the_image() -> None:
    module = build(MQTResampler(3, DIM, num_heads=2, keys="position"))
    x, y = (torch.randn(1, 12, DIM, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        module.norm_values = nn.Identity()
        both = module(x) + module(y) - module(torch.zeros_like(x))
        torch.testing.assert_close(module(x + y), both, rtol=0, atol=1e-12)


# Budgets.


def test_mqt_serves_every_budget_up_to_its_queries_by_prefix() -> None:
    module = build(MQTResampler(4, DIM, num_queries=9, num_heads=2))
    x, given = inputs((5, 4))
    for k in (9, 1, 4):
        module.num_tokens = k
        short = copy.deepcopy(module)
        with torch.no_grad():
            short.queries[k:] = torch.nan  # never read
        assert torch.equal(module(x, **given), short(x, **given))


def test_mqt_refuses_more_tokens_than_queries() -> None:
    text = (
        "num_tokens=10 exceeds the 9 queries this MQTResampler was built with. "
        "Use num_tokens <= 9, or build it with num_tokens=10 and train it."
    )
    module = MQTResampler(4, DIM, num_queries=9)
    with pytest.raises(tokscale.BudgetError, match=f"^{re.escape(text)}$"):
        module.num_tokens = 10
    assert module.num_tokens == 4
    with pytest.raises(tokscale.BudgetError, match=f"^{re.escape(text)}$"):
        MQTResampler(10, DIM, num_queries=9)


@pytest.mark.parametrize("cls", [MQTResampler, TokenPacker, QueCC])
def test_heads_divide_the_width(cls: type[TokenCompressor]) -> None:
    with pytest.raises(tokscale.ArgumentError, match=r"^dim=12 is not a multiple of num_heads=8$"):
        cls(4, 12)


@pytest.mark.parametrize("module", ALL, ids=NAMES)
def test_another_width(module: TokenCompressor) -> None:
    name = type(module).__name__
    text = f"^vision_tokens has width 7, but this {name} was built with dim={DIM}$"
    with pytest.raises(tokscale.ShapeError, match=text):
        module(torch.zeros(1, 9, 7), text_tokens=torch.zeros(1, 3, TEXT_DIM))


def test_another_width_of_the_question() -> None:
    text = f"^text_tokens has width 8, but this QueCC was built with text_dim={TEXT_DIM}$"
    with pytest.raises(tokscale.ShapeError, match=text):
        MIXING[2](torch.zeros(1, 9, DIM), text_tokens=torch.zeros(1, 3, DIM))


# Training.


def unseen(name: str) -> bool:
    """Weights that add the same to every key or every score: a softmax, and a top-k, do not see them."""
    return name in ("norm_keys.bias", "in_cells.keys.1.bias", "to_q.bias")


@pytest.mark.parametrize("module", ALL, ids=NAMES)
def test_every_weight_gets_a_finite_gradient_after_a_step(module: TokenCompressor) -> None:
    torch.manual_seed(0)
    module, (x, given) = copy.deepcopy(module).train(), inputs((5, 6))
    x, given["text_tokens"] = x.float(), given["text_tokens"].float()
    target = torch.randn(2, 5, DIM)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (module(x, **given) - target).square().sum().backward()
        optimizer.step()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert unseen(name) or parameter.grad.abs().sum() > 1e-6, name


@pytest.mark.parametrize("module", MIXING, ids=NAMES[:3])
def test_twenty_steps_lower_the_loss(module: TokenCompressor) -> None:
    """Each output is to be the brightest token of its cell."""
    torch.manual_seed(0)
    module, k = copy.deepcopy(module).train(), 4
    module.num_tokens = k
    x, text = torch.randn(16, 16, DIM), torch.randn(16, 3, TEXT_DIM)
    blocks = x.view(16, 2, 2, 2, 2, DIM).permute(0, 1, 3, 2, 4, 5).reshape(16, k, 4, DIM)
    target = blocks.gather(2, blocks[..., :1].argmax(2, keepdim=True).expand(-1, -1, -1, DIM)).squeeze(2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(21):
        loss = (module(x, grid=(4, 4), text_tokens=text) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("module", ALL, ids=NAMES)
def test_weights_survive_a_folder_bitwise(module: TokenCompressor, tmp_path: Any) -> None:
    module = copy.deepcopy(module)
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    module.save_pretrained(tmp_path)
    loaded = TokenCompressor.from_pretrained(tmp_path)
    assert type(loaded) is type(module) and loaded.config() == module.config()
    x, given = torch.randn(2, 20, DIM), {"grid": (4, 5), "text_tokens": torch.randn(2, 3, TEXT_DIM)}
    assert torch.equal(module.eval()(x, **given), loaded(x, **given))
