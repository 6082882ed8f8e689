from __future__ import annotations

import copy
import inspect
import pickle
import re
import time
from typing import Any

import pytest
import torch
from torch import Tensor

import tokscale
from tokscale import AdaptivePooler, Compressed, CompressorError, TokenCompressor
from tokscale.compressors import UniformSampler
from tokscale.testing import check_compressor


class Needy(TokenCompressor):
    """Needs two things, uses two more, and keeps what it was given."""

    needs = frozenset({"importance", "keys"})
    uses = frozenset({"grid", "text"})

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        self.seen = context
        return Compressed.select(vision_tokens, torch.arange(self.output_length(vision_tokens.shape[1])))


Needy.__name__ = "visionzip"  # messages show an unregistered class by its name


class Probe(TokenCompressor):
    """Returns whatever `answer` makes of the input."""

    answer: Any = None

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        return self.answer(vision_tokens)


def given(n: int = 576) -> dict[str, Any]:
    return {"importance": torch.rand(2, n), "keys": torch.rand(2, n, 8)}


X = torch.randn(2, 576, 16)
OR_PATCH = ", or use tokscale.patch, which collects them"
GRID = "grid must be (h, w) or (t, h, w) of integers >= 1, or one such row per sample, got "


def refused(
    error: type[Exception], text: str, x: Any = X, module: TokenCompressor | None = None, **context: Any
) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$") as caught:
        (module or Needy(4)).compress(x, **context)
    assert isinstance(caught.value, tokscale.TokscaleError)


# Guard 1: the vision tokens.


@pytest.mark.parametrize(
    "x, error, text",
    [
        (
            torch.zeros(576, 1024),
            ValueError,
            "vision_tokens must be (batch, tokens, dim), got shape (576, 1024); add the batch axis with [None]",
        ),
        (
            torch.zeros(1, 8, 4, 4),
            ValueError,
            "vision_tokens must be (batch, tokens, dim), got shape (1, 8, 4, 4); flatten it to (batch, tokens, dim)",
        ),
        (torch.zeros(7), ValueError, "vision_tokens must be (batch, tokens, dim), got shape (7,)"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), TypeError, "vision_tokens is torch.int64; expected a floating dtype"),
        (torch.zeros(2, 0, 4), ValueError, "vision_tokens holds no token: shape (2, 0, 4); at least 1 is needed"),
        (torch.zeros(2, 4, 0), ValueError, "vision_tokens has width 0: shape (2, 4, 0); at least 1 is needed"),
        ([[1.0]], TypeError, "vision_tokens must be a torch.Tensor of shape (batch, tokens, dim), got list"),
    ],
)
def test_vision_tokens_are_checked(x: Any, error: type[Exception], text: str) -> None:
    refused(error, text, x, UniformSampler(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_non_finite_input_raises_and_names_the_sample(value: float, dtype: torch.dtype) -> None:
    x = X.to(dtype).clone()
    x[1, 7, 3] = value
    refused(tokscale.NonFiniteError, "vision_tokens is not finite in sample [1]", x, UniformSampler(4))
    context = given()
    context["importance"][0, 5] = value
    refused(ValueError, "importance is not finite in sample [0]", **context)


def test_finite_values_whose_sum_overflows_pass() -> None:
    x = torch.full((1, 64, 16), 3e38)
    assert UniformSampler(4)(x).shape == (1, 4, 16)
    assert UniformSampler(4)(torch.full((1, 64, 16), 6e4, dtype=torch.float16)).shape == (1, 4, 16)


def test_check_finite_can_be_dropped() -> None:
    module = UniformSampler(4)
    module.check_finite = False
    assert module(torch.full((1, 9, 2), float("nan"))).isnan().all()


# Guard 2 and 3: context.


def test_a_misspelt_key_raises_with_a_suggestion() -> None:
    keys = "text_tokens, text_mask, aligned_tokens, grid, importance, shallow_importance, keys"
    refused(
        tokscale.KeywordError,
        f"visionzip has no keyword 'importence'; it takes {keys}. Did you mean 'importance'?",
        importence=None,
    )


def test_a_known_key_that_is_not_read_is_accepted_and_not_passed_on() -> None:
    module = Needy(4)
    module.compress(X, **given(), shallow_importance="anything", aligned_tokens=None)
    assert set(module.seen) == {"importance", "keys", "grid", "text_tokens", "text_mask"}
    assert module.seen["grid"] == (24, 24) and module.seen["text_tokens"] is None


@pytest.mark.parametrize(
    "context, error, text",
    [
        ({"importance": torch.rand(2, 575)}, ValueError, "importance has shape (2, 575); expected (2, 576)"),
        ({"importance": torch.rand(576)}, ValueError, "importance has shape (576,); expected (2, 576)"),
        (
            {"importance": torch.ones(2, 576, dtype=torch.int64)},
            TypeError,
            "importance is torch.int64; expected a floating dtype",
        ),
        ({"importance": [1.0]}, TypeError, "importance must be a torch.Tensor, got list"),
        ({"keys": torch.rand(2, 576)}, ValueError, "keys has shape (2, 576); expected (2, 576, key dim)"),
        (
            {"text_tokens": torch.rand(1, 5, 8)},
            ValueError,
            "text_tokens has shape (1, 5, 8); expected (2, t, text dim)",
        ),
        ({"text_mask": torch.ones(2, 5).bool()}, ValueError, "text_mask was given without text_tokens"),
        (
            {"text_tokens": torch.rand(2, 5, 8), "text_mask": torch.ones(2, 5)},
            TypeError,
            "text_mask is torch.float32; a mask is boolean, True = keep",
        ),
        (
            {"text_tokens": torch.rand(2, 5, 8), "text_mask": torch.ones(2, 4).bool()},
            ValueError,
            "text_mask has shape (2, 4); expected (2, 5)",
        ),
        ({"grid": (24, 23)}, ValueError, "grid (24, 23) holds 24 * 23 = 552 tokens, but vision_tokens has 576"),
        (
            {"grid": (2, 24, 11)},
            ValueError,
            "grid (2, 24, 11) holds 2 * 24 * 11 = 528 tokens, but vision_tokens has 576",
        ),
        ({"grid": torch.tensor([[24, 24]])}, ValueError, "grid has 1 rows, but vision_tokens holds 2 samples"),
        ({"grid": (576,)}, ValueError, GRID + "(576,)"),
        ({"grid": (24.5, 24)}, ValueError, GRID + "(24.5, 24)"),
        ({"grid": (-24, -24)}, ValueError, GRID + "(-24, -24)"),
        ({"grid": "24x24"}, ValueError, GRID + "'24x24'"),
    ],
)
def test_context_is_checked(context: dict[str, Any], error: type[Exception], text: str) -> None:
    refused(error, text, **{**given(), **context})


@pytest.mark.parametrize(
    "grid", [(24, 24), [24, 24], torch.tensor([24, 24]), torch.tensor([[24, 24]] * 2), [(24, 24)] * 2]
)
def test_a_grid_in_any_form_arrives_as_integers(grid: Any) -> None:
    module = Needy(4)
    module.compress(X, **given(), grid=grid)
    assert module.seen["grid"] == (24, 24) and type(module.seen["grid"][0]) is int


def test_an_absent_grid_is_square_or_one_row() -> None:
    module = UniformSampler(2)
    assert torch.equal(module(X), module(X, grid=(24, 24)))
    assert torch.equal(module(X[:, :7]), module(X[:, :7], grid=(1, 7)))


# Guard 4: what is needed.


@pytest.mark.parametrize(
    "context, got, wanted",
    [
        (["importance"], "importance", "keys= of shape (2, 576, key dim)"),
        (["keys"], "keys", "importance= of shape (2, 576)"),
        ([], "nothing", "importance= of shape (2, 576) and keys= of shape (2, 576, key dim)"),
    ],
)
def test_missing_context_names_what_to_pass(context: list[str], got: str, wanted: str) -> None:
    text = f"visionzip needs importance and keys, got {got}. Pass {wanted}{OR_PATCH}"
    refused(tokscale.MissingContextError, text, **{key: given()[key] for key in context})


def test_a_needed_question_may_be_empty_but_not_absent() -> None:
    module = tokscale.TopKSelector(3, score="text")
    assert module(X, text_tokens=torch.zeros(2, 0, 16)).shape == (2, 3, 16)
    text = f"topk needs text, got nothing. Pass text_tokens= of shape (2, t, text dim){OR_PATCH}"
    refused(ValueError, text, X, module, text_tokens=None)


def test_an_unknown_need_names_the_known_ones() -> None:
    module = Needy(4)
    module.uses = ("question",)  # type: ignore[assignment]
    known = "aligned, grid, importance, keys, shallow_importance, text"
    refused(CompressorError, f"visionzip needs or uses 'question'; choose from {known}", X, module, **given())


def test_needs_may_be_any_collection() -> None:
    module = Needy(4)
    module.needs, module.uses = ["importance"], ("keys",)  # type: ignore[assignment]
    module.compress(X, **given())
    assert set(module.seen) == {"importance", "keys"}


def test_a_needed_grid_is_named_with_its_product() -> None:
    module = Needy(4)
    module.needs = frozenset({"grid"})
    text = f"visionzip needs grid, got nothing. Pass grid= (h, w) with h * w = 576{OR_PATCH}"
    refused(ValueError, text, X, module)


# Guard 5 to 7: identity, the method, what came out.


def test_at_full_length_a_training_free_method_returns_the_input_itself() -> None:
    for k in (576, 1000):
        tokens, positions, assignment, _ = AdaptivePooler(k).compress(X)
        assert tokens is X
        assert torch.equal(positions, torch.arange(576).repeat(2, 1))
        assert torch.equal(assignment, torch.eye(576).expand(2, 576, 576))
    assert UniformSampler(576).compress(X).assignment is None


def test_a_wrong_number_of_tokens_names_the_class() -> None:
    class StrideSampler(Probe):
        pass

    module = StrideSampler(64)
    module.answer = lambda x: Compressed(x[:, :60], torch.arange(60).repeat(2, 1))
    refused(CompressorError, "StrideSampler returned 60 tokens for n=576; output_length(576) says 64", X, module)
    module.answer = lambda x: Compressed(x[:, :64], torch.arange(60).repeat(2, 1))
    text = "StrideSampler returned tokens of shape (2, 64, 16) and positions (2, 60); expected (2, 64, dim) and (2, 64)"
    refused(RuntimeError, text, X, module)
    module.answer = lambda x: x[:, :64]
    refused(CompressorError, "StrideSampler.compress returned Tensor, not Compressed", X, module)


def test_forward_is_final_and_returns_the_tokens() -> None:
    text = re.escape("Hasty overrides forward, which is final: it returns compress(...).tokens.")
    with pytest.raises(CompressorError, match=text):

        class Hasty(TokenCompressor):
            def forward(self, vision_tokens: Tensor, **context: Any) -> Tensor:
                return vision_tokens

    module = UniformSampler(5)
    assert torch.equal(module(X), module.compress(X).tokens)


def test_a_class_without_compress_says_so() -> None:
    class Empty(TokenCompressor):
        pass

    text = "Empty has no compress method. Write compress(self, vision_tokens, **context) -> Compressed."
    refused(CompressorError, text, X, Empty(3))


def test_compress_is_wrapped_once_and_keeps_its_signature() -> None:
    class Child(UniformSampler):
        """Inherits compress."""

    class Grandchild(Child):
        def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
            """Say hello."""
            return super().compress(vision_tokens, **context)

    assert Child.compress is UniformSampler.compress
    assert Grandchild.compress.__doc__ == "Say hello."
    assert list(inspect.signature(Grandchild.compress).parameters) == ["self", "vision_tokens", "context"]
    assert not hasattr(Grandchild.compress.__wrapped__, "__wrapped__")
    assert torch.equal(Grandchild(5)(X), UniformSampler(5)(X))


def test_unlike_grids_go_grid_by_grid() -> None:
    x = torch.randn(3, 24, 4)
    grids = [(4, 6), (6, 4), (4, 6)]
    result = AdaptivePooler(5).compress(x, grid=torch.tensor(grids))
    for i, grid in enumerate(grids):
        alone = AdaptivePooler(5).compress(x[i : i + 1], grid=grid)
        torch.testing.assert_close(result.tokens[i : i + 1], alone.tokens, rtol=0, atol=1e-6)
        assert torch.equal(result.positions[i : i + 1], alone.positions)
        assert torch.equal(result.assignment[i : i + 1], alone.assignment)


# The budget.


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "4", None])
def test_a_budget_is_an_integer_of_at_least_1(value: Any) -> None:
    text = re.escape(f"num_tokens must be an integer >= 1, got {value!r}")
    with pytest.raises(tokscale.BudgetError, match=f"^{text}$"):
        UniformSampler(num_tokens=value)
    module = UniformSampler(4)
    with pytest.raises(ValueError, match=f"^{text}$"):
        module.num_tokens = value
    assert module.num_tokens == 4


def test_the_budget_can_be_set_again() -> None:
    module = UniformSampler(4)
    assert [module.output_length(n) for n in (1, 4, 9)] == [1, 4, 4]
    module.num_tokens = 7
    assert module(X).shape == (2, 7, 16) and module.config() == {"num_tokens": 7}


def test_a_budget_above_the_trained_ones_raises() -> None:
    module = AdaptivePooler(4, mode="gated", dim=16)
    module.trained = {"budgets": [1, 16]}
    module.num_tokens = 9  # between the trained ones
    with pytest.raises(
        tokscale.BudgetError, match="num_tokens=17 exceeds 16, the largest budget this AdaptivePooler was"
    ):
        module.num_tokens = 17


# Compressed.


def test_select_sorts_and_copies() -> None:
    x = torch.randn(2, 5, 3)
    result = Compressed.select(x, torch.tensor([[4, 0], [1, 3]]))
    assert result.positions.tolist() == [[0, 4], [1, 3]]
    assert torch.equal(result.tokens, torch.stack([x[0, [0, 4]], x[1, [1, 3]]]))
    assert Compressed.select(x, torch.tensor([3, 1])).positions.tolist() == [[1, 3], [1, 3]]


@pytest.mark.parametrize(
    "index, text",
    [
        (torch.tensor([1, 1]), "index 1 is chosen twice in sample 0"),
        (torch.tensor([[0, 1], [2, 5]]), "index 5 lies outside [0, 5) in sample 1"),
        (torch.tensor([-1, 1]), "index -1 lies outside [0, 5) in sample 0"),
        (torch.tensor([0.0, 1.0]), "index is torch.float32; expected integers"),
        (torch.tensor([[0, 1]] * 3), "index has shape (3, 2); expected (k,) or (2, k)"),
    ],
)
def test_select_refuses(index: Tensor, text: str) -> None:
    with pytest.raises(tokscale.ArgumentError, match=f"^{re.escape(text)}$"):
        Compressed.select(torch.zeros(2, 5, 3), index)


def test_mix_sums_in_float32_and_casts_once() -> None:
    x = torch.randn(2, 300, 3).bfloat16()
    assignment = torch.full((1, 300), 1 / 300)
    result = Compressed.mix(x, assignment, torch.tensor([150]))
    assert result.tokens.dtype == torch.bfloat16
    assert torch.equal(result.tokens, x.float().mean(1, keepdim=True).bfloat16())
    assert result.positions.tolist() == [[150], [150]] and result.assignment.shape == (2, 1, 300)


def test_results_do_not_share_memory_with_the_cached_tables() -> None:
    module, x = AdaptivePooler(2), torch.randn(1, 16, 3)
    first = module.compress(x)
    first.positions.zero_(), first.assignment.zero_()
    second = module.compress(x)
    assert second.positions.tolist() == [[9, 11]] and second.assignment.sum() == 2


# Modules.


def test_the_example_of_the_design_works() -> None:
    class StrideSampler(tokscale.TokenCompressor):
        def compress(self, vision_tokens, **context):
            n = vision_tokens.shape[1]
            index = torch.linspace(0, n - 1, self.output_length(n)).round().long().expand(len(vision_tokens), -1)
            return tokscale.Compressed.select(vision_tokens, index)

    assert StrideSampler(3).compress(X).positions.tolist() == [[0, 288, 575]] * 2
    assert check_compressor(StrideSampler)


def test_config_follows_the_attributes() -> None:
    module = tokscale.TopKSelector(8, "text", text_sign=-1)
    module.num_tokens = 3
    expected = {"num_tokens": 3, "score": "text", "dim": None, "hidden": None, "text_sign": -1}
    assert module.config() == {**expected, "text_reduce": "mean", "temperature": 1.0}
    assert "score='text', dim=None, hidden=None, text_sign=-1" in repr(module)
    assert repr(UniformSampler(4)) == "UniformSampler(num_tokens=4)"


def test_config_keeps_what_a_class_stores_under_another_name() -> None:
    class Odd(TokenCompressor):
        def __init__(self, num_tokens: int, power: float = 2.0, **rest: Any) -> None:
            super().__init__(num_tokens)
            self.exponent = power

    assert Odd(3, 4.0, extra=1).config() == {"num_tokens": 3, "power": 4.0, "extra": 1}


@pytest.mark.parametrize("copy_of", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_budget_and_config(copy_of: Any) -> None:
    module = AdaptivePooler(8, mode="gated", dim=16)
    module.num_tokens = 5
    twin = copy_of(module)
    assert twin.config() == module.config() and torch.equal(twin(X), module(X))


def test_shapes_can_be_asked_for_without_memory() -> None:
    x = torch.empty(2, 36, 16, device="meta")
    for module in (AdaptivePooler(5), UniformSampler(5), tokscale.TopKSelector(5)):
        assert module(x).shape == (2, 5, 16)


def test_guards_cost_little() -> None:
    """A bound far above the measured 11 us, so that only a change of kind (a loop over tokens, say) fails it."""
    from tokscale.compressors._guards import prepare

    module, x = UniformSampler(16), torch.randn(1, 144, 64)
    best = min(_seconds(lambda: prepare(module, x, {"grid": (12, 12)})) for _ in range(20))
    assert best < 500e-6


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    for _ in range(10):
        call()
    return (time.perf_counter() - start) / 10
