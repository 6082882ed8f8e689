"""`plot_kept` and `plot_heat`: which tokens were kept, and what they scored, drawn over the original picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, UnsupportedInputError
from ._common import COLORS, axes_or_new

DIM = 0.25  # brightness of a dropped cell
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the original picture


def plot_kept(image: Any, kept: Any, *, processor: Any = None, compressor: str | None = None, ax: Any = None) -> Any:
    """Return the Axes of a picture on which kept tokens keep their brightness and dropped ones lose three quarters.

    A margin that the processor cuts off is hatched. Of a mixture, each output's anchor is a dot, and how much of each
    token went into the outputs is heat (`assignment` summed over outputs), unless it is the same for all. Where every
    token went into one output only, lines are the borders between the outputs.

    Args:
        image: a PIL image or an array (height, width[, 3]), 0..255 or 0..1: the original, not what the model saw.
        kept: an entry of `handle.last.images`, or anything with `n`, `positions`, `grid` and `assignment`.
        processor: the model's processor, whose resizing and cropping place the cells; None: the whole picture is seen.
        compressor: a name for the title.
        ax: where to draw; None makes a figure.

    Raises:
        UnsupportedInputError: the tokens have no grid on one picture (tiles, video, newline features).
        ShapeError: the grid does not hold n tokens.
    """
    picture = _pixels(image)
    grid, n = _grid(kept), int(kept.n)
    if grid[0] * grid[1] != n:
        raise ShapeError(f"grid {grid} holds {grid[0]} * {grid[1]} = {grid[0] * grid[1]} tokens, but n is {n}")
    every = getattr(kept, "positions", None) is None  # nothing was dropped
    positions = np.arange(n) if every else _array(kept.positions).reshape(-1).astype(int)
    assignment = getattr(kept, "assignment", None)
    ax = axes_or_new(ax, "plot_kept", width=3.4, height=3.7)
    box = seen_box(picture.shape[1], picture.shape[0], processor)
    if assignment is None:
        lit = np.zeros(n, dtype=bool)
        lit[positions] = True
        ax.imshow(darkened(picture, lit.reshape(grid), box), interpolation="nearest")
        _borders(ax, lit.reshape(grid), box, COLORS[5])  # on a dark picture brightness alone would not show
    else:
        ax.imshow(picture, interpolation="nearest")
        weights = _array(assignment).reshape(-1, n).astype(float)
        share = weights.sum(axis=0)
        if np.ptp(share) > 1e-6 * share.max():
            _heat(ax, share.reshape(grid), box, "share kept in the outputs")
        if ((weights != 0).sum(axis=0) == 1).all():  # a partition: its borders say more than a uniform colour
            _borders(ax, weights.argmax(axis=0).reshape(grid), box, "white")
        rows, columns = np.divmod(positions, grid[1])
        x, y = _centres(box, grid)
        ax.plot(x[columns], y[rows], "o", color="white", markeredgecolor="black", markersize=3.2, markeredgewidth=0.6)
    _frame(ax, picture, box)
    name = f", {compressor}" if compressor else ""
    ax.set_title(f"{len(positions)} of {n} tokens{name}", fontsize=9)
    return ax


def plot_heat(
    image: Any,
    scores: Any,
    *,
    grid: tuple[int, int] | None = None,
    processor: Any = None,
    label: str = "score",
    ax: Any = None,
) -> Any:
    """Return the Axes of a picture under the scores of its tokens, as heat with a colour bar.

    Args:
        image, processor, ax: as in `plot_kept`.
        scores: a number per token, (h, w), or (n,) with `grid` (or a square n).
        grid: (h, w) of the tokens.
        label: what the colour bar measures.

    Raises:
        ShapeError: the scores do not fill the grid.
    """
    picture, values = _pixels(image), _array(scores).astype(float)
    if values.ndim != 2 or grid is not None:
        side = round(values.size**0.5)
        grid = grid or (side, side)
        if grid[0] * grid[1] != values.size:
            raise ShapeError(f"grid {grid} holds {grid[0] * grid[1]} tokens, but there are {values.size} scores")
        values = values.reshape(grid)
    ax = axes_or_new(ax, "plot_heat", width=3.9, height=3.5)
    box = seen_box(picture.shape[1], picture.shape[0], processor)
    ax.imshow(picture, interpolation="nearest")
    _heat(ax, values, box, label)
    _frame(ax, picture, box)
    return ax


def seen_box(width: int, height: int, processor: Any = None) -> Box:
    """Return the part of a picture that the grid of tokens covers, in the picture's pixels; padding reaches beyond it.

    Example:
        >>> from types import SimpleNamespace
        >>> crop = SimpleNamespace(do_resize=True, size={"shortest_edge": 50}, do_center_crop=True,
        ...                        crop_size={"height": 50, "width": 50})
        >>> seen_box(200, 100, crop)
        (50.0, 0.0, 150.0, 100.0)
    """
    images = getattr(processor, "image_processor", processor)
    whole: Box = (0.0, 0.0, float(width), float(height))
    if images is None:
        return whole
    left, top, right, bottom = whole
    if getattr(images, "do_pad", None) and getattr(images, "pad_size", None) is None and _pads_square(images):
        side = max(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        right, bottom = left + side, top + side
    across, down = right - left, bottom - top
    scale_x = scale_y = 1.0
    size = getattr(images, "size", None)
    if getattr(images, "do_resize", False) and size is not None:
        short, high, wide = _edge(size, "shortest_edge"), _edge(size, "height"), _edge(size, "width")
        if high and wide:
            scale_x, scale_y = wide / across, high / down
        elif short and _edge(size, "longest_edge") is None:
            scale_x = scale_y = short / min(across, down)
    crop = getattr(images, "crop_size", None)
    if getattr(images, "do_center_crop", False) and crop is not None:
        half_x = (_edge(crop, "width") or across * scale_x) / scale_x / 2
        half_y = (_edge(crop, "height") or down * scale_y) / scale_y / 2
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        left, right, top, bottom = middle_x - half_x, middle_x + half_x, middle_y - half_y, middle_y + half_y
    return (left, top, right, bottom)


def darkened(picture: np.ndarray, lit: np.ndarray, box: Box) -> np.ndarray:
    """Return the picture with the pixels of dropped cells at a quarter of their light, unchanged outside the box."""
    left, top, right, bottom = box
    height, width = picture.shape[:2]
    rows = np.floor((np.arange(height) + 0.5 - top) / (bottom - top) * lit.shape[0]).astype(int)
    columns = np.floor((np.arange(width) + 0.5 - left) / (right - left) * lit.shape[1]).astype(int)
    inside = ((rows >= 0) & (rows < lit.shape[0]))[:, None] & ((columns >= 0) & (columns < lit.shape[1]))[None]
    cell = lit[rows.clip(0, lit.shape[0] - 1)[:, None], columns.clip(0, lit.shape[1] - 1)[None]]
    return np.where((inside & ~cell)[..., None], picture * DIM, picture)


def _pads_square(images: Any) -> bool:
    """Whether `do_pad` means to a square before resizing, as in LLaVA's processors, and not a batch's padding."""
    return "llava" in type(images).__name__.lower()


def _edge(size: Any, name: str) -> float | None:
    return size.get(name) if hasattr(size, "get") else getattr(size, name, None)


def _grid(kept: Any) -> tuple[int, int]:
    grid = None if kept.grid is None else tuple(int(side) for side in kept.grid)
    if grid is not None and len(grid) == 3 and grid[0] == 1:
        grid = grid[1:]
    if grid is None or len(grid) != 2:
        why = "are those of several tiles, or hold newline features" if grid is None else f"are {grid[0]} frames"
        raise UnsupportedInputError(f"plot_kept needs a picture with a grid; these {int(kept.n)} tokens {why}")
    return grid


def _pixels(image: Any) -> np.ndarray:
    if hasattr(image, "convert"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ArgumentError(f"image must be a picture or an array (height, width[, 3]), got shape {array.shape}")
    array = array[..., :3]
    return array / 255.0 if array.dtype == np.uint8 or array.max(initial=0) > 1 else array.astype(float)


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    return np.asarray(values)


def _centres(box: Box, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    left, top, right, bottom = box
    x = left + (np.arange(grid[1]) + 0.5) * (right - left) / grid[1]
    y = top + (np.arange(grid[0]) + 0.5) * (bottom - top) / grid[0]
    return x - 0.5, y - 0.5  # imshow puts the centre of pixel 0 at 0


def _heat(ax: Any, values: np.ndarray, box: Box, label: str) -> None:
    left, top, right, bottom = box
    extent = (left - 0.5, right - 0.5, bottom - 0.5, top - 0.5)
    drawn = ax.imshow(values, cmap="viridis", alpha=0.5, extent=extent, interpolation="nearest")
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _borders(ax: Any, owner: np.ndarray, box: Box, color: str) -> None:
    """Draw a line wherever two neighbouring tokens have different owners."""
    left, top, right, bottom = box
    x = np.linspace(left, right, owner.shape[1] + 1) - 0.5
    y = np.linspace(top, bottom, owner.shape[0] + 1) - 0.5
    lines = [[(x[j + 1], y[i]), (x[j + 1], y[i + 1])] for i, j in zip(*np.nonzero(owner[:, 1:] != owner[:, :-1]))]
    lines += [[(x[j], y[i + 1]), (x[j + 1], y[i + 1])] for i, j in zip(*np.nonzero(owner[1:] != owner[:-1]))]
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(lines, colors=color, linewidths=0.8, alpha=0.9), autolim=False)


def _frame(ax: Any, picture: np.ndarray, box: Box) -> None:
    """Show the whole picture, hatch what the model did not see, and take the ticks away."""
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    left, top, right, bottom = box
    margins = [(0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)]
    for x0, y0, x1, y1 in margins:
        if x1 - x0 > 1e-6 and y1 - y0 > 1e-6:
            hatch = Rectangle(
                (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, hatch="////", edgecolor="0.55", linewidth=0
            )
            ax.add_patch(hatch)
    ax.set_xlim(min(left, 0) - 0.5, max(right, width) - 0.5)
    ax.set_ylim(max(bottom, height) - 0.5, min(top, 0) - 0.5)
    ax.set_xticks([])
    ax.set_yticks([])
