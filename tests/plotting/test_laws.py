"""Pictures of every form, of their comparison, of exponents by range, and small multiples."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.scaling.curves import BUDGETS, CURVES, OCRBENCH, quiet
from tokscale import plotting
from tokscale.errors import ArgumentError
from tokscale.scaling import LAWS, compare_laws, fit_many


def drawn(ax: Any) -> list[Any]:
    ax.figure.canvas.draw()
    return list(ax.lines)


@pytest.mark.parametrize("form", list(LAWS))
@pytest.mark.parametrize("options", [{"n_items": 1000}, {"n_items": 1000, "exclude": [384]}])
def test_every_form_is_drawn(form: str, options: dict[str, Any]) -> None:
    fit = quiet(BUDGETS, OCRBENCH, form=form, floor=0, ceil=1000, **options)
    ax = plotting.plot_fit(fit)
    lines = drawn(ax)
    curve = next(line for line in lines if len(line.get_xdata()) > 20)
    np.testing.assert_allclose(curve.get_ydata(), fit(curve.get_xdata()))
    assert max(float(np.max(line.get_xdata())) for line in lines if len(line.get_xdata()) > 20) <= 2 * 768 * (1 + 1e-9)
    assert ax.get_yscale() == ("log" if fit.law.logarithmic else "linear") and ax.get_xscale() == "log"
    assert ax.get_title(loc="left").startswith(form) and "nan" not in ax.get_title(loc="left")
    low, high = ax.get_ylim()
    assert low > -400 and high < 5000  # bands that run off do not squeeze the points
    if form == "regime":
        assert "n_balance not identified" in ax.get_title(loc="left")
    if "exclude" in options:
        assert any(line.get_markerfacecolor() == "white" for line in lines)


def test_a_target_score_has_its_own_bar() -> None:
    fit = quiet(BUDGETS, OCRBENCH, form="saturating")
    ax = plotting.plot_fit(fit, target_score=450)
    said = [text.get_text() for text in ax.texts]
    assert said == [f"a score of 450: {fit.budget_for(450, of='score').n} [{_interval(fit)}]"]


def _interval(fit: Any) -> str:
    from tokscale.plotting._common import number

    found = fit.budget_for(450, of="score")
    return f"{number(found.lo)}, {number(found.hi)}"


@pytest.mark.parametrize("metric", ["Overall@SEEDBench_IMG", "Final Score@OCRBench"])
def test_a_comparison_shows_every_form_and_whether_the_data_can_tell(metric: str) -> None:
    found = compare_laws(*CURVES[metric], floor=0, ceil=100 if "SEED" in metric else 1000)
    ax = found.plot()
    labels = ax.get_legend_handles_labels()[1]
    assert labels[0] == f"{found.best} (best)" and len(labels) == len(found.fits)
    assert [label.split()[0] for label in labels] == [row["form"] for row in found.table()]
    widths = {line.get_label().split()[0]: line.get_linewidth() for line in ax.lines if " (" in line.get_label()}
    assert max(widths, key=widths.__getitem__) == found.best
    assert ("cannot tell" in ax.get_title(loc="left")) == bool(found.undecided)
    given = plotting.plot_fit(quiet(BUDGETS, OCRBENCH)).figure.add_subplot()
    assert plotting.plot_comparison(found, given, title="mine") is given and given.get_title(loc="left") == "mine"


def test_a_comparison_of_two_points_and_of_equal_scores() -> None:
    drawn(compare_laws([1, 64], [10, 20]).plot())
    drawn(compare_laws([1, 8, 64], [10, 10, 10]).plot())


@pytest.mark.parametrize("form", ["power", "power_additive"])
def test_exponents_by_range(form: str) -> None:
    fit = quiet(BUDGETS, OCRBENCH, form=form)
    ax = plotting.plot_alpha_by_range(fit)
    points = next(line for line in drawn(ax) if line.get_marker() == "o")
    assert points.get_xdata()[-1] == 768 and points.get_ydata()[-1] == pytest.approx(fit.exponent)
    with pytest.raises(AttributeError, match="has no constant alpha"):
        plotting.plot_alpha_by_range(quiet(BUDGETS, OCRBENCH, form="logit", floor=0, ceil=1000))


def test_small_multiples() -> None:
    fits = {metric: quiet(n, score) for metric, (n, score) in CURVES.items()}
    figure = plotting.plot_many(fits)
    figure.canvas.draw()
    assert len(figure.axes) == 18 and figure.axes[0].get_title().startswith(next(iter(fits)))
    some = {"a": CURVES["Overall@POPE"], "b": CURVES["Overall@MMStar"]}
    assert len(plotting.plot_many(fit_many(some)).axes) == 2
    mixed = {form: quiet(BUDGETS, OCRBENCH, form=form) for form in ("saturating", "power")}
    mixed["robust"] = quiet(BUDGETS, OCRBENCH, robust="theil_sen")
    plotting.plot_many(mixed, columns=2).canvas.draw()
    with pytest.raises(ArgumentError, match="at least one fit"):
        plotting.plot_many({})


def test_pyplot_is_not_loaded() -> None:
    assert "matplotlib.pyplot" not in sys.modules
