"""What a patch that keeps every token costs on each model type of transformers, beside the unpatched model of the run.

    python -m benchmarks.family_overhead [--csv benchmarks/results/family_overhead.csv] [--only TYPE ...]

Each model is the tiny random twin on which `docs/families.md` checks the contract: its forward takes milliseconds, so
the fixed cost of the front door weighs most, and a real model pays less. Two copies, one patched and one not, are
called in turn and in random order on one row with one picture; the ratio is taken pair by pair. CPU, one thread.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gc
import pathlib
import random
import warnings

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import tokscale
from benchmarks.patch_overhead import ratios
from tokscale import _provenance
from tokscale.hf.families import REFUSED
from tokscale.hf.twin import twin_of


def row(model_type: str, pairs: int) -> dict[str, str | float]:
    """Return what one family costs: median and quartiles of patched / unpatched, and the unpatched milliseconds."""
    twin = twin_of(transformers.CONFIG_MAPPING[model_type]())
    inputs = twin.prompt([1])
    if twin.encoder_decoder:
        inputs["decoder_input_ids"] = torch.full((1, 2), 50)
    plain = copy.deepcopy(twin.model)
    with tokscale.patch(twin.model, "uniform", num_tokens=10_000):
        found, base = ratios(plain, twin.model, inputs, pairs)
    low, mid, high = np.percentile(found, [25, 50, 75])
    return {
        "family": model_type,
        "unpatched_ms": round(base, 3),
        **{name: round(float(value), 4) for name, value in (("median", mid), ("low", low), ("high", high))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--only", nargs="*", help="model types")
    parser.add_argument("--csv", type=pathlib.Path, help="write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    gc.disable()
    random.seed(0)
    rows, started = [], _provenance.now()
    for kind in options.only or [k for k in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if k not in REFUSED]:
        try:
            rows.append(row(kind, options.pairs))
        except Exception as error:  # what does not run unpatched either stands in docs/families.md
            print(f"{kind:<24} not measured: {type(error).__name__}: {error}")
            continue
        print(f"{kind:<24}", *(f"{name} {value}" for name, value in list(rows[-1].items())[1:]), flush=True)
        gc.collect()
    medians = np.array([each["median"] for each in rows], dtype=float)
    low, mid, high = np.percentile(medians, [25, 50, 75])
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, CPU, one thread, {options.pairs} pairs")
    print(f"{len(rows)} families: median of the medians {mid:.4f}, quartiles {low:.4f}, {high:.4f}, largest", end=" ")
    print(f"{medians.max():.4f} ({rows[int(medians.argmax())]['family']})")
    if options.csv:
        stamp = {"pairs": options.pairs, **_provenance.versions(), "commit": _provenance.commit()}
        rows = [{**each, **stamp, "started": started} for each in rows]
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
