"""A method under test: its modules, its inputs, and the checks of what comes out of a call; for `tokscale.testing`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CompressorError
from .base import TokenCompressor
from .compressed import Compressed
from .registry import keywords_of

WIDTH = 16


class Subject:
    """A class under test: builds its modules and inputs, and checks what comes out of one call."""

    def __init__(self, cls: type[TokenCompressor], keywords: dict[str, Any]) -> None:
        self.cls, self.keywords = cls, dict(keywords)
        parameter = keywords_of(cls).get("dim")
        if parameter is not None and parameter.default is parameter.empty:
            self.keywords.setdefault("dim", WIDTH)

    def build(self, k: int, seed: int = 0) -> TokenCompressor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.cls(num_tokens=k, **self.keywords).eval()

    def context(self, module: TokenCompressor, x: Tensor, grid: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Random context of what the module reads, the same for the same shapes."""
        b, n, _ = x.shape
        draw = torch.Generator().manual_seed(1)
        made: dict[str, dict[str, Any]] = {
            "text": {
                "text_tokens": torch.randn(b, 4, WIDTH, generator=draw).to(x.dtype),
                "text_mask": torch.tensor([True, True, True, False]).repeat(b, 1),
            },
            "aligned": {"aligned_tokens": torch.randn(b, n, WIDTH, generator=draw).to(x.dtype)},
            "importance": {"importance": torch.rand(b, n, generator=draw)},
            "shallow_importance": {"shallow_importance": torch.rand(b, n, generator=draw)},
            "keys": {"keys": torch.randn(b, n, WIDTH, generator=draw).to(x.dtype)},
            "grid": {"grid": grid or (1, n)},
        }
        return {key: value for need in {*module.needs, *module.uses} for key, value in made[need].items()}

    def run(self, module: TokenCompressor, x: Tensor, context: dict[str, Any], check: str, what: str) -> Compressed:
        """Compress, and check what every output must be."""
        before = [x.clone(), *(value.clone() for value in context.values() if torch.is_tensor(value))]
        with torch.no_grad():
            result, again = module.compress(x, **context), module.compress(x, **context)
        after = [x, *(value for value in context.values() if torch.is_tensor(value))]
        b, n, _ = x.shape
        k = min(module.num_tokens, n)

        def holds(condition: bool, message: str) -> None:
            if not condition:
                raise CompressorError(f"{self.cls.__name__} fails {check!r} ({what}, n={n}, k={k}): {message}")

        tokens, positions, assignment, scores = result
        holds(module.output_length(n) == k, f"output_length({n}) is {module.output_length(n)}, not {k}")
        holds(tokens.shape[:2] == (b, k), f"tokens have shape {tuple(tokens.shape)}, not ({b}, {k}, dim)")
        holds(positions.shape == (b, k), f"positions have shape {tuple(positions.shape)}, not ({b}, {k})")
        holds(positions.dtype == torch.int64, f"positions are {positions.dtype}, not torch.int64")
        holds(tokens.dtype == x.dtype, f"tokens are {tokens.dtype}, not {x.dtype}")
        holds(bool(torch.isfinite(tokens).all()), "tokens are not finite")
        ascending = bool((positions.diff(dim=1) > 0).all())
        holds(ascending, f"positions are not strictly ascending: {positions.tolist()}")
        inside = int(positions.min()) >= 0 and int(positions.max()) < n
        holds(inside, f"positions lie outside [0, {n}): {positions.tolist()}")
        holds(scores is None or scores.shape == (b, n), f"scores have shape {_shape(scores)}, not ({b}, {n})")
        holds(scores is None or scores.dtype == torch.float32, "scores are not torch.float32")
        if assignment is not None:
            holds(assignment.shape == (b, k, n), f"assignment has shape {_shape(assignment)}, not ({b}, {k}, {n})")
            holds(assignment.dtype == torch.float32, f"assignment is {assignment.dtype}, not torch.float32")
        if not module.trainable and assignment is None:
            rows = x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
            holds(torch.equal(tokens, rows), "tokens are no copies of the rows at positions")
        if not module.trainable and assignment is not None:
            size = assignment.double().abs() @ x.double().abs()
            error = (assignment.double() @ x.double() - tokens.double()).abs()
            step = max(4e-7, torch.finfo(x.dtype).eps)  # the sum is taken in float32 and rounded once
            holds(bool((error <= 4 * step * size + 1e-30).all()), f"tokens differ from assignment @ x by {error.max()}")
        holds(equal(result, again), "a second call gives another result")
        untouched = all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
        holds(untouched, "an input was changed")
        return result

    def fail(self, check: str, message: str) -> CompressorError:
        return CompressorError(f"{self.cls.__name__} fails {check!r}: {message}")


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(tuple(value.shape))


def equal(one: Compressed, other: Compressed) -> bool:
    pairs = zip(one, other, strict=True)
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
