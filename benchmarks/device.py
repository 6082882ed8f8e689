"""What this machine is, and how fast it copies, multiplies and exponentiates.

python -m benchmarks.device --device cuda --out benchmarks/results/gpu/device.csv
"""

from __future__ import annotations

import argparse
import pathlib

import torch

from benchmarks.kernels import rates
from benchmarks.kernels.table import Table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="dry run: rates that mean nothing, at once")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    facts = rates.facts(device)
    measured = rates.measure(device, options.tiny)
    facts["copy_gb_s"] = f"{measured.copy_bytes / 1e9:.4g}"
    for dtype, flops in measured.matmul_flops.items():
        facts[f"matmul_{str(dtype).removeprefix('torch.')}_tflop_s"] = f"{flops / 1e12:.4g}"
    facts["exp_per_s"] = "" if measured.exps is None else f"{measured.exps:.4g}"
    if options.tiny:
        facts["tests"] = "dry run: no measurement"
    with Table(options.out, list(facts), {}) as table:
        table.add(facts)
    print("\n".join(f"{name:<26}{value if value is not None else ''}" for name, value in facts.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
