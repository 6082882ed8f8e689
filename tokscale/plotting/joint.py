"""`plot_joint`: a joint law as one curve over tokens for each model size, with its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._common import COLORS, GREY, axes_or_new, budget_axis, legend_below, new_figure, number, tidy

if TYPE_CHECKING:
    from ..scaling.joint import JointFit

_MOST = 7  # curves that a reader tells apart
_TICKS = 16  # budgets that can be named on the axis


def plot_joint(
    fit: JointFit,
    ax: Any = None,
    *,
    sizes: Sequence[float] | None = None,
    log: bool = True,
    extend: float = 1.0,
    profile: bool = False,
    label: str = "N",
    x_label: str = "vision tokens per image",
    y_label: str = "y",
) -> Any:
    """Return the Axes of a joint law: for each model size its curve over tokens, and the points measured there.

    Sizes go from light to dark. Curves are dotted beyond the largest budget measured. A constant (D or E) that the data
    tell from 0 is dashed where it lies near the points. Points of a size without a curve take the colour of the
    nearest.

    Args:
        fit: from `fit_joint_law`.
        ax: where to draw; None makes a figure.
        sizes: the N of the curves; default those measured, at most seven, evenly spread.
        log: logarithmic axis of tokens.
        extend: draw the curves to this multiple of the largest budget.
        profile: a second panel with the residual sum of squares at each D, beside that which a test at `fit.level`
            accepts; takes `ax=None` and a product law with a free D.
        label: what N is called in the legend.
        x_label: what T is.
        y_label: what y is.

    Returns:
        The Axes of the curves; with `profile`, the second panel is `axes.figure.axes[1]`.
    """
    from ..errors import ArgumentError

    side = None
    if profile:
        if ax is not None:
            raise ArgumentError("profile=True makes a second panel, so it takes ax=None")
        if not fit.profile_D:
            raise ArgumentError(
                'profile=True draws the profile of D, which a form="product" fit has where D is not fixed'
            )
        ax, side = new_figure("plot_joint", width=9.0).subplots(1, 2, width_ratios=(5, 3))
    own = ax is None or profile
    ax = axes_or_new(ax, "plot_joint")
    curves = _sizes(fit, sizes)
    colors = _colors(len(curves))
    nearest = np.argmin(np.abs(np.log(fit.N)[:, None] - np.log(curves)), axis=1)
    low, end = float(fit.T.min()), float(fit.T.max()) * max(extend, 1.0)
    x = np.geomspace(low, end, 200) if log else np.linspace(low, end, 200)
    inside = x <= fit.T.max() * (1 + 1e-9)
    outside = ~inside | (np.arange(len(x)) == inside.sum() - 1)  # from where the solid line ends
    for i, (size, color) in enumerate(zip(curves, colors)):
        y = fit(size, x)
        here = nearest == i
        ax.plot(x[inside], y[inside], color=color, linewidth=1.8, label=f"{label} = {size:.4g}")
        ax.plot(x[outside], y[outside], color=color, linewidth=1.8, linestyle=":")
        ax.plot(fit.T[here], fit.y[here], "o", color=color, markersize=5, zorder=3)
    _constant(ax, fit)
    ax.set_ylabel(y_label)
    ax.set_title(joint_text(fit), fontsize=10, loc="left")
    tidy(ax)
    budgets = np.unique(fit.T).tolist()
    if len(budgets) <= _TICKS:
        budget_axis(ax, budgets, log=log)
    elif log:
        ax.set_xscale("log")
    ax.set_xlabel(x_label)
    if side is not None:
        _profile(side, fit)
    if own:
        legend_below(ax)
    else:
        ax.legend(frameon=False, fontsize=8)
    return ax


def joint_text(fit: JointFit) -> str:
    """Return the law in two lines: its formula and loss, and its parameters."""
    formula = {
        "product": "y = A / (N^a T^b) + D",
        "additive": "y = E + A / N^a + B / T^b",
        "loglinear": "y = a + b ln N + c ln T",
    }[fit.form]
    said = []
    for name, value in fit.params.items():
        remark = " (fixed)" if name in fit.fix else "" if fit.identified[name] else " (not identified)"
        said.append(f"{name} = {number(value)}{remark}")
    return f"{formula}, loss {fit.loss}\n{',   '.join(said)}"


def _sizes(fit: JointFit, sizes: Sequence[float] | None) -> np.ndarray:
    if sizes is not None:
        from ..errors import ArgumentError

        asked = np.unique(np.asarray(sizes, float))
        if asked.size == 0 or not np.all(np.isfinite(asked) & (asked > 0)):
            raise ArgumentError(f"sizes must be model sizes above 0, got {list(sizes)}")
        return asked
    known = np.unique(fit.N)
    if len(known) <= _MOST:
        return known
    return known[np.unique(np.round(np.linspace(0, len(known) - 1, _MOST)).astype(int))]


def _colors(count: int) -> list[Any]:
    """Return colours from light to dark, for sizes are in order."""
    from matplotlib import colormaps

    return (
        [colormaps["viridis_r"](0.15 + 0.8 * i / max(1, count - 1)) for i in range(count)] if count > 1 else [COLORS[0]]
    )


def _constant(ax: Any, fit: JointFit) -> None:
    name = {"product": "D", "additive": "E"}.get(fit.form)
    if name is None or not fit.identified[name]:
        return
    value, span = fit.params[name], max(float(np.ptp(fit.y)), 1e-12)
    if fit.y.min() - 0.5 * span <= value <= fit.y.max() + 0.5 * span:
        ax.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label=f"{name} = {number(value)}")


def _profile(ax: Any, fit: JointFit) -> None:
    from scipy.special import fdtri

    D, rss = np.array(fit.profile_D).T
    least, dof = min(float(rss.min()), fit.rss), fit.n_obs - 4 + len(fit.fix)
    title = "profile of D" + (": identified" if fit.identified["D"] else ": not identified, 0 is used")
    if dof > 0 and least > 1e-20 * rss.max():  # else the law is exact, and nothing is accepted beside it
        cut = 1 + float(fdtri(1, dof, fit.level)) / dof
        ax.axhline(cut, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_ylim(1 - 0.15 * (cut - 1), 1 + 6 * (cut - 1))
        title += f"\ndashed: what a test at {fit.level:.0%} accepts"
        ax.plot(D, rss / least, color=COLORS[0], linewidth=1.8)
        ax.plot([fit.params["D"]], [fit.rss / least], "v", color=COLORS[1], markersize=7, zorder=3, clip_on=False)
        ax.set_ylabel("residual sum of squares / least")
    else:
        ax.plot(D, rss, color=COLORS[0], linewidth=1.8)
        ax.plot([fit.params["D"]], [fit.rss], "v", color=COLORS[1], markersize=7, zorder=3, clip_on=False)
        ax.set_ylabel("residual sum of squares")
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel("D")
    ax.set_xlim(0, float(D[-1]))
    tidy(ax)
