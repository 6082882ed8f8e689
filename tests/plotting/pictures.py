"""What the tests of pictures read from Axes."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from tokscale.errors import ScalingFitWarning
from tokscale.scaling import LawComparison, compare_laws


def drawn(figure: Any) -> bytes:
    """Return the picture; a warning while it is drawn is an error of the test."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=40)
    return buffer.getvalue()


def title(ax: Any) -> str:
    return str(ax.get_title(loc="left"))


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def points(ax: Any, *, filled: bool) -> list[list[float]]:
    """Return (n, score) of the points drawn, filled or open."""
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    kept = [line for line in lines if (line.get_markerfacecolor() != "white") == filled]
    return [xy for line in kept for xy in line.get_xydata().tolist()]


def curve(ax: Any, style: str = "-") -> Any:
    """Return the first long line of this style."""
    return next(line for line in ax.lines if line.get_linestyle() == style and len(line.get_xdata()) > 20)


def bands(ax: Any) -> list[tuple[Any, Any, Any]]:
    """Return x, low and high of each band, the wider one first."""
    from matplotlib.collections import PolyCollection

    found = []
    for band in ax.collections:
        if isinstance(band, PolyCollection):
            x, y = band.get_paths()[0].vertices.T
            places = np.unique(x)
            ends = [(y[x == place].min(), y[x == place].max()) for place in places]
            found.append((places, *np.array(ends).T))
    return found


def compared(*data: Any, **options: Any) -> LawComparison:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScalingFitWarning)
        return compare_laws(*data, **options)
