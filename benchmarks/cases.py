"""What the kernel benchmarks compare: operators, shapes by model, providers.

    python -m benchmarks.cases            # on a CPU
    python -m benchmarks.cases --device cuda

lists them without running any. Each operator's own file under `benchmarks/kernels/` holds its shapes, its float64
oracle, our backends and the baselines.
"""

from __future__ import annotations

import argparse

from benchmarks.kernels import folded, fusion, greedy, importance, topk
from benchmarks.kernels.case import Operator

OPERATORS: dict[str, Operator] = {
    module.OPERATOR.name: module.OPERATOR for module in (importance, fusion, folded, greedy, topk)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    for op in OPERATORS.values():
        print(op.name)
        for case in op.cases(device, False):
            sizes = ", ".join(f"{name} {getattr(case, name)}" for name in "bnmtkhgd" if getattr(case, name))
            print(f"  {case.name:<26} {sizes}, {str(case.dtype).removeprefix('torch.')}: {', '.join(case.modes)}")
        for provider in op.providers:
            where = "" if device == "cuda" or not provider.gpu_only else "  (needs a GPU)"
            print(f"    {provider.name}: {', '.join(provider.answers)}{where}")


if __name__ == "__main__":
    main()
