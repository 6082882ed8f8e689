"""What the picture of exponents by range shows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plotting.pictures import drawn, points, title
from tests.scaling.curves import BUDGETS, CURVES, OCRBENCH, quiet
from tokscale.errors import ArgumentError
from tokscale.plotting import plot_alpha_by_range


@pytest.mark.parametrize("form", ["power", "power_additive"])
def test_exponents_and_intervals_against_the_largest_budget(form: str) -> None:
    fit = quiet(BUDGETS, OCRBENCH, form=form)
    ax = plot_alpha_by_range(fit)
    ranges = fit.alpha_by_range()
    assert points(ax, filled=True) == [[r.n_max, -r.alpha] for r in ranges]
    assert [r.n_max for r in ranges] == [float(n) for n in BUDGETS[2:]]
    low, high = ax.get_ylim()
    assert low < min(0, fit.exponent_ci[0]) and high > max(-r.alpha for r in ranges)
    ends = [c.get_segments()[0][:, 1] for c in ax.collections if len(c.get_paths()) == 1]
    for end, r in zip(ends, ranges, strict=True):
        np.testing.assert_allclose(np.clip(end, low, high), np.clip([-r.hi, -r.lo], low, high))
    band = ax.patches[0].get_bbox()
    assert (band.y0, band.y1) == pytest.approx(fit.exponent_ci)
    assert ax.get_xlabel() == "largest budget fitted" and drawn(ax.figure)


def test_the_title_says_where_the_exponent_began() -> None:
    ax = plot_alpha_by_range(quiet(BUDGETS, OCRBENCH))
    assert title(ax) == "power: exponent 0.373 [0.197, 0.548] from all 10 budgets\n0.916 from the first 3"


@pytest.mark.parametrize("metric", list(CURVES)[::3])
def test_the_view_keeps_to_the_exponents(metric: str) -> None:
    fit = quiet(*CURVES[metric])
    ax = plot_alpha_by_range(fit, log=False)
    low, high = ax.get_ylim()
    exponents = [-r.alpha for r in fit.alpha_by_range()]
    span = max(*exponents, 0) - min(*exponents, 0)
    assert low < min(exponents) and max(exponents) < high < 12 * span and ax.get_xscale() == "linear"


def test_odd_data() -> None:
    three = plot_alpha_by_range(quiet([1, 8, 64], [10, 20, 30]))
    assert len(points(three, filled=True)) == 1 and "first" not in title(three) and drawn(three.figure)
    same = plot_alpha_by_range(quiet([1, 8, 64, 512], [10.0] * 4))
    assert points(same, filled=True) == [[64, 0], [512, 0]] and drawn(same.figure)
    for robust in ("lad", "theil_sen", "huber"):
        assert drawn(plot_alpha_by_range(quiet(BUDGETS, OCRBENCH, robust=robust)).figure)
    own = three.figure.add_axes((0.1, 0.1, 0.5, 0.5))
    assert plot_alpha_by_range(quiet(BUDGETS, OCRBENCH), own) is own


def test_what_is_refused() -> None:
    with pytest.raises(ArgumentError, match='plot_alpha_by_range needs 3 budgets for form="power"'):
        plot_alpha_by_range(quiet([1, 8], [10, 20]))
    with pytest.raises(AttributeError, match='form="saturating" has no constant alpha'):
        plot_alpha_by_range(quiet(BUDGETS, OCRBENCH, form="saturating"))
