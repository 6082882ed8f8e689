"""The eighteen published curves, fitted by every form: which law wins, can the data tell, and does it predict?

    python -m benchmarks.paper_curves

Reads `tests/data/paper_scores_vqq.csv` (T. Li et al., JMLR 26(253), 2025), prints a table in Markdown, and draws
`docs/images/eighteen.png`.
"""

from __future__ import annotations

import argparse
import collections
import csv
import pathlib
import warnings

from tokscale.errors import ScalingFitWarning
from tokscale.plotting import plot_many
from tokscale.scaling import compare_laws, fit_many

ROOT = pathlib.Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "eighteen.png"
# of the score; 100 for the others, None where it is unbounded
CEIL: dict[str, float | None] = {"MME": 2800.0, "OCRBench": 1000.0, "COCO_VAL CIDEr": None}


def curves() -> dict[str, tuple[list[float], list[float]]]:
    """Return `{benchmark and metric: (n, score)}` in the order of the file."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with open(ROOT / "tests" / "data" / "paper_scores_vqq.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            metric, _, benchmark = row["metric"].partition("@")
            name = f"{benchmark} {metric}" if benchmark == "COCO_VAL" else benchmark
            n, score = found.setdefault(name, ([], []))
            n.append(float(row["num_tokens"]))
            score.append(float(row["score"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=PICTURE)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ScalingFitWarning)
    found = curves()
    many = fit_many(found)
    winners: collections.Counter[str] = collections.Counter()
    alone = better = power_better = 0
    told: collections.Counter[str] = collections.Counter()
    print("| curve | exponent of the power law | best form | as good | skill of the best |")
    print("| --- | --- | --- | --- | --- |")
    for name, (n, score) in found.items():
        ceil = CEIL.get(name, 100.0)
        laws = compare_laws(n, score, floor=None if ceil is None else 0, ceil=ceil)
        winners[laws.best] += 1
        alone += not laws.undecided
        skill = laws.skill[laws.best]
        better += skill is not None and skill.skill > 0
        plain = laws.skill["power"]
        power_better += plain is not None and plain.skill > 0
        for form, what in (("saturating", "asymptote"), ("regime", "n_balance"), ("broken", "d")):
            told[what] += laws.fits[form].identified[what]
        power = many.fits[name]
        low, high = power.exponent_ci
        shown = "too few budgets" if skill is None else f"{skill.skill:.2f}"
        near = ", ".join(laws.undecided) or "-"
        print(f"| {name} | {power.exponent:.4f} [{low:.4f}, {high:.4f}] | {laws.best} | {near} | {shown} |")
    counted = ", ".join(f"{form} {count}" for form, count in winners.most_common())
    low, high = many.mean_ci
    print(f"\nBest by AICc: {counted}. The data can tell for {alone} of {len(found)}.")
    print(
        f"The best law predicts the three largest budgets better than the best score so far on {better} of {len(found)}"
    )
    print(f"curves, the power law on {power_better}. Identified: the asymptote of `saturating` on {told['asymptote']}")
    print(f"curves, `n_balance` of `regime` on {told['n_balance']}, the break `d` of `broken` on {told['d']}.")
    print(f"Mean exponent {many.mean:.4f} [{low:.4f}, {high:.4f}], spread between curves {many.tau:.4f}.")
    plot_many(many).savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
