"""What a compressor is given beside the vision tokens: the question, the grid, the importance, and nothing unasked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tests.hf.helpers import ByNorm, forward, generate
from tests.hf.notes import Notes, noted
from tests.tiny_models import END, FAKE, FAMILIES, GLOBAL, IMAGE, NEWLINE, TEXT, Family, Prompt, alone, prompt
from tokscale.hf import tap

K = 3


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> Any:
    return family.model()


def test_nothing_is_collected_unasked(family: Family, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither passed on nor worked for: no layer of the tower is tapped, and ids are embedded once."""
    batch, touched, passed = prompt(family, [[2, "image", 3, "image", 2]]), [], []
    compressor = ByNorm(K)
    guarded = compressor.compress
    compressor.compress = lambda tokens, **context: (passed.append(context), guarded(tokens, **context))[1]
    monkeypatch.setattr(tap, "_View", lambda *_: touched.append("tower"))
    hook = model.get_input_embeddings().register_forward_hook(lambda *_: touched.append("embedding"))
    try:
        with tokscale.patch(model, compressor, **family.options()):
            forward(model, batch.inputs)
    finally:
        hook.remove()
    assert touched == ["embedding"]  # the original's own
    assert passed
    assert all(value is None for context in passed for value in context.values())


# the question


def silent(family: Family) -> set[int]:
    """Ids that are no question: what the config names, and markers where a processor tells them."""
    ids = {IMAGE}
    if family.name in ("qwen2_5_vl", "gemma3"):
        ids |= {12, 13}  # named in the config
    if family.options():
        ids |= {FAKE, GLOBAL, NEWLINE, *range(17, 35)}
    return ids


def question_ids(family: Family, batch: Prompt, row: int, image: int, answer: set[int] = frozenset()) -> list[int]:
    """The default rule: text after the image to the end of the row; if there is none, text before it."""
    columns, ids = batch.images[row][image], batch.ids[row].tolist()
    real = set(batch.real(row).tolist()) - answer

    def text(where: range) -> list[int]:
        return [ids[c] for c in where if c in real and ids[c] not in silent(family)]

    return text(range(columns[-1] + 1, len(ids))) or text(range(columns[0]))


def check_question(model: Any, context: dict[str, Any], ids: list[int]) -> None:
    tokens, mask = context["text_tokens"], context.get("text_mask")
    if mask is not None:
        assert mask.dtype == torch.bool
        tokens = tokens[mask]
    expected = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long)).detach()
    assert tokens.shape == expected.shape
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_question(family: Family, model: Any, side: str) -> None:
    rows = [[2, "image", 5, "image", 2], [3, "image", 4], [6, "image"]]
    batch = prompt(family, rows, side=side)
    contexts = iter(noted(family, model, batch, Notes({"text"})))
    for row, images in enumerate(batch.images):
        for image in range(len(images)):
            check_question(model, next(contexts), question_ids(family, batch, row, image))


def test_question_of_a_row_alone(family: Family, model: Any) -> None:
    rows = [[2, "image", 5, "image", 2], [3, "image", 4]]
    together = noted(family, model, prompt(family, rows), Notes({"text"}))
    single = noted(family, model, alone(family, rows, 1), Notes({"text"}))
    masks = [c.get("text_mask") for c in (together[2], single[0])]
    tokens = [c["text_tokens"] if m is None else c["text_tokens"][m] for c, m in zip((together[2], single[0]), masks)]
    assert torch.equal(*tokens)


def test_the_answer_is_no_question(family: Family, model: Any) -> None:
    """Columns with a label are excluded: the selection must not see the answer."""
    batch = prompt(family, [[3, "image", 6]])
    labels = torch.full_like(batch.ids, -100)
    labels[:, -4:] = batch.ids[:, -4:]
    answer = set(range(batch.ids.shape[1] - 4, batch.ids.shape[1]))
    (context,) = noted(family, model, batch, Notes({"text"}), labels=labels)
    ids = question_ids(family, batch, 0, 0, answer)
    assert ids[-2:] == batch.ids[0, -6:-4].tolist()
    check_question(model, context, ids)


def test_everything_labelled_is_an_empty_question_or_the_text_before(family: Family, model: Any) -> None:
    batch = prompt(family, [[3, "image", 4]])
    labels = batch.ids.clone()
    labels[labels == IMAGE] = -100
    labels[:, :3] = -100
    (context,) = noted(family, model, batch, Notes({"text"}), labels=labels)
    answer = set((labels[0] != -100).nonzero()[:, 0].tolist())
    check_question(model, context, question_ids(family, batch, 0, 0, answer))


def test_an_empty_question_is_allowed(family: Family, model: Any) -> None:
    batch = prompt(family, [["image"]])
    (context,) = noted(family, model, batch, Notes({"text"}))
    # a closing marker that neither the config nor a processor names counts as text
    check_question(model, context, [END] if family.name == "internvl" else [])


def test_question_in_generate(family: Family, model: Any) -> None:
    batch, compressor = prompt(family, [[3, "image", 4]]), Notes({"text"})
    with tokscale.patch(model, compressor, **family.options()):
        generate(model, batch.inputs)
    assert len(compressor.seen) == 1  # once, not at every step
    check_question(model, compressor.seen[0][1], question_ids(family, batch, 0, 0))


def test_a_question_of_ones_own(family: Family, model: Any) -> None:
    rows = [[3, "image", 4], [2, "image", 6]]
    batch, asked = prompt(family, rows), []

    def first_two(ids: Tensor, is_image: Tensor) -> Tensor:
        assert ids.ndim == is_image.ndim == 1
        assert is_image.dtype == torch.bool
        assert torch.equal(is_image, ids == IMAGE)
        asked.append(ids)
        mask = torch.zeros_like(is_image)
        mask[(ids >= TEXT).nonzero()[:2, 0]] = True
        return mask

    contexts = noted(family, model, batch, Notes({"text"}), question=first_two)
    assert len(asked) >= 2
    for row, context in enumerate(contexts):
        ids = batch.ids[row]
        check_question(model, context, ids[ids >= TEXT][:2].tolist())


# the grid


def as_tuple(grid: Any) -> tuple[int, ...] | None:
    return None if grid is None else tuple(int(x) for x in grid)


@pytest.mark.parametrize(
    ("name", "first", "grids"),
    [
        ("llava", 0, [(4, 4), (4, 4)]),
        ("llava_next", 0, [None, None]),  # 10 features, and 16 that are no square: newline features among them
        ("qwen2_5_vl", 0, [(3, 4), (2, 3)]),
        ("internvl", 2, [(3, 3), None]),  # picture 3 has four tiles: 36 features, but no 6 x 6
        ("gemma3", 0, [(3, 3), (3, 3)]),
        ("idefics3", 0, [(3, 3), (3, 3)]),
        ("idefics3_tiles", 0, [None, (3, 3)]),  # three tiles joined; one
    ],
)
def test_grid(name: str, first: int, grids: list[Any]) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[2, "image", 3, "image", 2]], first=first)
    compressor, passed = Notes(uses={"grid"}), []
    guarded = compressor.compress  # which fills in a grid for methods that only use one
    compressor.compress = lambda tokens, **context: (passed.append((tokens, context)), guarded(tokens, **context))[1]
    with tokscale.patch(model, compressor, **family.options()) as handle:
        forward(model, batch.inputs)
        assert [as_tuple(image.grid) for image in handle.last.images] == grids
    given = [as_tuple(context.get("grid")) for tokens, context in passed for _ in tokens]
    assert sorted(given, key=str) == sorted(grids, key=str)
    if None not in grids:
        contexts = noted(family, model, batch, Notes(needs={"grid"}))
        assert [as_tuple(context["grid"]) for context in contexts] == grids


def test_all_at_once(family: Family, model: Any) -> None:
    needs = {"text", "importance"} if family.name != "llava_next" else {"text"}
    batch = prompt(family, [[2, "image", 3, "image", 2]])
    for context in noted(family, model, batch, Notes(needs, {"grid"})):
        assert context["text_tokens"].ndim == 2
        assert needs == {"text"} or context["importance"].ndim == 1
