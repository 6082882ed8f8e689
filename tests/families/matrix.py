"""The matrix: every family x every check, printed as a table. `python -m tests.families.matrix [--only TYPE ...]`.

Cells: `ok`; `-` where a check says nothing about a family; `up` where the unpatched model does not do it either; FAIL.
Reasons stand below the table.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import traceback
import warnings
from typing import Any

LIMIT = 120  # seconds per family


class _Slow(Exception):
    pass


def _alarm(*_: Any) -> None:
    raise _Slow("more seconds than one family may take")


def reason(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:220]}{where}"


def refused(model_type: str) -> str:
    """What `patch` says to a model of a refused family, which must be the reason of the table."""
    import tokscale
    from tests.families.case import Spread
    from tests.families.tiny import build
    from tokscale.hf.families import REFUSED

    try:
        model = build(model_type)
    except Exception as error:
        return f"{REFUSED[model_type]} (no tiny model: {reason(error)})"
    try:
        tokscale.patch(model, Spread())
    except tokscale.UnsupportedModelError as error:
        if str(error) != f"{model.config.model_type}: {REFUSED[model_type]}":
            raise AssertionError(f"{model_type} is refused with other words: {error}") from error
        return REFUSED[model_type]
    raise AssertionError(f"{model_type} is in the table of refusals and was patched")


def run(model_type: str, only: list[str] | None = None, limit: int = LIMIT) -> dict[str, Any]:
    """All checks of one family, each "ok", "- reason", "up reason" or "FAIL reason"; and "build", "n", "seconds"."""
    from tests.families.checks import CHECKS, NotApplicable, Upstream, case
    from tests.families.prompts import ONE
    from tokscale.errors import UnsupportedModelError
    from tokscale.hf.families import REFUSED

    result: dict[str, Any] = {}
    began = time.perf_counter()
    old = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(limit)
    try:
        if model_type in REFUSED:
            result["build"] = f"refused: {refused(model_type)}"
            return result
        try:
            made = case(model_type)
            result["n"] = [made.family.picture(i).num_features for i in range(3)]
        except Exception as error:
            result["build"] = f"does not build: {reason(error)}"
            return result
        try:
            made.forward(made.prompt(ONE))
        except Exception as error:
            result["build"] = f"broken upstream: {reason(error)}"
            return result
        result["build"] = f"ok {time.perf_counter() - began:.1f}"
        for name, check in CHECKS.items():
            if only and name not in only:
                continue
            try:
                check(made)
                result[name] = "ok"
            except NotApplicable as error:
                result[name] = f"- {error}"
            except Upstream as error:
                result[name] = f"up {error}"
            except UnsupportedModelError as error:
                result["build"] = f"refused: {error}"
                break
            except Exception as error:
                result[name] = f"FAIL {reason(error)}"
                if isinstance(error, _Slow):
                    break
    except _Slow as error:
        result.setdefault("build", f"does not build: {error}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        result["seconds"] = round(time.perf_counter() - began, 1)
    return result


def table(results: dict[str, dict[str, Any]], checks: list[str]) -> str:
    """The results as text: one line per family, then the reasons, then counts."""
    lines = [f"{'family':24s} {'s':>5s} " + " ".join(f"{c[:8]:8s}" for c in checks)]
    for name, row in results.items():
        cells = [str(row.get(c, "")).split(" ")[0] for c in checks]
        head = f"{name:24s} {row['seconds']:5.1f} "
        lines.append(head + (" ".join(f"{c:8s}" for c in cells) if any(cells) else row["build"][:160]))
    lines.append("")
    for name, row in results.items():
        lines += [f"{name} {c}: {row[c]}" for c in checks if str(row.get(c, "")).startswith(("FAIL", "up"))]
    built = sum(row["build"].startswith("ok") for row in results.values())
    counts = ", ".join(f"{c} {sum(row.get(c) == 'ok' for row in results.values())}" for c in checks)
    whole = [
        n
        for n, r in results.items()
        if r["build"].startswith("ok") and not any(str(r.get(c, "")).startswith("FAIL") for c in checks)
    ]
    lines += ["", f"{len(results)} families, {built} built, {len(whole)} without a failure; ok: {counts}"]
    return "\n".join(lines)


def main() -> None:
    import torch
    import transformers

    from tests.families.checks import CHECKS
    from tests.families.tiny import model_types

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="model types")
    parser.add_argument("--checks", nargs="*", help="checks")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds per family")
    parser.add_argument("--json", help="write the results to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    results = {}
    for name in given.only or model_types():
        results[name] = run(name, given.checks, given.limit)
        bad = {c: v for c, v in results[name].items() if str(v).startswith(("FAIL", "does not", "broken"))}
        print(f"{name}: {results[name]['build'][:60]} {results[name]['seconds']} s, {len(bad)} failures", flush=True)
        if given.json:
            with open(given.json, "w") as file:
                json.dump({"transformers": transformers.__version__, "families": results}, file, indent=1)
    print(table(results, [c for c in CHECKS if not given.checks or c in given.checks]))


if __name__ == "__main__":
    main()
