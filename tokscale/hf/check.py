"""`check_model`: does the contract of `patch` hold on this model? Run on a tiny random twin, or on the model itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..compressors import Compressed, TokenCompressor
from ..errors import TokscaleError, UnsupportedModelError
from .families import FRAME_ENTRIES, REFUSED
from .host import examine
from .patch import patch
from .twin import Twin, config_of, twin_of
from .videos import refusal

STATES = ("ok", "fails", "refused", "skipped")
_STEPS = 4  # new tokens of a generation


@dataclass
class Report:
    """What `check_model` found: `checks` in order, each `ok`, `fails: why`, `refused: why` or `skipped: why`."""

    model_type: str
    tiny: bool
    checks: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where every check that could be made holds."""
        return all(status in ("ok", "skipped") for _, status, _ in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        checks = [{"name": name, "status": status, "detail": detail} for name, status, detail in self.checks]
        return {"schema": 1, "model_type": self.model_type, "tiny": self.tiny, "ok": self.ok, "checks": checks}


class _Spread(TokenCompressor):
    """Keeps tokens that lie apart, whatever they hold."""

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n = vision_tokens.shape[1]
        index = torch.arange(self.output_length(n), device=vision_tokens.device) * n // self.output_length(n)
        return Compressed.select(vision_tokens, index.expand(len(vision_tokens), -1))


class _Mix(TokenCompressor):
    """Averages with a weight that can be trained."""

    trainable = mixture = True

    def __init__(self, num_tokens: int) -> None:
        super().__init__(num_tokens)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        n = vision_tokens.shape[1]
        k = self.output_length(n)
        places = torch.arange(k, device=vision_tokens.device) * n // k
        far = (torch.arange(n, device=vision_tokens.device) - places[:, None]).abs()
        assignment = (-far * self.weight.to(vision_tokens.dtype)).softmax(-1).expand(len(vision_tokens), k, n)
        return Compressed.mix(vision_tokens, assignment, places.expand(len(vision_tokens), -1))


def check_model(model: Any, *, tiny: bool = True, log: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Return which parts of the contract of `patch` hold on a model: families that nobody has tested included.

    The checks: a seam is found; the model runs as it is; a budget of at least n changes no bit; exactly k tokens
    per image for k in {1, n // 4, n - 1}; greedy decoding with a cache equals recomputing; the rows of a padded
    batch equal the rows alone; a video is shortened too; text alone is untouched; the loss reaches the compressor;
    after removal every bit is back. What the unpatched model cannot do either is `skipped`, with the reason.

    Args:
        model: a Hugging Face image-text model, or the configuration of one.
        tiny: build a shrunk random model of the same architecture and check that; else the model itself, on pixels of
            its configured size, which needs its memory and time.
        log: called with a line per check.

    Raises:
        UnsupportedModelError: no twin can be built of this configuration.

    Cost: seconds for a tiny twin on a CPU.

    Returns:
        `{"schema", "model_type", "tiny", "ok", "checks": [{"name", "status", "detail"}]}`, plain JSON.
    """
    report = Report(str(config_of(model).model_type), tiny)
    twin = None if report.model_type in REFUSED else twin_of(model, tiny=tiny)  # what is refused need not be built
    for name, check in _CHECKS.items():
        if twin is None:
            status, detail = "refused", f"{report.model_type}: {REFUSED[report.model_type]}"
        else:
            status, detail = _outcome(check, twin)
        report.checks.append((name, status, detail))
        if log is not None:
            log(f"{name}: {status}" + (f": {detail}" if detail else ""))
        if status == "refused" or (name == _RUNS and status == "fails"):
            break  # nothing more can be said
    return report.to_dict()


class _Skip(Exception):
    """The unpatched model does not do it either, or it has no meaning here."""


def _outcome(check: Callable[[Twin], None], twin: Twin) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(twin)
        except _Skip as error:
            return "skipped", str(error)
        except UnsupportedModelError as error:
            return "refused", str(error)
        except (TokscaleError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
            return "fails", f"{type(error).__name__}: {str(error).splitlines()[0][:300]}" if str(error) else repr(error)
    return "ok", ""


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


def _seam(twin: Twin) -> None:
    patch(twin.model, _Spread(1)).remove()


def _runs(twin: Twin) -> None:
    twin.logits(twin.prompt([1]))


def _identity(twin: Twin) -> None:
    for rows in ([1], [2, 1]):
        inputs = twin.prompt(rows)
        logits, ids = twin.logits(inputs), twin.generate(inputs, _STEPS)
        with patch(twin.model, _Spread(10_000), num_tokens=10_000):
            _must(torch.equal(twin.logits(inputs), logits), f"logits differ with {sum(rows)} images at a full budget")
            _must(torch.equal(twin.generate(inputs, _STEPS), ids), "generated ids differ at a full budget")


def _exact(twin: Twin) -> None:
    inputs = twin.prompt([1])
    for k in sorted({1, max(1, twin.n // 4), max(1, twin.n - 1)}):
        with patch(twin.model, _Spread(k), num_tokens=k) as handle:
            columns = twin.logits(inputs).shape[1]
            kept = [image.k for image in handle.last.images]  # type: ignore[union-attr]
            _must(kept == [k], f"{kept} tokens kept, {k} asked for")
            if not twin.apart:
                expected = inputs["input_ids"].shape[1] - (twin.n - k if twin.shrinks else 0)
                _must(columns == expected, f"{columns} columns of logits, {expected} expected at {k} tokens")


def _cached(twin: Twin) -> None:
    if twin.canvas:
        raise _Skip("its decoder reads the prompt from the cache, so it has no call without one")
    inputs = twin.prompt([1])
    with patch(twin.model, _Spread(2)):
        ids = twin.generate(inputs, _STEPS)
        again = twin.generate(inputs, _STEPS, use_cache=False)
    if not torch.equal(ids, again):
        plain, anew = twin.generate(inputs, _STEPS), twin.generate(inputs, _STEPS, use_cache=False)
        if not torch.equal(plain, anew):
            raise _Skip("unpatched, ids with and without a cache differ too")
        raise RuntimeError("ids with and without a cache differ")


def _batch(twin: Twin) -> None:
    def apart() -> float:
        together = twin.logits(twin.prompt([2, 1]))
        worst = 0.0
        for row in range(2):
            single = twin.logits(twin.prompt([2, 1], only=row))[0]
            last = len(single) if twin.apart else min(3, len(single))
            worst = max(worst, float((together[row, -last:] - single[-last:]).abs().max()))
        return worst

    limit = 1e-5 if twin.dtype == torch.float64 else 2e-3
    with patch(twin.model, _Spread(2)):
        patched = apart()
    if patched > limit:
        plain = apart()
        if plain > limit:
            raise _Skip(f"unpatched, rows of a batch differ from the rows alone by {plain:.1e} too")
        raise RuntimeError(f"rows of a padded batch differ from the rows alone by {patched:.1e}")


def _video(twin: Twin) -> None:
    host = examine(twin.model)
    if not host.pixels["image"]:
        raise _Skip("it takes nothing but videos: all other checks are of them")
    if (why := refusal(host)) is not None:
        raise _Skip(f"no video can be shortened, {why}")
    try:
        inputs, clip = twin.film()
    except RuntimeError as error:
        raise _Skip(str(error)[:300]) from error
    logits, ids = twin.logits(inputs), twin.generate(inputs, _STEPS)
    unit = "frame" if twin.model_type in FRAME_ENTRIES else "image"
    with patch(twin.model, _Spread(10_000), num_tokens=10_000, unit=unit):
        _must(torch.equal(twin.logits(inputs), logits), "logits differ with a video at a full budget")
        _must(torch.equal(twin.generate(inputs, _STEPS), ids), "generated ids differ with a video at a full budget")
    with patch(twin.model, _Spread(2), unit=unit) as handle:
        columns = twin.logits(inputs).shape[1]
        found = handle.last.images  # type: ignore[union-attr]
        _must(unit == "frame" or len(found) == 1, f"{len(found)} videos found in one")
        expected = inputs["input_ids"].shape[1] - clip.ids.count(clip.placeholder) + 2 * len(found)
        _must(columns == expected, f"{columns} columns of logits, {expected} expected with a video at 2 tokens")
        again, uncached = twin.generate(inputs, _STEPS), twin.generate(inputs, _STEPS, use_cache=False)
    if not torch.equal(again, uncached) and torch.equal(ids, twin.generate(inputs, _STEPS, use_cache=False)):
        raise RuntimeError("ids with and without a cache differ with a video")


def _text(twin: Twin) -> None:
    inputs = twin.prompt([0])
    try:
        logits = twin.logits(inputs)
    except (TypeError, ValueError, AttributeError) as error:
        raise _Skip(f"unpatched, it takes no prompt without an image ({type(error).__name__})") from error
    with patch(twin.model, _Spread(1)):
        _must(torch.equal(twin.logits(inputs), logits), "logits of a prompt without images differ")


def _backward(twin: Twin) -> None:
    inputs, mix = twin.prompt([1]), _Mix(2).to(twin.device)
    with patch(twin.model, mix):
        twin.loss(inputs).backward()
    found = mix.weight.grad
    twin.model.zero_grad(set_to_none=True)
    _must(found is not None and bool(torch.isfinite(found)) and float(found.abs()) > 0, "the loss does not reach it")


def _restore(twin: Twin) -> None:
    inputs = twin.prompt([1])
    logits, before = twin.logits(inputs), dict(_state(twin.model))
    handle = patch(twin.model, _Spread(1))
    twin.logits(inputs)
    handle.remove()
    _must(dict(_state(twin.model)) == before, "attributes, modules or hooks differ after remove()")
    _must(torch.equal(twin.logits(inputs), logits), "logits differ after remove()")


def _state(model: Any) -> Iterator[tuple[str, Any]]:
    for name, part in model.named_modules():
        yield name, (sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
    yield "state_dict", list(model.state_dict())


_RUNS = "runs unpatched"
_CHECKS: dict[str, Callable[[Twin], None]] = {
    "seam found": _seam,
    _RUNS: _runs,
    "identity at a full budget": _identity,
    "exactly k tokens": _exact,
    "cached = uncached": _cached,
    "batch = rows alone": _batch,
    "video": _video,
    "text alone untouched": _text,
    "backward": _backward,
    "restored bit for bit": _restore,
}
