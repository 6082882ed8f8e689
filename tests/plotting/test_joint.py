"""What the picture of a joint law shows: a curve per size, its points, the constant, and the profile of D."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from tokscale.errors import ArgumentError, MissingDependencyError, ScalingFitWarning
from tokscale.plotting.joint import joint_text, plot_joint
from tokscale.scaling.joint import JointFit, fit_joint_law

N = np.repeat([0.5, 1.8, 4.0, 7.0], 7)
T = np.tile([1.0, 4, 16, 36, 64, 144, 576], 4)
NOISE = np.where(np.arange(28) % 2 == 1, 1, -1) * (1 + np.arange(28) % 3) / 200


def fit(D: float = 0.2, noise: float = 1.0, **options: Any) -> JointFit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return fit_joint_law(N, T, 0.5 * N**-0.3 * T**-0.1 + D + noise * NOISE, **options)


def drawn(ax: Any) -> bytes:
    ax.figure.savefig(buffer := io.BytesIO(), format="png")
    return buffer.getvalue()


def test_each_size_has_a_curve_a_dotted_end_and_its_points() -> None:
    law = fit()
    ax = plot_joint(law, extend=2, label="size", y_label="error")
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "error"
    assert ax.get_legend_handles_labels()[1] == [f"size = {n}" for n in ("0.5", "1.8", "4", "7")] + ["D = 0.200"]
    for i, size in enumerate((0.5, 1.8, 4.0, 7.0)):
        solid, dotted, points = ax.lines[3 * i : 3 * i + 3]
        assert solid.get_xdata().max() <= 576 * (1 + 1e-9) < dotted.get_xdata().max() == pytest.approx(1152)
        assert dotted.get_linestyle() == ":" and solid.get_color() == points.get_color()
        np.testing.assert_array_equal(solid.get_ydata(), law(size, solid.get_xdata()))
        np.testing.assert_array_equal(points.get_xydata(), np.stack([T, law.y], axis=1)[size == N])
    assert list(ax.lines[-1].get_ydata()) == [law.params["D"]] * 2
    assert ax.get_title(loc="left") == joint_text(law) and "D = 0.200" in joint_text(law)
    assert drawn(ax)


def test_the_profile_of_d_has_a_panel_with_its_minimum_and_its_cut() -> None:
    law = fit()
    ax = plot_joint(law, profile=True)
    side = ax.figure.axes[1]
    cut, curve, mark = side.lines
    least = min(rss for _, rss in law.profile_D)
    assert curve.get_xydata().tolist() == [[D, rss / min(least, law.rss)] for D, rss in law.profile_D]
    assert mark.get_xydata().tolist() == [[law.params["D"], 1.0]]
    assert cut.get_ydata()[0] == pytest.approx(1 + 4.259677 / 24)  # F(.95; 1, 24)
    assert side.get_title(loc="left").startswith("profile of D: identified") and drawn(ax)
    zero = plot_joint(fit(0.0), profile=True).figure.axes[1]
    assert zero.get_title(loc="left").startswith("profile of D: not identified, 0 is used")
    assert zero.lines[2].get_xdata()[0] == 0
    exact = plot_joint(fit(noise=0.0), profile=True)
    assert len(exact.figure.axes[1].lines) == 2 and drawn(exact)


def test_an_axes_of_ones_own_and_what_is_refused() -> None:
    law = fit()
    own = plot_joint(law).figure.add_axes((0.1, 0.1, 0.5, 0.5))
    assert plot_joint(law, own, log=False) is own and own.get_xscale() == "linear" and own.get_legend() is not None
    with pytest.raises(ArgumentError, match="takes ax=None"):
        plot_joint(law, own, profile=True)
    with pytest.raises(ArgumentError, match=r'profile=True draws the profile of D, which a form="product" fit has'):
        plot_joint(fit(fix={"D": 0.1}), profile=True)
    for sizes in ([], [0.0], [float("nan")]):
        with pytest.raises(ArgumentError, match="sizes must be model sizes above 0"):
            plot_joint(law, sizes=sizes)


def test_many_sizes_share_seven_curves_and_all_points_are_shown() -> None:
    sizes, tokens = np.geomspace(1e8, 1e10, 40), np.geomspace(1e9, 1e11, 40)[np.arange(40) * 17 % 40]
    y = 1.8 + 400 * sizes**-0.34 + 2000 * tokens**-0.36
    law = fit_joint_law(sizes, tokens, y, form="additive", loss="log_mse")
    ax = plot_joint(law, x_label="training tokens")
    assert len(ax.lines) == 3 * 7 + 1 and sum(len(line.get_xdata()) for line in ax.lines[2:21:3]) == 40
    assert ax.get_xlabel() == "training tokens" and drawn(ax)
    one = plot_joint(law, sizes=[3e9])
    assert len(one.lines) == 3 + 1 and len(one.lines[2].get_xdata()) == 40 and drawn(one)
    line = plot_joint(fit_joint_law(N, T, 1 + np.log(N) + np.log(T), form="loglinear"))
    assert line.get_title(loc="left").startswith("y = a + b ln N + c ln T, loss mse\na = 1") and drawn(line)


def test_pyplot_is_never_touched_and_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from tokscale.plotting.joint import plot_joint; assert 'matplotlib' not in sys.modules; "
        "from tokscale.scaling.joint import fit_joint_law as fit; "
        "plot_joint(fit([1, 1, 2, 2], [1, 2, 1, 2], [4, 3, 2, 1], form='loglinear')); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        plot_joint(fit())
    assert str(caught.value) == 'plot_joint needs matplotlib, which is not installed. Run: pip install "tokscale[plot]"'
