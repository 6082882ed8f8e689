"""Many calls, many patches, two threads: nothing grows, nothing is left, nothing is mixed up."""

from __future__ import annotations

import gc
import pathlib
import resource
from typing import Any

import torch

import tokscale
from tests.hf.helpers import ByNorm, K, forward
from tests.hf.lent import Lent
from tests.hf.together import run_together
from tests.tiny_models import FAMILIES, Family, prompt


def resident_mib() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_memory_does_not_grow_over_two_thousand_calls(llava: Any) -> None:
    """Half of the calls compress; the last ones need what the first ones needed, to the noise of an allocator."""
    batch = prompt(FAMILIES["llava"], [[3, "image", 4]])
    with tokscale.patch(llava, ByNorm(K)) as handle, torch.inference_mode():
        for call in range(2200):
            handle.num_tokens = (K, 10_000)[call % 2]
            llava(**batch.inputs)
            if call == 199:
                gc.collect()
                before, objects = resident_mib(), len(gc.get_objects())
        gc.collect()
        assert len(gc.get_objects()) - objects < 200
        assert resident_mib() - before < 8


def test_two_hundred_patches_leave_the_model_as_it_was(llava: Any) -> None:
    batch = prompt(FAMILIES["llava"], [[3, "image", 4]])
    lent, names = Lent(llava, batch), [sorted(dir(module)) for module in llava.modules()]
    for cycle in range(200):
        handle = tokscale.patch(llava, "uniform", num_tokens=1 + cycle % 7)
        if cycle % 20 == 0:
            forward(llava, batch.inputs)
        handle.remove()
    lent.check()
    assert names == [sorted(dir(module)) for module in llava.modules()]


def test_a_thousand_calls_in_two_threads() -> None:
    """Two models, two budgets: every result is that of the sequential run, bit for bit."""
    families = [FAMILIES["llava"], FAMILIES["qwen2_5_vl"]]
    models = [family.model() for family in families]
    batches = [[prompt(family, [[2 + i, "image", 3]]) for i in range(5)] for family in families]

    def expected(i: int, k: int) -> list[torch.Tensor]:
        return [forward(models[i], batch.inputs).logits for batch in batches[i]]

    def five_hundred(i: int, family: Family, truth: list[torch.Tensor]) -> int:
        right = 0
        for call in range(500):
            batch = batches[i][call % 5]
            right += torch.equal(forward(models[i], batch.inputs).logits, truth[call % 5])
        return right

    with tokscale.patch(models[0], ByNorm(3)), tokscale.patch(models[1], ByNorm(5)):
        truths = [expected(0, 3), expected(1, 5)]
        found = run_together(*(lambda i=i: five_hundred(i, families[i], truths[i]) for i in (0, 1)))
    assert found == [500, 500]
