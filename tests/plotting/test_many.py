"""What small multiples show: a panel per curve with points, law, band, name and exponent; no pyplot anywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.plotting.pictures import bands, compared, curve, drawn, points
from tests.scaling.curves import BUDGETS, CURVES, OCRBENCH, quiet
from tokscale.errors import ArgumentError, MissingDependencyError
from tokscale.plotting import plot_alpha_by_range, plot_comparison, plot_fit, plot_many
from tokscale.plotting.many import exponent_text
from tokscale.scaling import LAWS, fit_many


def test_the_eighteen_curves() -> None:
    fits = {metric: quiet(n, score) for metric, (n, score) in CURVES.items()}
    figure = plot_many(fits, title="eighteen")
    assert len(figure.axes) == 18 and figure.get_suptitle() == "eighteen" and drawn(figure)
    for ax, (name, fit) in zip(figure.axes, fits.items()):
        assert ax.get_title() == f"{name}\n{exponent_text(fit)}"
        assert points(ax, filled=True) == np.stack([fit.n, fit.score], axis=1).tolist()
        line = curve(ax)
        np.testing.assert_allclose(line.get_ydata(), fit(line.get_xdata()))
        ((x, low, high),) = bands(ax)
        np.testing.assert_allclose([low, high], fit.interval(x), rtol=1e-9)
        bottom, top = ax.get_ylim()
        assert bottom < fit.score.min() and fit.score.max() < top <= fit.score.max() + 0.7 * np.ptp(fit.score)
    assert exponent_text(fits["Final Score@OCRBench"]) == "exponent 0.373 [0.197, 0.548]"


@pytest.mark.parametrize("form", LAWS)
def test_every_form_has_its_panel(form: str) -> None:
    fit = quiet(BUDGETS, OCRBENCH, form=form, n_items=1000, floor=0, ceil=1000, exclude=[384])
    (ax,) = plot_many({"": fit}, log=False).axes
    assert points(ax, filled=False) == [[384, 445]] and len(bands(ax)) == 1 and len(ax.containers) == 1
    if form not in ("power", "power_additive"):
        slope = fit.slope_at(768)
        assert exponent_text(fit) == f"{form}: exponent {slope:.3f} at 768"
    assert ax.get_xscale() == "linear" and drawn(ax.figure)


def test_rows_columns_and_what_fit_many_returned() -> None:
    many = fit_many({name: CURVES[name] for name in ("Overall@POPE", "Overall@MMStar", "Overall@MME")})
    figure = plot_many(many, columns=2, size=1.0)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == list(many.fits)
    tops = [ax.get_position().y1 for ax in figure.axes]
    assert tops[0] == tops[1] > tops[2] and figure.get_figwidth() == pytest.approx(2.3)
    odd = {
        "robust": quiet(BUDGETS, OCRBENCH, robust="lad"),
        "two": quiet([1, 8], [1, 2]),
        "same": quiet([1, 8, 64], [3.0, 3, 3]),
    }
    assert [len(bands(ax)) for ax in plot_many(odd).axes] == [0, 0, 1]
    assert exponent_text(odd["two"]) == "exponent 0.333" and drawn(plot_many(odd))
    with pytest.raises(ArgumentError, match="plot_many needs at least one fit, got none"):
        plot_many({})
    with pytest.raises(ArgumentError, match="columns must be at least 1, got 0"):
        plot_many(odd, columns=0)


def test_pyplot_is_never_touched_and_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from tokscale import plotting as p; assert 'matplotlib' not in sys.modules; "
        "from tokscale.scaling import compare_laws as compare; laws = compare([1, 8, 64, 512], [10, 14, 21, 29]); "
        "fit = laws.fits['power']; fit.plot(residuals=True); laws.plot(); p.plot_alpha_by_range(fit); "
        "p.plot_many(laws.fits); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    fit, laws = quiet(BUDGETS, OCRBENCH), compared(BUDGETS, OCRBENCH)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for ask, what in (
        (lambda: plot_fit(fit), "plot_fit"),
        (lambda: plot_comparison(laws), "plot_comparison"),
        (lambda: plot_alpha_by_range(fit), "plot_alpha_by_range"),
        (lambda: plot_many({"a": fit}), "plot_many"),
    ):
        with pytest.raises(MissingDependencyError, match=f"^{what} needs matplotlib"):
            ask()
