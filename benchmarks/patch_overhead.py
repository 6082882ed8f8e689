"""What a patch costs and saves on the demo model: forward time against the unpatched model of the same run.

    python -m benchmarks.patch_overhead

Two copies of the model, one patched and one not, are called in turn and in random order on the same inputs; the ratio
is taken pair by pair, its median and quartiles are printed. One thread, CPU: for comparison only.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from typing import Any

import numpy as np
import torch
import transformers

import tokscale
from tokscale import demo


def seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratios(plain: Any, patched: Any, inputs: Any, pairs: int) -> tuple[np.ndarray, float]:
    """Return patched / unpatched for each pair of calls, and the median unpatched milliseconds."""
    calls = {"plain": lambda: plain(**inputs), "patched": lambda: patched(**inputs)}
    took: dict[str, list[float]] = {"plain": [], "patched": []}
    order = list(calls)
    with torch.inference_mode():
        for _ in range(pairs + 10):
            random.shuffle(order)
            for name in order:
                took[name].append(seconds(calls[name]))
    base, other = (np.asarray(took[name][10:]) for name in ("plain", "patched"))  # the first pairs warm up
    return other / base, 1e3 * float(np.median(base))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    random.seed(0)
    plain, processor = demo.load()
    model, _ = demo.load()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, one thread, {options.pairs} pairs")
    print(f"{'batch':>5} {'case':<24} {'unpatched ms':>12} {'patched/unpatched: median':>26} {'quartiles':>16}")
    for batch in (1, 8, 16, 32):
        inputs = demo.collate(demo.samples(batch), processor)
        cases = {
            "keeps all 144": ("divprune", 144),
            "adaptive_pool, 36": ("adaptive_pool", 36),
            "divprune, 36": ("divprune", 36),
            "fuser_question, 36": (demo.load_fuser("question"), 36),
        }
        for name, (compressor, k) in cases.items():
            with tokscale.patch(model, compressor, num_tokens=k):
                found, base = ratios(plain, model, inputs, options.pairs if batch < 16 else options.pairs // 2)
            low, mid, high = np.percentile(found, [25, 50, 75])
            print(f"{batch:>5} {name:<24} {base:>12.2f} {mid:>26.3f} {f'{low:.3f}, {high:.3f}':>16}")


if __name__ == "__main__":
    main()
