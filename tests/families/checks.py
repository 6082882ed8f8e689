"""The contract of `tokscale.patch` by name: `CHECKS[name](case)` returns None or raises."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tests.families.case import Case, NotApplicable, Upstream, case
from tests.families.compressed import first_two, original, subset
from tests.families.generation import batch, beams, cached, own_loop, returns, right, static, uncached
from tests.families.unchanged import exception, gradients, keep_all, removal
from tests.families.video import video

__all__ = ["CHECKS", "NotApplicable", "Upstream", "case"]

CHECKS: dict[str, Callable[[Case], None]] = {
    "keep_all": keep_all,
    "subset": subset,
    "telling": first_two,
    "original": original,
    "cached": cached,
    "own_loop": own_loop,
    "batch": batch,
    "right": right,
    "gradients": gradients,
    "beams": beams,
    "uncached": uncached,
    "static": static,
    "returns": returns,
    "exception": exception,
    "removal": removal,
    "video": video,
}


@functools.cache
def refusal(model_type: str) -> str | None:
    """What `patch` says against this family before any call, or None. Building the model is not needed."""
    from tokscale.hf.families import REFUSED

    return REFUSED.get(model_type)
