"""`check_compressor`: does a method keep the contract that the patch, the sweep and other methods rely on?

For authors of methods: `check_compressor(MyMethod)` in a test of one's own. The package's tests run the same checks
over everything that is registered.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .compressors import Compressed, TokenCompressor
from .compressors._subject import WIDTH, Subject, equal
from .errors import KeywordError, MissingContextError, NonFiniteError

__all__ = ["CHECKS", "Subject", "check_compressor"]

GRIDS = ((1, 37), (37, 1), (7, 5), (3, 4, 5), (8, 2, 2))


def check_compressor(cls: type[TokenCompressor], **keywords: Any) -> list[str]:
    """Return the names of the checks that `cls` passed: all of them, or an error is raised.

    Args:
        cls: a subclass of `TokenCompressor`.
        keywords: for its constructor, without `num_tokens`; `dim` is 16 where the class needs it and it is not given.

    Raises:
        CompressorError: the first broken promise: the check, the input, what was expected and what came out.

    Cost: about a second on a CPU.

    Example:
        >>> from tokscale.compressors import UniformSampler
        >>> "length" in check_compressor(UniformSampler)
        True
    """
    subject = Subject(cls, keywords)
    for check in CHECKS.values():
        check(subject)
    return list(CHECKS)


def _random(b: int, n: int, d: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def _length(subject: Subject) -> None:
    for k in (1, 5, 16):
        module = subject.build(k)
        for n in sorted({1, k - 1, k, k + 1, 37, 64} - {0}):
            x = _random(2, n)
            subject.run(module, x, subject.context(module, x), "length", "random tokens")


def _degenerate(subject: Subject) -> None:
    base = _random(2, 16)
    one = torch.zeros(2, 37, WIDTH)
    one[:, 20] = base[:, 0]
    flat = _random(2, 37)
    flat[..., 3:] = 0
    cases: Iterator[tuple[str, Tensor, int]] = iter(
        [
            ("all equal", base[:, :1].repeat(1, 37, 1), 5),
            ("all zero", torch.zeros(2, 37, WIDTH), 5),
            ("one token not zero", one, 5),
            ("16 tokens four times", base.repeat(1, 4, 1), 40),
            ("rank 3", flat, 16),
            ("tiny tokens", 1e-20 * _random(2, 37), 5),
            ("huge tokens", 1e15 * _random(2, 37), 5),
        ]
    )
    for what, x, k in cases:
        module = subject.build(k)
        subject.run(module, x, subject.context(module, x), "degenerate", what)


def _ties(subject: Subject) -> None:
    module = subject.build(16)
    x = _random(2, 37)
    context = subject.context(module, x)
    for what, value in (("constant", torch.full((2, 37), 0.25)), ("rounded", torch.rand(2, 37).bfloat16())):
        tied = {key: value for key in context if key in ("importance", "shallow_importance")}
        if tied:
            subject.run(module, x, {**context, **tied}, "ties", f"{what} importance")


def _question(subject: Subject) -> None:
    module = subject.build(5)
    x = _random(2, 37)
    context = subject.context(module, x)
    if "text_tokens" not in context:
        return
    masked = subject.run(module, x, context, "question", "one masked token")
    junk = context["text_tokens"].clone()
    junk[:, 3] = 1e3
    longer = torch.cat([junk[:, 3:], junk, junk[:, 3:]], 1)
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[:, 1:4] = True
    for what, text in (("masked junk", {"text_tokens": junk, "text_mask": context["text_mask"]}),
                       ("more padding, on the left too", {"text_tokens": longer, "text_mask": mask})):  # fmt: skip
        _same(subject, "question", what, masked, subject.run(module, x, {**context, **text}, "question", what))
    empty = {"text_tokens": junk[:, :0], "text_mask": mask[:, :0]}
    none = subject.run(module, x, {**context, **empty}, "question", "no question token")
    silent = {"text_mask": torch.zeros(2, 4, dtype=torch.bool)}
    result = subject.run(module, x, {**context, **silent}, "question", "every question token masked")
    _same(subject, "question", "every question token masked, against no question token", none, result)


def _grids(subject: Subject) -> None:
    for grid in GRIDS:
        n = int(torch.tensor(grid).prod())
        for k in (1, 2, 5, 16):
            module = subject.build(k)
            x = _random(2, n)
            subject.run(module, x, subject.context(module, x, grid), "grids", f"grid {grid}")
    module = subject.build(5)
    if "grid" in {*module.needs, *module.uses}:
        x = _random(3, 24)
        context = subject.context(module, x)
        rows = torch.tensor([(4, 6), (6, 4), (4, 6)])
        mixed = subject.run(module, x, {**context, "grid": rows}, "grids", "another grid in each sample")
        for i, row in enumerate(rows.tolist()):
            alone = {key: value[i : i + 1] if torch.is_tensor(value) else value for key, value in context.items()}
            result = module.compress(x[i : i + 1], **{**alone, "grid": tuple(row)})
            _same(subject, "grids", f"sample {i} alone", Compressed(*(_row(v, i) for v in mixed)), result)


def _alone(subject: Subject) -> None:
    module = subject.build(5)
    x = torch.cat([_random(2, 37), torch.zeros(1, 37, WIDTH)])
    context = subject.context(module, x)
    together = subject.run(module, x, context, "alone", "batch of 3")
    for i in range(3):
        one = {key: value[i : i + 1] if torch.is_tensor(value) else value for key, value in context.items()}
        result = subject.run(module, x[i : i + 1], one, "alone", f"sample {i}")
        _same(subject, "alone", f"sample {i}", Compressed(*(_row(value, i) for value in together)), result)


def _row(value: Tensor | None, i: int) -> Tensor | None:
    return None if value is None else value[i : i + 1]


def _same(subject: Subject, check: str, what: str, expected: Compressed, result: Compressed) -> None:
    if not torch.equal(expected.positions, result.positions):
        raise subject.fail(check, f"{what}: positions {result.positions.tolist()}, not {expected.positions.tolist()}")
    error = (expected.tokens - result.tokens).abs().max()
    if error > 2e-6 * max(1.0, float(expected.tokens.abs().max())):
        raise subject.fail(check, f"{what}: tokens differ by {float(error):.1e}")


def _dtypes(subject: Subject) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for of_module in (torch.float32, dtype):
            module = subject.build(5).to(of_module)
            x = _random(2, 37).to(dtype)
            subject.run(module, x, subject.context(module, x), "dtypes", f"{dtype} tokens, {of_module} weights")
    module, x = subject.build(5), _random(2, 37)
    context = subject.context(module, x)
    plain = subject.run(module, x, context, "dtypes", "without autocast")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = subject.run(module, x, context, "dtypes", "under autocast")
    if not module.trainable and not equal(plain, result):
        raise subject.fail("dtypes", "autocast changes the result")


def _gradient(subject: Subject) -> None:
    module = subject.build(5).train()
    x = _random(2, 37).requires_grad_()
    module(x, **subject.context(module, x.detach())).square().sum().backward()
    grads = {"vision_tokens": x.grad, **{name: p.grad for name, p in module.named_parameters() if p.grad is not None}}
    for name, grad in grads.items():
        if grad is None or not torch.isfinite(grad).all():
            raise subject.fail("gradient", f"the gradient of {name} is {'absent' if grad is None else 'not finite'}")
    if module.trainable and len(grads) == 1:
        raise subject.fail("gradient", "no weight gets a gradient, though trainable = True")


def _budget(subject: Subject) -> None:
    module = subject.build(16)
    x = _random(2, 37)
    context = subject.context(module, x)
    first = subject.run(module, x, context, "budget", "16")
    module.num_tokens = 5
    smaller = subject.run(module, x, context, "budget", "16 set to 5")
    if not module.trainable and not equal(smaller, subject.build(5).compress(x, **context)):
        raise subject.fail("budget", "num_tokens = 5 after construction differs from a module built with 5")
    module.num_tokens = 16
    if not equal(first, module.compress(x, **context)):
        raise subject.fail("budget", "16, 5, 16 does not give back the first result")


def _copies(subject: Subject) -> None:
    module = subject.build(5)
    x = _random(2, 37)
    context = subject.context(module, x)
    twin = copy.deepcopy(module)
    if not equal(module.compress(x, **context), twin.compress(x, **context)):
        raise subject.fail("copies", "a deep copy gives another result")
    twin.num_tokens = 3
    if module.num_tokens != 5 or twin.config() != {**module.config(), "num_tokens": 3}:
        raise subject.fail("copies", f"a deep copy of {module.config()} set to 3 tokens has {twin.config()}")


def _full(subject: Subject) -> None:
    module = subject.build(40)
    x = _random(2, 37)
    result = subject.run(module, x, subject.context(module, x), "full", "k >= n")
    if not module.trainable and not torch.equal(result.tokens, x):
        raise subject.fail("full", "k >= n must give the input itself")


def _mistakes(subject: Subject) -> None:
    module = subject.build(5)
    x = _random(2, 37)
    context = subject.context(module, x)
    broken = x.clone()
    broken[1, 3, 2] = float("nan")
    attempts: list[tuple[type[Exception], Tensor, dict[str, Any]]] = [
        (NonFiniteError, broken, context),
        (KeywordError, x, {**context, "importence": None}),
    ]
    if module.needs:
        attempts.append((MissingContextError, x, {}))
    for error, tokens, given in attempts:
        try:
            module.compress(tokens, **given)
        except error:
            continue
        raise subject.fail("mistakes", f"{error.__name__} was not raised")


def _folder(subject: Subject) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        module = subject.build(16).to(dtype)
        module.num_tokens = 5
        with tempfile.TemporaryDirectory() as folder:
            module.save_pretrained(folder)
            loaded = type(module).from_pretrained(folder)
        x = _random(2, 37).to(dtype)
        context = subject.context(module, x)
        if not equal(module.compress(x, **context), loaded.compress(x, **context)):
            raise subject.fail("folder", f"a saved and loaded {dtype} module gives another result")
        if loaded.config() != module.config():
            raise subject.fail("folder", f"config {loaded.config()} was loaded, {module.config()} saved")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "length": _length,
    "degenerate": _degenerate,
    "ties": _ties,
    "question": _question,
    "grids": _grids,
    "alone": _alone,
    "dtypes": _dtypes,
    "gradient": _gradient,
    "budget": _budget,
    "copies": _copies,
    "full": _full,
    "mistakes": _mistakes,
    "folder": _folder,
}
