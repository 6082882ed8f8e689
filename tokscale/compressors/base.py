"""`TokenCompressor`, from which every method derives: the contract, and the guards that every method inherits."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from .._checks import positive_int
from ..errors import BudgetError, CompressorError
from . import _guards
from .compressed import Compressed, exact

Self = TypeVar("Self", bound="TokenCompressor")


class TokenCompressor(nn.Module, ModelHubMixin, library_name="tokscale", license="apache-2.0"):  # type: ignore[call-arg]
    """Exactly `min(num_tokens, n)` tokens out of n vision tokens; the parent of every method.

    A method writes `compress(self, vision_tokens, **context) -> Compressed` and declares, as class attributes or
    instance attributes, what it `needs` and what it `uses` when given: names among text, aligned, grid, importance,
    shallow_importance, keys. It receives just those keys. Checks of the input and of what comes out are inherited:
    every class's own `compress` is wrapped once. At k = n a method with `trainable = False` is not called: the input
    is the answer.

    Args:
        num_tokens: tokens to keep, an integer >= 1; it can be set again at any time.

    Shape: (b, n, d) -> (b, min(num_tokens, n), d).

    Raises:
        ShapeError, DtypeError, NonFiniteError: the input or its context is no such tensor.
        KeywordError: a context key is misspelt.
        MissingContextError: context that the method needs is absent.
        CompressorError: the method broke its promise, or its class overrides `forward`.

    Example:
        >>> class First(TokenCompressor):
        ...     def compress(self, vision_tokens, **context):
        ...         return Compressed.select(vision_tokens, torch.arange(self.output_length(vision_tokens.shape[1])))
        >>> First(num_tokens=2)(torch.zeros(1, 5, 8)).shape
        torch.Size([1, 2, 8])
    """

    needs: frozenset[str] = frozenset()  # context that must be given
    uses: frozenset[str] = frozenset()  # context read when given
    trainable: bool = False  # has weights, so it runs at k = n too
    question_aware: bool = False
    mixture: bool = False
    also_known_as: ClassVar[tuple[str, ...]] = ()
    check_finite: bool = True  # False drops the finiteness tests, the only synchronisation of the guards
    shallow_layer: float = 1 / 3  # share of the encoder's depth at which `shallow_importance` is read
    keys_reduce: str = "mean"  # over heads, or "cat"
    trained: dict[str, Any] | None = None  # what training wrote down: budgets, model_type, hidden_size, ...
    _signature: ClassVar[inspect.Signature]

    def __new__(cls: type[Self], *args: Any, **keywords: Any) -> Self:
        self = super().__new__(cls, *args, **keywords)
        try:
            bound = cls._signature.bind(self, *args, **keywords)
        except TypeError:  # copy and pickle bring the attributes themselves; a user's mistake is reported by __init__
            return self
        bound.apply_defaults()
        given = dict(list(bound.arguments.items())[1:])
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(given.pop(name, {}))
        self.__dict__["_keywords"] = given
        return self

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._signature = inspect.signature(cls.__init__)
        if "forward" in cls.__dict__:
            raise CompressorError(
                f"{cls.__name__} overrides forward, which is final: it returns compress(...).tokens. "
                f"Write compress(self, vision_tokens, **context) -> Compressed instead."
            )
        method = cls.__dict__.get("compress")
        if inspect.isfunction(method) and not hasattr(method, "_guarded"):
            cls.compress = _guarded(method)  # type: ignore[method-assign]

    @property
    def num_tokens(self) -> int:
        """Tokens to keep of each sample; setting it is all that another budget takes."""
        return self._num_tokens

    @num_tokens.setter
    def num_tokens(self, value: int) -> None:
        value = positive_int(value)
        self.check_budget(value)
        self._num_tokens = value

    def check_budget(self, num_tokens: int) -> None:
        """Raise `BudgetError` if this module cannot serve `num_tokens`: by default, above what it was trained for."""
        budgets = (self.trained or {}).get("budgets")
        if budgets and num_tokens > max(budgets):
            raise BudgetError(
                f"num_tokens={num_tokens} exceeds {max(budgets)}, the largest budget this {type(self).__name__} was "
                f"trained at. Use num_tokens <= {max(budgets)}, or train it further."
            )

    def output_length(self, n: int) -> int:
        """Return how many of n tokens come out: `min(num_tokens, n)`."""
        return min(self.num_tokens, n)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        """Return the `Compressed` tokens; the one method to write."""
        raise CompressorError(
            f"{type(self).__name__} has no compress method. "
            f"Write compress(self, vision_tokens, **context) -> Compressed."
        )

    def forward(self, vision_tokens: Tensor, **context: Any) -> Tensor:
        """Return `compress(vision_tokens, **context).tokens`; final."""
        return self.compress(vision_tokens, **context).tokens

    def config(self) -> dict[str, Any]:
        """Return the constructor's keywords as they stand now, in JSON types."""
        given = {key: _current(self, key, value) for key, value in self.__dict__.get("_keywords", {}).items()}
        return {**given, "num_tokens": self.num_tokens}

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in self.config().items())

    def save_pretrained(self, save_directory: str | os.PathLike[str], **keywords: Any) -> str:
        """Return the folder, with config.json, model.safetensors (of weights) and a README.md card; see `hub.save`."""
        from .hub import save

        return save(self, save_directory, **keywords)

    @classmethod
    def from_pretrained(cls: type[Self], folder_or_hub_id: str | os.PathLike[str], **keywords: Any) -> Self:
        """Return the compressor of a folder or hub repository, in eval mode; see `hub.load`."""
        from .hub import load

        return load(cls, folder_or_hub_id, **keywords)


TokenCompressor._signature = inspect.signature(TokenCompressor.__init__)


def _current(module: nn.Module, key: str, value: Any) -> Any:
    """A keyword's value now: the attribute of that name where it is a plain value, else what was given."""
    now = getattr(module, key, value)
    if isinstance(now, tuple):
        now = list(now)
    return now if isinstance(now, (str, int, float, bool, list, dict, type(None))) else value


def _guarded(method: Callable[..., Compressed]) -> Callable[..., Compressed]:
    """Wrap a class's `compress` with the checks of input and output, and the answer at k = n."""

    @functools.wraps(method)
    def compress(self: TokenCompressor, vision_tokens: Tensor, **context: Any) -> Compressed:
        given = _guards.prepare(self, vision_tokens, context)
        b, n, _ = vision_tokens.shape
        k = self.output_length(n)
        if k == n and not self.trainable:
            return _identity(vision_tokens, self.mixture)
        run = _grid_by_grid if type(given.get("grid")) is list else _run
        if self.trainable:
            result = run(self, method, vision_tokens, given)
        else:
            with exact(vision_tokens):
                result = run(self, method, vision_tokens, given)
        if type(result) is not Compressed:
            raise CompressorError(f"{type(self).__name__}.compress returned {type(result).__name__}, not Compressed")
        if result.tokens.shape[:2] != (b, k) or result.positions.shape != (b, k):
            raise CompressorError(_wrong_length(self, result, b, n, k))
        return result

    compress._guarded = True  # type: ignore[attr-defined]
    return compress


def _wrong_length(module: TokenCompressor, result: Compressed, b: int, n: int, k: int) -> str:
    name, tokens, positions = type(module).__name__, tuple(result.tokens.shape), tuple(result.positions.shape)
    if len(tokens) == 3 and tokens[0] == b and tokens[1] != k:
        return f"{name} returned {tokens[1]} tokens for n={n}; output_length({n}) says {k}"
    return (
        f"{name} returned tokens of shape {tokens} and positions {positions}; expected ({b}, {k}, dim) and ({b}, {k})"
    )


def _identity(vision_tokens: Tensor, mixture: bool) -> Compressed:
    b, n, _ = vision_tokens.shape
    positions = torch.arange(n, device=vision_tokens.device).repeat(b, 1)
    assignment = torch.eye(n, device=vision_tokens.device).expand(b, n, n) if mixture else None
    return Compressed(vision_tokens, positions, assignment)


def _run(
    module: TokenCompressor, method: Callable[..., Compressed], vision_tokens: Tensor, given: Mapping[str, Any]
) -> Compressed:
    return method(module, vision_tokens, **given)


def _grid_by_grid(
    module: TokenCompressor, method: Callable[..., Compressed], vision_tokens: Tensor, given: Mapping[str, Any]
) -> Compressed:
    """Run samples of unlike grids in groups of one grid each; every group has the same n, so the same k."""
    grids: list[tuple[int, ...]] = given["grid"]
    order: list[int] = []
    parts: list[Compressed] = []
    for grid in dict.fromkeys(grids):
        rows = [i for i, other in enumerate(grids) if other == grid]
        context = {key: value[rows] if torch.is_tensor(value) else value for key, value in given.items()}
        parts.append(method(module, vision_tokens[rows], **{**context, "grid": grid}))
        order += rows
    back = torch.tensor(order, device=vision_tokens.device).argsort()
    fields = zip(*parts, strict=True)
    return Compressed(*(None if values[0] is None else torch.cat(values)[back] for values in fields))
