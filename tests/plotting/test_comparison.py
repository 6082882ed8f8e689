"""What the picture of a comparison shows: which form is best, by how much, and whether the data can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plotting.pictures import compared, drawn, points, title
from tests.scaling.curves import BUDGETS, CURVES, OCRBENCH, quiet
from tokscale.plotting import plot_comparison, plot_fit


def laws(ax: Any) -> dict[str, Any]:
    """Return the line of each form, in the order of the legend."""
    handles, labels = ax.get_legend_handles_labels()
    return {label.split()[0]: line for label, line in zip(labels, handles)}


@pytest.mark.parametrize("metric, ceil", [("Final Score@OCRBench", 1000), ("Overall@SEEDBench_IMG", 100)])
def test_the_stronger_the_wider(metric: str, ceil: float) -> None:
    found = compared(*CURVES[metric], floor=0, ceil=ceil)
    ax = found.plot()
    lines = laws(ax)
    assert list(lines) == [row["form"] for row in found.table()] and len(lines) == 8
    widths = [line.get_linewidth() for line in lines.values()]
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[1] + 0.5 and min(widths) >= 0.8
    for row, (form, line) in zip(found.table(), lines.items()):
        np.testing.assert_allclose(line.get_ydata(), found.fits[form](line.get_xdata()))
        assert line.get_xdata()[[0, -1]] == pytest.approx([1, 1536])
        assert (line.get_linestyle() == "-") == (form == found.best)
        assert (line.get_color() == "#767676") == (row["delta"] > 10)
    colors = [line.get_color() for line in lines.values() if line.get_color() != "#767676"]
    assert len(set(colors)) == len(colors) and drawn(ax.figure)


def test_the_legend_has_the_aicc_above_the_best_and_the_title_the_verdict() -> None:
    ax = compared(BUDGETS, OCRBENCH, floor=0, ceil=1000).plot()
    labels = ax.get_legend_handles_labels()[1]
    assert labels[:3] == ["saturating (ΔAICc 0)", "loglinear (ΔAICc 9.2)", "broken (ΔAICc 11.1)"]
    assert title(ax).split("\n") == [
        "saturating is best by AICc, and the data can tell: loglinear, the next, is 9.21 above",
        "held-out budgets: error of saturating 7.0%, of the best score carried on 5.0%",
    ]
    assert title(compared(*CURVES["Overall@SEEDBench_IMG"], floor=0, ceil=100).plot()).startswith(
        "neglog is best by AICc, but the data cannot tell it from loglinear\n"
    )
    many = title(compared(*CURVES["Overall@MMStar"], floor=0, ceil=100).plot()).split("\n")
    assert len(many) == 3 and max(map(len, many)) <= 90
    one = compared(BUDGETS, OCRBENCH, forms=["logit"], floor=0, ceil=1000).plot()
    assert title(one).startswith("logit is the only form that takes these data")
    assert title(plot_comparison(compared(BUDGETS, OCRBENCH), title="")) == ""


@pytest.mark.parametrize(
    "criterion, by, value",
    [("loo", "leave-one-out error", "error 33.7"), ("holdout", "error on held-out budgets", "error 7.0%")],
)
def test_other_criteria_give_their_value(criterion: str, by: str, value: str) -> None:
    found = compared(BUDGETS, OCRBENCH, criterion=criterion)
    ax = found.plot()
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == f"{found.best} ({value})"
    assert title(ax).startswith(f"{found.best} is best by {by}") and "tell" not in title(ax)
    assert laws(ax)[found.best].get_linestyle() == "-" and drawn(ax.figure)


def test_points_are_those_of_the_fits() -> None:
    found = compared(BUDGETS, OCRBENCH, exclude=[1, 384], n_items=1000, floor=0, ceil=1000)
    ax = found.plot()
    assert points(ax, filled=False) == [[1, 24], [384, 445]] and len(points(ax, filled=True)) == 8
    low, high = ax.get_ylim()
    assert -60 < low < 24 and 493 < high < 1000 and any(c.has_yerr for c in ax.containers)
    assert [0, 0] in [list(line.get_ydata()) for line in ax.lines]  # the floor
    assert drawn(ax.figure)


def test_axes_of_ones_own_and_a_linear_axis() -> None:
    found = compared(BUDGETS, OCRBENCH)
    own = plot_fit(quiet(BUDGETS, OCRBENCH)).figure.add_axes((0.1, 0.1, 0.5, 0.5))
    assert plot_comparison(found, own, log=False, extend=1) is own and own.get_legend() is not None
    assert own.get_xscale() == "linear" and laws(own)["power"].get_xdata()[-1] == 768 and drawn(own.figure)
    assert plot_comparison(found).get_legend() is None  # it is the figure's


@pytest.mark.parametrize(
    "data",
    [([1, 64], [10, 20]), ([1, 8, 64], [10, 10, 10]), ([1, 8, 64, 512], [-1, 0, 1, 3]), ([1, 8, 64], [10, 20, 40])],
)
def test_little_data_equal_scores_and_exact_laws(data: Any) -> None:
    ax = compared(*data).plot()
    low, high = ax.get_ylim()
    assert low < min(data[1]) and max(data[1]) < high and "nan" not in title(ax) and drawn(ax.figure)


def test_an_exact_law_is_infinitely_better() -> None:
    ax = compared(BUDGETS, [12 + 6 * k for k in range(10)], forms=["power", "loglinear"]).plot()
    assert "ΔAICc" in ax.get_legend_handles_labels()[1][1]
    line = compared([1, 2, 4, 8, 16, 32], [3.0, 4, 5, 6, 7, 8], forms=["power", "loglinear"])
    shown = line.plot()
    assert title(shown).startswith("loglinear is best by AICc, and the data can tell: power, the next, is ")
    assert drawn(shown.figure)
