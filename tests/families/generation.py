"""Decoding of a compressed prompt: caches, batches, beams, lengths."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import tokscale
from tests.families.case import Case, NotApplicable, Spread, Upstream, near, new_ids, same
from tests.families.prompts import ONE, RAGGED, SINGLE, TWO
from tests.hf.helpers import continued, forget, pick
from tests.hf.versions import cache_of, with_cache
from tests.tiny_models import Prompt

CANVAS = "a block of tokens is denoised at once, from the cache of the prompt"


def recomputed(case: Case, batch: Prompt, steps: int = 6) -> Tensor:
    inputs = batch.inputs
    for _ in range(steps):
        forget(case.model)
        with torch.no_grad():
            logits = case.model(**inputs, use_cache=False).logits
        inputs = _continued(case, inputs, pick(logits))
    return inputs["input_ids"]


def _continued(case: Case, inputs: dict[str, Any], token: Tensor) -> dict[str, Any]:
    more = continued(case.family, inputs, token)
    if case.family.types and case.family.types in more:
        return more
    return more


def cached(case: Case) -> None:
    """Greedy with a cache is greedy recomputed at each step, and starts with the caller's ids."""
    if case.canvas:
        raise NotApplicable(CANVAS)
    for compressor in (Spread(), case.mixer()):
        with case.patch(compressor):
            for rows in (ONE, TWO):
                batch = case.prompt(rows)
                ids = case.generate(batch)
                if case.encoder_decoder:
                    same(case.generate(batch, use_cache=False), ids, "ids without cache")
                    continue
                same(ids[:, : batch.ids.shape[1]], batch.ids, "the prompt returned")
                same(ids, recomputed(case, batch), f"cached and recomputed ids, {len(batch.images[0])} images")


def own_loop(case: Case) -> None:
    """The caller's own loop of forward calls with a cache is `generate`."""
    if case.apart:
        raise NotApplicable("the prompt is the encoder's")

    def loop() -> Tensor:
        forget(case.model)
        tokens, seen = [], batch.inputs.get("cross_attention_mask")
        more = {} if seen is None else {"cross_attention_mask": seen[:, -1:]}
        with torch.no_grad():
            output = case.model(**batch.inputs, use_cache=True)
            if cache_of(output) is None:  # it fills a cache that it is given and makes none
                empty = DynamicCache(config=case.model.config)
                output = case.model(**batch.inputs, **with_cache(case.model, empty), use_cache=True)
            for _ in range(6):
                tokens.append(pick(output.logits))
                cached = with_cache(case.model, cache_of(output))
                output = case.model(input_ids=tokens[-1], **cached, use_cache=True, **more)
        return torch.cat(tokens, 1)

    batch = case.prompt(TWO)
    with case.patch():
        ids = new_ids(case.generate(batch))
        try:
            ours: Any = loop()
        except Exception as error:
            ours = error
    if isinstance(ours, Tensor) and torch.equal(ours, ids):
        return
    plain = new_ids(case.generate(batch))
    try:
        theirs = loop()
    except Exception as error:
        raise Upstream(f"unpatched: {type(error).__name__}: {str(error)[:80]}") from error
    if not torch.equal(theirs, plain):
        raise Upstream("unpatched, the loop differs from generate too")
    if isinstance(ours, Exception):
        raise ours
    raise AssertionError("the caller's loop differs from generate")


def _rows_alone(case: Case) -> None:
    batch = case.prompt(RAGGED, side="right" if case.encoder_decoder else "left")  # an encoder counts from the left
    logits = case.forward(batch).logits
    ids = None if case.canvas else case.generate(batch)  # whose draws depend on the rows
    for row in range(2):
        own = case.alone(RAGGED, row)
        single = case.forward(own).logits[0]
        n = min(3, len(single))
        near(
            logits[row, -n:],
            single[-n:],
            max(case.tolerance, 1e-5 if case.dtype == torch.float64 else 1e-3),
            f"last logits of row {row}",
        )
        if ids is None:
            continue
        alone_ids = case.generate(own)[0]
        m = min(6, len(alone_ids)) if not case.encoder_decoder else min(len(alone_ids), ids.shape[1])
        if case.encoder_decoder:
            same(ids[row, :m], alone_ids[:m], f"ids of row {row}")
        else:
            same(ids[row, -m:], alone_ids[-m:], f"ids of row {row}")


def with_control(case: Case, check: Callable[[Case], None], *more: Callable[[Case], None], **options: Any) -> None:
    """Run a check on the patched model; where it fails and the unpatched model fails it (or `more`) too, say so."""
    try:
        with case.patch(options.get("compressor")):
            check(case)
    except Exception as error:
        try:
            for each in (check, *more):
                each(case)
        except Exception as theirs:
            raise Upstream(f"unpatched: {type(theirs).__name__}: {str(theirs)[:100]}") from error
        raise


def batch(case: Case) -> None:
    """The rows of a left-padded ragged batch are the rows alone, for a selector and a mixture."""
    with_control(case, _rows_alone)
    with_control(case, _rows_alone, compressor=case.mixer())


def right(case: Case) -> None:
    """The real columns of a right-padded batch are those of the rows alone."""

    def check(case: Case) -> None:
        batch = case.prompt(RAGGED, side="right")
        logits = case.forward(batch).logits
        for row in range(2):
            single = case.forward(case.alone(RAGGED, row)).logits[0]
            near(logits[row, : len(single)], single, max(case.tolerance, 1e-5), f"row {row}")

    if case.apart:
        raise NotApplicable("logits are the decoder's")
    with_control(case, check)


def beams(case: Case) -> None:
    """Beam search on a padded batch is that on the rows alone; the caller's ids stand in front."""

    def check(case: Case) -> None:
        batch = case.prompt(TWO)
        ids = case.generate(batch, num_beams=2, num_return_sequences=2)
        if not case.encoder_decoder:
            same(ids[:, : batch.ids.shape[1]], batch.ids.repeat_interleave(2, 0), "the prompt returned")

    def ragged(case: Case) -> None:
        rows = RAGGED
        try:
            ids = case.generate(case.prompt(rows, side=side), num_beams=2)
        except tokscale.UnsupportedInputError:  # its rows must hold images alike
            rows = SINGLE
            ids = case.generate(case.prompt(rows, side=side), num_beams=2)
        for row in range(2):
            single = case.generate(case.alone(rows, row), num_beams=2)[0]
            m = min(6, len(single)) if not case.encoder_decoder else min(len(single), ids.shape[1])
            ours, theirs = (ids[row, :m], single[:m]) if case.encoder_decoder else (ids[row, -m:], single[-m:])
            same(ours, theirs, f"beams of row {row}")

    if case.canvas:
        raise NotApplicable(CANVAS)
    side = "right" if case.encoder_decoder else "left"
    with_control(case, check)
    with_control(case, ragged, _rows_alone)


def uncached(case: Case) -> None:
    """Greedy and beam search by `generate` without a cache give the ids of those with one."""

    def check(case: Case, **more: Any) -> None:
        for first in (0, 1, 2):
            batch = case.prompt(ONE, first=first)
            ids = case.generate(batch, **more)
            same(case.generate(batch, use_cache=False, **more), ids, f"ids with and without cache, {more}")

    if case.canvas:
        raise NotApplicable(CANVAS)
    with_control(case, check)
    with_control(case, functools.partial(check, num_beams=2))


def static(case: Case) -> None:
    """A static cache gives the ids of a growing one."""

    def check(case: Case) -> None:
        batch = case.prompt(TWO)
        ids = case.generate(batch)
        same(case.generate(batch, cache_implementation="static", disable_compile=True), ids, "ids with a static cache")

    with_control(case, check)


def returns(case: Case) -> None:
    """`return_dict_in_generate`, scores, and `max_length` count the caller's prompt."""

    def check(case: Case) -> None:
        batch = case.prompt(TWO)
        ids = case.generate(batch)
        told = case.generate(batch, return_dict_in_generate=True, output_scores=True)
        same(told.sequences, ids, "sequences")
        if case.encoder_decoder:
            return
        long = batch.ids.shape[1]
        short = case.generate(batch, max_new_tokens=None, max_length=long + 4)
        same(short, ids[:, : long + 4], "ids up to max_length")

    with_control(case, check)
