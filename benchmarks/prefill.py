"""Time to the first token of whole VLMs at their published sizes, unpatched and at vision-token budgets.

    python -m benchmarks.prefill --device cuda --out benchmarks/results/gpu/prefill.csv

LLaVA-1.5-7B (CLIP ViT-L at 336 pixels, 576 tokens) and Qwen2.5-VL-7B (one picture of 2016 x 1344 pixels, 3,456 tokens),
built from their configs with random weights: the work does not depend on what they hold. `tokscale.profile` measures
all variants in one process on the same inputs under SDPA; `speed-up` is against the unpatched model of that run.
"""

from __future__ import annotations

import argparse
import gc
import pathlib
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

import tokscale
from benchmarks.kernels.table import Table

METHODS = ("adaptive_pool", "divprune", "attention_topk", "cross_attention")
ONCE = "cross_attention"  # at the smallest budget alone: a fuser of that width takes seconds to initialise
TEXT, START = 40, 100  # ids of the question, and the first of them
FIELDS = (
    "model", "compressor", "num_tokens", "native_tokens", "batch_size", "prompt_tokens", "vision_ms", "compress_ms",
    "operators_ms", "operators", "prefill_ms", "prefill_ms_p20", "prefill_ms_p80", "ttft_ms", "ttft_ms_p20",
    "ttft_ms_p80", "decode_tokens_per_s", "kv_cache_mib", "peak_memory_mib", "prefill_tflop", "prefill_speedup",
    "ttft_speedup", "ideal_prefill_speedup", "calls", "attention", "error", "device", "dtype", "torch", "triton",
    "transformers", "commit", "started",
)  # fmt: skip
Made = tuple[Any, Callable[[int], dict[str, torch.Tensor]]]


def ids_of(image: int, n: int, batch: int, *around: int) -> torch.Tensor:
    """A prompt as its processor writes it: markers, n placeholders, a question."""
    row = [1, *around[:1], *[image] * n, *around[1:], *range(START, START + TEXT)]
    return torch.tensor([row] * batch)


def llava(tiny: bool) -> Made:
    """LLaVA-1.5-7B: the defaults of its config are its sizes."""
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 2}
    text = {**small, "num_key_value_heads": 2, "vocab_size": 256} if tiny else {"vocab_size": 32064}
    vision = {"image_size": 336, "patch_size": 14, "projection_dim": 768}
    vision |= small if tiny else {"hidden_size": 1024, "intermediate_size": 4096}
    vision |= {} if tiny else {"num_attention_heads": 16, "num_hidden_layers": 24}
    config = LlavaConfig(
        text_config={"model_type": "llama", **text},
        vision_config={"model_type": "clip_vision_model", **vision},
        image_token_id=99 if tiny else 32000,
    )
    config._attn_implementation = "sdpa"

    def inputs(batch: int) -> dict[str, torch.Tensor]:
        ids = ids_of(config.image_token_id, 576, batch)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(batch, 3, 336, 336),
        }

    return LlavaForConditionalGeneration(config), inputs


def qwen(tiny: bool) -> Made:
    """Qwen2.5-VL-7B."""
    text: dict[str, Any] = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    text |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False}
    vision: dict[str, Any] = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420}
    section, special, rows, columns = [16, 24, 24], (151655, 151652, 151653), 96, 144
    if tiny:
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"vocab_size": 256}
        vision = {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "fullatt_block_indexes": [1]}
        section, special, rows, columns = [2, 3, 3], (99, 98, 97), 24, 36
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    image, start, end = special
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=image,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    config._attn_implementation = "sdpa"

    def inputs(batch: int) -> dict[str, torch.Tensor]:
        ids = ids_of(image, rows * columns // 4, batch, start, end)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == image).int(),
            "pixel_values": torch.randn(batch * rows * columns, 3 * 2 * 14 * 14),
            "image_grid_thw": torch.tensor([[1, rows, columns]] * batch),
        }

    return Qwen2_5_VLForConditionalGeneration(config), inputs


MODELS: dict[str, tuple[Callable[[bool], Made], dict[int, list[int]]]] = {  # and budgets at each batch size
    "llava-1.5-7b": (llava, {8: [288, 144, 64], 1: [64]}),
    "qwen2.5-vl-7b": (qwen, {1: [1152, 576, 144]}),
}


def build(make: Callable[[bool], Made], device: torch.device, dtype: torch.dtype, tiny: bool) -> Made:
    """A model with random weights made where and as it runs, never on the CPU first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model, inputs = make(tiny)
    finally:
        torch.set_default_dtype(before)

    def placed(batch: int) -> dict[str, torch.Tensor]:
        return {k: x.to(device, dtype if x.is_floating_point() else x.dtype) for k, x in inputs(batch).items()}

    return model.eval(), placed


def main(arguments: list[str] | None = None) -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds; what is not begun by then is said")
    parser.add_argument("--tiny", action="store_true", help="dry run: tiny models, two calls each")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    failed = False
    with Table(options.out, FIELDS, {}) as table:
        for name in options.only:
            make, runs = MODELS[name]
            torch.manual_seed(0)
            model, inputs = build(make, device, dtype, options.tiny)
            for batch, budgets in runs.items():
                row: dict[str, Any] = {"model": name, "batch_size": batch}
                if time.monotonic() - begin > options.limit:
                    table.add({**row, "error": "not run: time limit"})
                    continue
                try:
                    chosen = budgets[-1:] if options.tiny else budgets
                    found = tokscale.profile(
                        model, list(METHODS), inputs(batch),
                        budgets={method: chosen[-1:] if method == ONCE else chosen for method in METHODS},
                        repeats=2 if options.tiny else options.repeats, warmup=1 if options.tiny else 3, new_tokens=0,
                    )  # fmt: skip
                except Exception as error:  # what one size does not fit, another may
                    failed = True
                    table.add({**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
                    print(table.rows[-1]["error"])
                    continue
                header = {**found.header, **({"device": "dry run: tiny models"} if options.tiny else {})}
                for measured in found.rows:
                    known = {**header, **measured, **row}
                    table.add({field: known[field] for field in FIELDS if field in known})
                print(f"{name}, batch {batch}\n{found.table()}\n", flush=True)
            del model, inputs
            gc.collect()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
