"""What the pictures show: pixels of kept and dropped cells, places of curves, bands and bars; no pyplot anywhere."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import tokscale
from tokscale import plotting
from tokscale.errors import ArgumentError, InputError, MissingDependencyError, ShapeError, UnsupportedInputError
from tokscale.plotting.kept import DIM, darkened, seen_box
from tokscale.sweep.table import SweepResult

BUDGETS = [1, 2, 4, 9, 16, 36, 72]
SCORES = [0.09, 0.10, 0.17, 0.31, 0.46, 0.60, 0.75]


def kept(positions, grid, n=None, assignment=None):
    n = grid[0] * grid[1] if n is None else n
    return SimpleNamespace(n=n, k=len(positions), positions=np.array(positions), grid=grid, assignment=assignment)


def table(**more):
    rows = [
        {
            "status": "ok",
            "model": "toy",
            "compressor": name,
            "mean_tokens": k,
            "score": s * scale,
            "n_items": 256,
            **more,
        }
        for name, scale in (("divprune", 1.0), ("random", 0.5))
        for k, s in zip(BUDGETS, SCORES)
    ]
    full = {"status": "ok", "model": "toy", "compressor": "none", "mean_tokens": 144, "score": 0.98, "n_items": 256}
    return SweepResult([*rows, {**full, **more}, {"status": "failed", "compressor": "dart", "error": "X: y", **more}])


def fit(**keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return tokscale.fit_power_law(BUDGETS, SCORES, **keywords)


def drawn(ax):
    ax.figure.savefig(buffer := io.BytesIO(), format="png")
    return buffer.getvalue()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_a_kept_cell_keeps_its_pixels_and_the_others_are_darker():
    picture = np.random.default_rng(0).integers(60, 255, (8, 8, 3)).astype(np.uint8)
    ax = plotting.plot_kept(picture, kept([3], (2, 2)), compressor="divprune")
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown[4:, 4:], picture[4:, 4:] / 255)
    for dropped in (np.s_[:4, :4], np.s_[:4, 4:], np.s_[4:, :4]):
        np.testing.assert_allclose(shown[dropped], DIM * picture[dropped] / 255)
    assert ax.get_title() == "1 of 4 tokens, divprune"
    assert drawn(ax)


def test_a_centre_crop_moves_the_cells_and_its_margin_is_hatched():
    crop = SimpleNamespace(
        do_resize=True, size={"shortest_edge": 4}, do_center_crop=True, crop_size={"height": 4, "width": 4}
    )
    picture = np.full((8, 16, 3), 200, np.uint8)
    ax = plotting.plot_kept(picture, kept([0], (2, 2)), processor=SimpleNamespace(image_processor=crop))
    shown = np.asarray(ax.images[0].get_array())[..., 0]
    bright = np.isclose(shown, 200 / 255)
    assert bright[:, :4].all() and bright[:, 12:].all()  # the margin is as it was
    assert bright[:4, 4:8].all() and not bright[4:, 4:12].any() and not bright[:4, 8:12].any()
    assert [patch.get_hatch() for patch in ax.patches] == ["////", "////"]


def test_padding_to_a_square_reaches_beyond_the_picture():
    class LlavaImageProcessor(SimpleNamespace):
        pass

    assert seen_box(10, 6, LlavaImageProcessor(do_pad=True)) == (0, -2, 10, 8)
    assert seen_box(10, 6, SimpleNamespace(do_pad=True)) == (0, 0, 10, 6)
    assert seen_box(10, 6) == (0, 0, 10, 6)
    lit = np.array([[True, False], [False, False]])
    out = darkened(np.ones((6, 10, 3)), lit, (0, -2, 10, 8))[..., 0]
    assert (out[:3, :5] == 1).all() and (out[3:] == DIM).all() and (out[:3, 5:] == DIM).all()


def test_a_mixture_shows_its_anchors_and_the_weight_of_each_token():
    assignment = np.array([[0.5, 0.5, 0, 0], [0, 0.25, 0.25, 0.5]])
    ax = plotting.plot_kept(np.zeros((8, 8), np.uint8), kept([0, 3], (2, 2), assignment=assignment))
    np.testing.assert_allclose(np.asarray(ax.images[1].get_array()), [[0.5, 0.75], [0.25, 0.5]])
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1.5, 1.5], [5.5, 5.5]])
    assert drawn(ax)


@pytest.mark.parametrize(
    "entry, error, text",
    [
        (kept([0], (2, 2), n=5), ShapeError, "grid (2, 2) holds 2 * 2 = 4 tokens, but n is 5"),
        (kept([0], (3, 2, 2), n=12), UnsupportedInputError, "these 12 tokens are 3 frames"),
        (
            SimpleNamespace(n=5, positions=[0], grid=None),
            UnsupportedInputError,
            "these 5 tokens are those of several tiles",
        ),
    ],
)
def test_tokens_without_a_grid_are_refused(entry, error, text):
    with pytest.raises(error) as caught:
        plotting.plot_kept(np.zeros((8, 8)), entry)
    assert text in str(caught.value)


def test_heat_takes_a_flat_or_a_shaped_score():
    flat = plotting.plot_heat(np.zeros((8, 8)), np.arange(4.0))
    shaped = plotting.plot_heat(np.zeros((8, 8)), np.arange(4.0).reshape(2, 2), label="importance")
    for ax in (flat, shaped):
        np.testing.assert_array_equal(np.asarray(ax.images[1].get_array()), [[0, 1], [2, 3]])
        assert len(ax.figure.axes) == 2 and drawn(ax)
    with pytest.raises(ShapeError, match="holds 6 tokens, but there are 4 scores"):
        plotting.plot_heat(np.zeros((8, 8)), np.arange(4.0), grid=(2, 3))
    with pytest.raises(ArgumentError, match="got shape"):
        plotting.plot_heat(np.zeros(4), np.arange(4.0))


def test_a_fit_shows_points_bands_a_dotted_end_and_its_budget():
    law = fit(n_items=256, floor=0, ceil=1, exclude=[1])
    ax = plotting.plot_fit(law)
    solid, dotted = ax.lines[0], ax.lines[1]
    assert solid.get_xdata().max() <= 72 < dotted.get_xdata().max() == pytest.approx(144)
    assert dotted.get_linestyle() == ":"
    np.testing.assert_allclose(solid.get_ydata(), law(solid.get_xdata()))
    mean, new = ax.collections[1].get_paths()[0].vertices, ax.collections[0].get_paths()[0].vertices
    assert new[:, 1].max() > mean[:, 1].max()
    budget = law.budget_for(0.95)
    assert f"95% of the score at 72 tokens: {budget.n}" in texts(ax)[0]
    opened = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert opened[0].get_xydata().tolist() == [[1, 0.09]]
    assert [1.0, 1.0] in [list(line.get_ydata()) for line in ax.lines]  # ceil, which is near; floor is off a log axis
    assert ax.get_xscale() == ax.get_yscale() == "log" and f"alpha = {law.alpha:.3f}" in ax.get_title(loc="left")
    assert drawn(ax)


def test_residuals_have_a_panel_and_a_flat_law_has_no_budget():
    ax = plotting.plot_fit(fit(), residuals=True, target=None)
    below = ax.figure.axes[1]
    np.testing.assert_allclose(below.lines[1].get_ydata(), fit().residuals)
    with pytest.raises(ArgumentError, match="takes ax=None"):
        plotting.plot_fit(fit(), ax, residuals=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        flat = tokscale.fit_power_law([1, 4, 16, 64], [0.5, 0.52, 0.49, 0.51])
    assert texts(plotting.plot_fit(flat))[0].startswith("95% of the score at 64 tokens: no budget from this law")


def test_a_sweep_has_a_line_per_compressor_wilson_bars_and_the_unpatched_model():
    ax = plotting.plot_sweep(table(task="cell", metric="accuracy"), chance=0.1, fits={"divprune": fit()}, title="toy")
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["divprune", "random", "fitted laws", "unpatched, 144 tokens: 0.98", "chance: 0.1"]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.array([BUDGETS, SCORES]).T)
    low, high = ax.collections[0].get_segments()[0][:, 1]
    from scipy.stats import binomtest

    truth = binomtest(round(0.09 * 256), 256).proportion_ci(method="wilson")
    assert abs(low - truth.low) < 2e-3 and abs(high - truth.high) < 2e-3  # .09 * 256 is no whole number
    assert ax.get_ylabel() == "accuracy (cell)" and ax.get_xscale() == "log"
    assert drawn(ax)


def test_a_sweep_of_two_tasks_or_none_is_refused():
    two = SweepResult([*table(task="cell").rows, *table(task="most").rows])
    with pytest.raises(InputError, match=r"draws one task, got cell, most; use \.filter\(task=\.\.\.\)"):
        plotting.plot_sweep(two)
    with pytest.raises(InputError, match="no finished row"):
        plotting.plot_sweep(SweepResult([{"status": "failed"}]))


def test_a_ladder_counts_the_tokens_each_rung_needs():
    points = lambda scores: {str(k): {"accuracy": s, "n": 512} for k, s in zip((1, 4, 16), scores)}  # noqa: E731
    ladder = {
        "rungs": {
            "nothing": {"0": points((0.1, 0.2, 0.5)), "1": points((0.2, 0.3, 0.6))},
            "cell": {"0": points((0.97,) * 3)},
        },
        "baselines": {"random": points((0.1, 0.1, 0.2))},
    }
    ax = plotting.plot_ladder(ladder, full=0.98, caption="recorded")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.15, 0.25, 0.55])
    assert ax.get_legend_handles_labels()[1][:3] == ["told nothing", "told the cell", "random, not trained"]
    assert texts(ax.figure.axes[1]) == [" more than 16", " 1"]
    assert drawn(ax)
    with pytest.raises(InputError, match="holds no rung"):
        plotting.plot_ladder({"rungs": {}})


def test_pyplot_is_never_touched_and_a_missing_matplotlib_is_named(monkeypatch):
    code = (
        "import sys, tokscale, numpy as np; from tokscale import plotting; assert 'matplotlib' not in sys.modules; "
        "plotting.plot_heat(np.zeros((4, 4)), np.arange(4.0)); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError) as caught:
        plotting.plot_heat(np.zeros((4, 4)), np.arange(4.0))
    assert str(caught.value) == 'plot_heat needs matplotlib, which is not installed. Run: pip install "tokscale[plot]"'
