"""What the picture of a law shows: every form, its bands, its view, its budget; points open, kept, far off or equal."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from tests.plotting.pictures import bands, curve, drawn, points, texts, title
from tests.scaling.curves import BUDGETS, CURVES, OCRBENCH, quiet
from tokscale.errors import ArgumentError, FitError, ScalingFitWarning
from tokscale.plotting import plot_fit
from tokscale.plotting._common import number
from tokscale.plotting._law import law_text, view
from tokscale.scaling import LAWS

LINES = ("power", "loglinear", "logit", "neglog")


def ocr(form: str, **options: Any) -> Any:
    return quiet(BUDGETS, OCRBENCH, form=form, **{"n_items": 1000, "floor": 0, "ceil": 1000, **options})


def interval(fit: Any, x: Any, kind: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit.interval(x, kind=kind)


@pytest.mark.parametrize("form", LAWS)
def test_every_form_has_its_curve_and_its_bands(form: str) -> None:
    fit = ocr(form)
    ax = plot_fit(fit)
    solid, dotted = curve(ax), curve(ax, ":")
    assert solid.get_xdata()[[0, -1]].tolist() == [1, 768]
    assert dotted.get_xdata()[[0, -1]] == pytest.approx([768, 1536])
    for line in (solid, dotted):
        np.testing.assert_allclose(line.get_ydata(), fit(line.get_xdata()), rtol=1e-12)
    found = bands(ax)
    kinds = ["mean"] if form == "binomial" else ["new", "mean"]
    assert len(found) == len(kinds)
    for (x, low, high), kind in zip(found, kinds):
        np.testing.assert_allclose([low, high], interval(fit, x, kind), rtol=1e-9)
    assert points(ax, filled=True) == [[n, s] for n, s in zip(BUDGETS, OCRBENCH)]
    assert ax.get_yscale() == ("log" if form in ("power", "regime", "broken") else "linear")
    assert drawn(ax.figure)


@pytest.mark.parametrize("form", LAWS)
@pytest.mark.parametrize("scale, level", [(1, 0.95), (0.001, 0.999)])
def test_the_title_ends_inside_the_picture(form: str, scale: float, level: float) -> None:
    fit = quiet(BUDGETS, scale * np.array(OCRBENCH), form=form, n_items=1000, floor=0, ceil=1000 * scale, level=level)
    ax = plot_fit(fit)
    ax.figure.set_dpi(70)  # where hinted letters are widest for their size
    ax.figure.canvas.draw()
    (words,) = [words for words in ax.findobj(type(ax.title)) if words.get_text() == title(ax)]
    assert 0 <= words.get_window_extent().x0 < words.get_window_extent().x1 <= ax.figure.bbox.x1


@pytest.mark.parametrize("form", LAWS)
def test_the_title_is_the_law_with_its_intervals(form: str) -> None:
    fit = ocr(form)
    said = law_text(fit)
    assert said == title(plot_fit(fit)) and said.startswith(f"{form}: ") and "with 95% intervals" in said
    assert "nan" not in said and "unknown" not in said and max(map(len, said.split("\n"))) <= 76
    for name, value in fit.params.items():
        if np.isnan(value):
            assert f"{name} not identified" in said
        else:
            assert f"{name} = {number(value)} [{number(fit.ci[name][0])}, {number(fit.ci[name][1])}]" in said
    assert ("u = S / 1000" in said) == fit.law.bounded
    plain = quiet(BUDGETS, OCRBENCH, form=form, n_items=1000, floor=0, ceil=1000, ci=None)
    assert "[" not in law_text(plain) and "interval" not in law_text(plain)


def test_the_title_names_what_is_not_identified_the_share_and_the_robust_way() -> None:
    assert "beta not identified [0.180, 1.13],\nn_balance not identified [0, ∞]" in law_text(ocr("regime"))
    n, score = CURVES["Overall@POPE"]
    assert "u = (S - 50) / 50" in law_text(quiet(n, score, form="logit", floor=50, ceil=100))
    assert "u = (S + 1) / 101" in law_text(quiet(n, score, form="logit", floor=-1, ceil=100))
    assert "u = S, with" in law_text(quiet(n, np.array(score) / 100, form="logit", floor=0, ceil=1))
    assert law_text(quiet(n, score, robust="huber")).startswith("power, huber: S(n) = c / n^alpha")


@pytest.mark.parametrize("form", LAWS)
def test_the_view_holds_the_points_and_goes_nowhere_else(form: str) -> None:
    for n, score in list(CURVES.values())[::4]:
        top = 3000 if max(score) > 1000 else 1000 if max(score) > 100 else 100
        fit = quiet(n, score, form=form, n_items=1000, floor=0, ceil=top)
        low, high = plot_fit(fit, target=None).get_ylim()
        log = fit.law.logarithmic
        scale = np.log if log else np.asarray
        ends = scale(np.array([low, high]))
        bars = 1.96 * fit.score_se
        spread = np.concatenate([scale(np.maximum(fit.score - bars, fit.score / 3 if log else -np.inf)),
                                 scale(fit.score + bars)])  # fmt: skip
        assert ends[0] < spread.min() and spread.max() < ends[1]
        assert np.ptp(ends) <= 2.3 * np.ptp(spread)  # a half on each side, and margins
        assert low >= -0.07 * (high - low) and (log or high <= max(top, (score + bars).max()) * 1.3)


def test_floor_and_ceil_are_dashed_where_they_are_near() -> None:
    n, score = CURVES["Overall@POPE"]
    levels = lambda ax: [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]  # noqa: E731
    assert levels(plot_fit(quiet(n, score, form="saturating", floor=50, ceil=100))) == [50, 100]
    assert levels(plot_fit(quiet(n, score, form="saturating", floor=0, ceil=100))) == [100]
    assert levels(plot_fit(quiet(n, score, form="power", floor=0, ceil=1000))) == []
    low, high = view(quiet(n, score, form="loglinear", floor=0, ceil=87.5))  # the curve rises above what can be
    assert high < 87.5 + 0.07 * (high - low)


def test_errors_are_bars_at_the_level_of_the_fit() -> None:
    given = np.linspace(5, 20, 10)
    for fit in (quiet(BUDGETS, OCRBENCH, se=given, level=0.5), quiet(BUDGETS, OCRBENCH, se=given[::-1], level=0.5)):
        ends = next(c for c in plot_fit(fit).containers if c.has_yerr)[2][0].get_segments()
        np.testing.assert_allclose([end[:, 1].mean() for end in ends], OCRBENCH)
        np.testing.assert_allclose([np.ptp(end[:, 1]) for end in ends], 2 * 0.6744897501960817 * fit.score_se)
    assert not plot_fit(quiet(BUDGETS, OCRBENCH)).containers


@pytest.mark.parametrize("form", ["power", "saturating"])
def test_excluded_points_are_open_and_the_curve_reaches_them_dotted(form: str) -> None:
    fit = quiet(BUDGETS, OCRBENCH, form=form, exclude=[1, 384, 768])
    ax = plot_fit(fit, extend=1)
    assert points(ax, filled=False) == [[1, 24], [384, 445], [768, 493]]
    assert curve(ax).get_xdata()[[0, -1]].tolist() == [8, 512]
    ends = [line.get_xdata()[[0, -1]].tolist() for line in ax.lines if line.get_linestyle() == ":"]
    assert ends == [[512, 768], [1, 8]]
    low, high = ax.get_ylim()
    assert low < 24 and high > 493 and drawn(ax.figure)


def test_an_excluded_point_that_a_logarithm_cannot_take() -> None:
    n, score = [0, 1, 8, 64, 512, 600], [5, 12, 22, 25, 47, 0]
    ax = plot_fit(quiet(n, score, exclude=[0, 600]))
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"  # a score of 0 is to be seen
    assert points(ax, filled=False) == [[600, 0]] and ax.get_xlabel().endswith("(not shown: 0)")
    assert drawn(ax.figure)
    both = plot_fit(quiet(n, score, exclude=[0, 600]), log=False)
    assert points(both, filled=False) == [[0, 5], [600, 0]] and both.get_xlabel() == "vision tokens per image"
    assert both.get_xlim()[0] < 0 and drawn(both.figure)
    nan = plot_fit(quiet([1, 8, 64, 512, 600], [12, 22, 25, 47, np.nan], exclude=[600]))
    assert nan.get_xlabel().endswith("(not shown: 600)") and nan.get_yscale() == "log" and drawn(nan.figure)


@pytest.mark.parametrize("form", LAWS)
def test_the_budget_is_a_bar_on_the_axis(form: str) -> None:
    fit = ocr(form)
    for ax, wanted, goal in (
        (plot_fit(fit), fit.budget_for(0.95), "95% of the score at 768 tokens"),
        (plot_fit(fit, target=0.5, target_score=450), fit.budget_for(450, of="score"), "a score of 450"),
        (plot_fit(fit, target=0.975), fit.budget_for(0.975), "97.5% of the score at 768 tokens"),
    ):
        assert texts(ax) == [f"{goal}: {wanted.n} [{number(wanted.lo)}, {number(wanted.hi)}]"]
        bar, mark = ax.lines[-2:]
        left, right = ax.get_xlim()
        assert bar.get_xdata().tolist() == [max(wanted.lo, left), min(wanted.hi, right)] and bar.get_linewidth() == 4
        assert mark.get_xdata() == [wanted.exact] and mark.get_marker() == "v"
    assert texts(plot_fit(fit, target=None)) == []


def test_a_budget_out_of_the_picture_or_out_of_reach() -> None:
    fit = quiet(*CURVES["Overall@SEEDBench_IMG"], form="loglinear")
    for wanted, marker in ((200, ">"), (5, "<")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScalingFitWarning)
            ax = plot_fit(fit, target_score=wanted)
        assert ax.lines[-1].get_marker() == marker and ax.lines[-1].get_xdata()[0] in ax.get_xlim()
        assert drawn(ax.figure)
    flat = quiet(*CURVES["Overall@RealWorldQA"])
    ax = plot_fit(flat)
    assert texts(ax) == ["95% of the score at 768 tokens: no budget from this law; 32 tokens reached it"]
    assert texts(plot_fit(flat, target_score=60)) == ["a score of 60: no budget from this law"]
    assert drawn(ax.figure)
    with pytest.raises(FitError, match=r"a fraction lies in \(0, 1\)"):
        plot_fit(fit, target=95)
    with pytest.raises(FitError, match="takes scores above 0 only"):
        plot_fit(flat, target_score=-1)


@pytest.mark.parametrize("form", sorted(set(LAWS) - {"broken", "binomial"}))
@pytest.mark.parametrize("score", [10.0, 0.0])
def test_equal_scores(form: str, score: float) -> None:
    if score == 0 and LAWS[form].logarithmic:
        return  # ln 0
    fit = quiet([1, 8, 64, 512], [score] * 4, form=form, floor=-1, ceil=20)
    ax = plot_fit(fit, residuals=True)
    low, high = ax.get_ylim()
    assert low < score < high and texts(ax)[0].endswith("1 token reached it") and drawn(ax.figure)


@pytest.mark.parametrize("data", [([1, 512], [10, 20]), ([8, 8.5, 9], [3, 4, 5]), ([1, 8, 64, 512], [60, 40, 25, 17])])
@pytest.mark.parametrize("form", LINES)
def test_two_budgets_close_ones_and_scores_that_fall(form: str, data: Any) -> None:
    fit = quiet(*data, form=form, floor=0, ceil=100)
    for log in (True, False):
        ax = plot_fit(fit, log=log)
        assert ax.get_xscale() == ("log" if log else "linear") and drawn(ax.figure)
        assert len(bands(ax)) == (0 if len(data[0]) == 2 else 2)


def test_bands_that_leave_every_scale_are_cut() -> None:
    fit = quiet([1, 2, 3, 4], [1e-3, 1e3, 1e-2, 1e2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        ax = plot_fit(fit, extend=1e9)
    low, high = ax.get_ylim()
    assert low > 1e-7 and high < 1e7 and drawn(ax.figure)
    assert all(np.isfinite(ends).all() and (np.asarray(ends) > 0).all() for band in bands(ax) for ends in band)


@pytest.mark.parametrize("robust", ["theil_sen", "lad", "huber", "bisquare"])
def test_a_robust_fit_has_the_bands_it_can_have(robust: str) -> None:
    ax = plot_fit(quiet(BUDGETS, OCRBENCH, robust=robust))
    assert len(bands(ax)) == (0 if robust in ("theil_sen", "lad") else 2) and drawn(ax.figure)


def test_axes_that_hold_something_keep_their_scales_and_their_view() -> None:
    names = ("Overall@POPE", "Overall@ChartQA_TEST", "Overall@SEEDBench_IMG")
    ax: Any = None
    for name in names:
        ax = plot_fit(quiet(*CURVES[name]), ax, target=None, bands=("mean",), label=name)
    low, high = ax.get_ylim()
    assert low < 11.84 and high > 87 and ax.get_legend_handles_labels()[1] == list(names)
    assert len(bands(ax)) == 3 and drawn(ax.figure)
    linear = plot_fit(quiet(BUDGETS, OCRBENCH, form="loglinear"), log=False)
    assert plot_fit(quiet(BUDGETS, OCRBENCH), linear) is linear
    assert linear.get_xscale() == linear.get_yscale() == "linear" and drawn(linear.figure)
    below = quiet([1, 8, 64, 512], [-4, -3, -2, -1], form="loglinear")  # nothing of it fits on a logarithmic axis
    before = ax.get_ylim()
    assert plot_fit(below, ax).get_ylim() == before and drawn(ax.figure)


def test_residuals_are_below_on_the_same_axis() -> None:
    fit = quiet(BUDGETS, OCRBENCH, form="loglinear")
    ax = plot_fit(fit, residuals=True)
    above, below = ax.figure.axes
    assert above is ax and below.get_xlim() == ax.get_xlim() and below.get_ylabel() == "score - law"
    np.testing.assert_array_equal(below.lines[1].get_xydata(), np.stack([BUDGETS, fit.residuals], axis=1))
    assert ax.get_xlabel() == "" and below.get_xlabel() == "vision tokens per image" and drawn(ax.figure)


def test_what_is_refused() -> None:
    fit = quiet(BUDGETS, OCRBENCH)
    with pytest.raises(ArgumentError, match="bands are of new and of mean, got 'newest'"):
        plot_fit(fit, bands=("newest",))
    with pytest.raises(ArgumentError, match="takes ax=None"):
        plot_fit(fit, plot_fit(fit), residuals=True)


def test_a_fit_that_was_saved_looks_the_same() -> None:
    fit = ocr("saturating", exclude=[384])
    again = type(fit).from_dict(fit.to_dict())
    assert drawn(fit.plot().figure) == drawn(again.plot().figure)
