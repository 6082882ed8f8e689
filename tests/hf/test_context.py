"""What a compressor is given beside the vision tokens: the question, the grid, the importance, and nothing unasked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

import tokscale
from tests.hf.helpers import ByNorm, checkpointing, forget, forward, generate
from tests.tiny_models import END, FAKE, FAMILIES, GLOBAL, IMAGE, NEWLINE, TEXT, Family, Prompt, alone, module, prompt

K = 3


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def model(family: Family) -> Any:
    return family.model()


class Notes(ByNorm):
    """Keeps by norm, and writes down what it was given for each image: `seen` maps an image's tokens to its context."""

    def __init__(self, needs: set[str] = frozenset(), uses: set[str] = frozenset()) -> None:
        super().__init__(K)
        self.needs, self.uses = frozenset(needs), frozenset(uses)
        self.seen: list[tuple[Tensor, dict[str, Any]]] = []

    def compress(self, vision_tokens: Tensor, **context: Any) -> tokscale.Compressed:
        for i in range(len(vision_tokens)):
            self.seen.append((vision_tokens[i].detach(), {key: self.of(value, i) for key, value in context.items()}))
        return super().compress(vision_tokens, **context)

    @staticmethod
    def of(value: Any, i: int) -> Any:
        return value[i] if isinstance(value, Tensor) else value


def features(family: Family, model: Any, batch: Prompt) -> list[Tensor]:
    """The features of each image, in order, from the unpatched model."""
    keys = ("pixel_values", "image_sizes", "image_grid_thw")
    forget(model)
    with torch.no_grad():
        output = model.get_image_features(
            **{k: v for k, v in batch.inputs.items() if k in keys}, return_dict=True
        ).pooler_output
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
    return list(flat.split([len(columns) for images in batch.images for columns in images]))


def noted(family: Family, model: Any, batch: Prompt, compressor: Notes, **options: Any) -> list[dict[str, Any]]:
    """The context of each image of a forward call, in order; features reach the compressor bit for bit."""
    expected = features(family, model, batch)
    labels = options.pop("labels", None)
    with tokscale.patch(model, compressor, **family.options(), **options):
        forward(model, batch.inputs, **({} if labels is None else {"labels": labels}))
    found = []
    for image in expected:
        (match,) = [context for tokens, context in compressor.seen if torch.equal(tokens, image)]
        found.append(match)
    assert len(compressor.seen) == len(expected)
    return found


def test_nothing_is_collected_unasked(family: Family, model: Any) -> None:
    """Neither passed on nor worked for: the tower's attention setting is never touched, and ids are embedded once."""
    batch, touched, passed = prompt(family, [[2, "image", 3, "image", 2]]), [], []
    tower, compressor = module(model, family.tower), ByNorm(K)
    guarded = compressor.compress
    compressor.compress = lambda tokens, **context: (passed.append(context), guarded(tokens, **context))[1]
    tower.set_attn_implementation = lambda *_: touched.append("tower")
    hook = model.get_input_embeddings().register_forward_hook(lambda *_: touched.append("embedding"))
    try:
        with tokscale.patch(model, compressor, **family.options()):
            forward(model, batch.inputs)
    finally:
        hook.remove()
        del tower.set_attn_implementation
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


# importance


WITH_IMPORTANCE = [name for name in FAMILIES if name != "llava_next"]
CLS = {"llava": True, "internvl": True}


def read_layer(family: Family, model: Any) -> torch.nn.Module:
    """The encoder layer whose output the model reads last: features are a function of what it gives."""
    layers = {
        "llava": "encoder.layers.0",  # vision_feature_layer = -2 of two layers
        "qwen2_5_vl": "blocks.1",
        "internvl": "encoder.layer.1",
    }.get(family.name, "encoder.layers.1")
    return module(model, f"{family.tower}.{layers}")


def eager(calls: list[Tensor]) -> Any:
    """Attention by its definition; the weights of each call (heads, queries, keys) are appended to `calls`."""

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        assert attention_mask is None or bool(attention_mask.all())
        weights = (query @ key.transpose(-1, -2) * scaling).softmax(-1)
        calls.append(weights.detach())
        return (weights @ value).transpose(1, 2).contiguous(), None

    return attention


def expected_importance(family: Family, model: Any, batch: Prompt) -> list[Tensor]:
    """By the definition: the weights of the layer that is read, [CLS] row or mean over queries, mean over heads, and
    the mean over the patches that a feature depends on, which the derivative of the features shows."""
    twin = family.model()
    calls: list[Tensor] = []
    AttentionInterface.register("tests_eager", eager(calls))
    module(twin, family.tower).set_attn_implementation("tests_eager")
    layer, held, inside = read_layer(family, twin), [], []
    layer.register_forward_pre_hook(lambda *_: inside.append(len(calls)))

    def keep(_: Any, __: Any, output: Any) -> None:
        out = output if isinstance(output, Tensor) else output[0]
        out.retain_grad()
        held.append(out)
        inside.append(len(calls))

    layer.register_forward_hook(keep)
    keys = ("pixel_values", "image_sizes", "image_grid_thw")
    given = {k: v for k, v in batch.inputs.items() if k in keys}
    output = twin.get_image_features(**given, return_dict=True).pooler_output
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
    (hidden,) = held
    received = []  # per patch, in the order of the layer's rows
    for weights in calls[inside[0] : inside[1]]:
        per_key = weights[:, :, 0] if CLS.get(family.name) else weights.mean(2)
        received += list(per_key.mean(1))
    patches = torch.cat(received)
    result = []
    for feature in flat:
        (gradient,) = torch.autograd.grad(feature.sum(), hidden, retain_graph=True)
        rows = gradient.reshape(-1, gradient.shape[-1]).abs().sum(-1) > 0
        result.append(patches[rows].mean())
    sizes = [len(columns) for images in batch.images for columns in images]
    return list(torch.stack(result).split(sizes))


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    rows = [[2, "image", 3, "image", 2], [3, "image", 4]]
    batch = prompt(family, rows)
    expected = expected_importance(family, model, batch)
    before = [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")]

    class Watches(Notes):
        def compress(self, vision_tokens: Tensor, **context: Any) -> tokscale.Compressed:
            now = [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")]
            assert now == before  # it is switched during the encode only
            return super().compress(vision_tokens, **context)

    contexts = noted(family, model, batch, Watches({"importance"}))  # features bitwise those of SDPA
    for context, theirs in zip(contexts, expected):
        ours = context["importance"]
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        assert theirs.std() > 0
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-7)
    assert [p.config._attn_implementation for p in model.modules() if hasattr(p, "config")] == before


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_of_a_row_alone(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    rows = [[2, "image", 3, "image", 2], [3, "image", 4]]
    together = noted(family, model, prompt(family, rows), Notes({"importance"}))
    single = noted(family, model, alone(family, rows, 1), Notes({"importance"}))
    torch.testing.assert_close(together[2]["importance"], single[0]["importance"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", WITH_IMPORTANCE)
def test_importance_in_generate_and_in_training(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    batch = prompt(family, [[3, "image", 4]])
    (expected,) = noted(family, model, batch, Notes({"importance"}))
    model.train()
    checkpointing(model, True)
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor, **family.options()):
        forget(model)
        loss = model(**batch.inputs, labels=batch.ids, use_cache=False).loss
        loss.backward()  # recomputation runs outside the call: it must find nothing to write to
    assert len(compressor.seen) == 1
    torch.testing.assert_close(compressor.seen[0][1]["importance"], expected["importance"], rtol=1e-5, atol=1e-8)
    checkpointing(model, False)
    model.eval()
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor, **family.options()):
        generate(model, batch.inputs)
    assert len(compressor.seen) == 1
    assert torch.equal(compressor.seen[0][1]["importance"], expected["importance"])


def test_importance_under_eager_attention() -> None:
    """The setting that the user chose is there again afterwards, and the importance is the same."""
    family = FAMILIES["llava"]
    batch = prompt(family, [[3, "image", 4]])
    (expected,) = noted(family, family.model(), batch, Notes({"importance"}))
    model = family.model()
    module(model, family.tower).set_attn_implementation("eager")
    compressor = Notes({"importance"})
    with tokscale.patch(model, compressor):
        forward(model, batch.inputs)
    assert module(model, family.tower).config._attn_implementation == "eager"
    assert module(model, family.language_model).config._attn_implementation == "sdpa"
    torch.testing.assert_close(compressor.seen[0][1]["importance"], expected["importance"], rtol=1e-4, atol=1e-7)


def test_all_at_once(family: Family, model: Any) -> None:
    needs = {"text", "importance"} if family.name != "llava_next" else {"text"}
    batch = prompt(family, [[2, "image", 3, "image", 2]])
    for context in noted(family, model, batch, Notes(needs, {"grid"})):
        assert context["text_tokens"].ndim == 2
        assert needs == {"text"} or context["importance"].ndim == 1
