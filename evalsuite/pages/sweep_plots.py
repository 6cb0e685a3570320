"""The figures of a sweep's page: transfer matrices, parallel axes, learning curves.

Every function returns one `<svg>` element. No figure rests on colour alone: cells hold their
values, missing ones are hatched, good lines are thicker, runs have dash patterns and markers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from evalsuite.pages.headline import number
from evalsuite.pages.plots import Series, dash_style, run_colour, short
from evalsuite.pages.svg import ACCENT, GRID, INK, MUTED, PAPER, draw, placed_axes
from evalsuite.scoring import LOWER_IS_BETTER

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""By run index; with the four dash patterns they tell the eight lines of a panel apart."""

_MOST_POINTS = 240
_MARKED_POINTS = 12
_MOST_TICKS = 14
_MOST_SIGNS = 44  # of a word at an axis; the longest label of a table's row has 38
# Widest mean width of a sign in the faces that a page may have, at the sizes of ticks and heads.
_TICK_PX, _HEAD_PX, _TICK_GAP_PX = 5.9, 6.8, 8.0


@dataclass(frozen=True)
class TransferMatrix:
    """One method's results from every source (row) to every target (column).

    ``values`` are by (source, target); one that is absent or None is drawn as missing, ``reasons``
    may say why. ``note`` says what a cell holds, such as the number of seeds.
    """

    title: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: Mapping[tuple[str, str], float | None]
    metric: str = "mAP"
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ParallelAxis:
    """One upright axis: the place of every line in [0, 1], NaN for none, and named ticks."""

    name: str
    places: np.ndarray
    ticks: tuple[tuple[float, str], ...]


def transfer_matrix(matrix: TransferMatrix, *, name: str) -> Markup:
    """The matrix as shaded cells, the better the darker, each with its value written in it."""
    rows, columns = len(matrix.sources), len(matrix.targets)
    values = np.array(
        [[number(matrix.values.get((s, t))) for t in matrix.targets] for s in matrix.sources]
    ).reshape(rows, columns)
    shades = _shades(values, lower_is_better=matrix.metric in LOWER_IS_BETTER)
    longest = max(map(len, (*matrix.sources, "")))
    left, top = 30 + 6.2 * min(longest, 18), 16

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=left, right=8, top=top, bottom=86, grid="")
        for row, column in np.ndindex(rows, columns):
            _matrix_cell(axes, (row, column), values.item(row, column), shades.item(row, column))
        axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel="target", ylabel="source")
        words = [short(target, 12) for target in matrix.targets]
        middles = np.arange(columns) + 0.5
        axes.set_xticks(middles, words, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(rows) + 0.5, [short(source, 18) for source in matrix.sources])
        axes.tick_params(labelcolor=INK)
        axes.spines["bottom"].set_visible(False)

    width, height = left + 8 + 58 * max(columns, 2), top + 86 + 38 * max(rows, 1)
    words = f"{matrix.metric} of {matrix.title} from every source to every target"
    return draw(width, height, paint, name=name, description=words)


def parallel_axes(axes: Sequence[ParallelAxis], leading: np.ndarray, *, name: str) -> Markup:
    """One line a cell across all axes; those where ``leading`` [lines] is true are thick and last.

    A line without a place on an axis is interrupted there. Each axis has the room that its words
    take.
    """
    across, width = _across(axes)

    def paint(figure: Figure) -> None:
        panel = placed_axes(figure, left=0, right=0, top=34, bottom=12, grid="")
        heights = np.stack([axis.places for axis in axes], axis=1)
        for chosen, colour, thickness, alpha in (
            (~leading, MUTED, 0.8, 0.35),
            (leading, ACCENT, 2.2, 0.85),
        ):
            lines = [np.column_stack([across, line]) for line in heights[chosen]]
            panel.add_collection(
                LineCollection(lines, colors=colour, linewidths=thickness, alpha=alpha)
            )
        for place, axis in zip(across.tolist(), axes, strict=True):
            _upright(panel, place, axis, is_last=axis is axes[-1])
        panel.set(xlim=(0, width), ylim=(-0.02, 1.02), xticks=[], yticks=[])
        panel.spines["bottom"].set_visible(False)

    return draw(width, 320, paint, name=name, description="Cells across the axes of the sweep")


def _across(axes: Sequence[ParallelAxis]) -> tuple[np.ndarray, float]:
    """Where each axis stands, in pixels from the left edge, and the width of all."""
    ticks = [
        max((_TICK_PX * len(short(words, _MOST_SIGNS)) for _, words in axis.ticks), default=0.0)
        for axis in axes
    ]
    heads = [_HEAD_PX * len(short(axis.name, _MOST_SIGNS)) / 2 for axis in axes]
    place = max(ticks[0] + _TICK_GAP_PX, heads[0]) + 4
    places = [place]
    # The words of an axis stand to its left, but for the last one.
    inner = zip(ticks[1:-1], heads, heads[1:], strict=False)
    for words, before, own in [*inner, *([(0.0, heads[-2], heads[-1])] if len(axes) > 1 else [])]:
        place += max(150.0, words + 2 * _TICK_GAP_PX, before + own + 14)
        places.append(place)
    return np.array(places), place + max(ticks[-1] + _TICK_GAP_PX, heads[-1]) + 4


def learning_curves(series: Sequence[Series], *, name: str, title: str) -> Markup:
    """A score over the steps, one line a run; gaps where it is not a finite number."""

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=44, right=12, top=10, bottom=24)
        for line in series:
            _curve(axes, line)
        axes.margins(x=0.03, y=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axes.tick_params(labelsize=10)

    return draw(300, 190, paint, name=name, description=f"{title} over the training steps")


def _matrix_cell(axes: Axes, place: tuple[int, int], value: float, shade: float) -> None:
    row, column = place
    corner, middle = (column + 0.03, row + 0.04), (column + 0.5, row + 0.5)
    if math.isfinite(value):
        axes.add_patch(Rectangle(corner, 0.94, 0.92, facecolor=ACCENT, alpha=shade, linewidth=0))
        colour = PAPER if shade > 0.6 else INK
    else:
        for start in (0.25, 0.5, 0.75):  # strokes, not a pattern fill: those print unreliably
            line = ([column + start - 0.2, column + start + 0.2], [row + 0.9, row + 0.1])
            axes.plot(*line, color=GRID, linewidth=2)
        colour = MUTED
    text = f"{value:.3f}" if math.isfinite(value) else "–"
    axes.text(*middle, text, ha="center", va="center_baseline", fontsize=11, color=colour)


def _shades(values: np.ndarray, *, lower_is_better: bool) -> np.ndarray:
    """0.12 for the worst and 0.85 for the best finite value; 0.4 where all are equal."""
    known = values[np.isfinite(values)]
    if not len(known) or known.min() == known.max():
        return np.full(values.shape, 0.4)
    share = (values - known.min()) / (known.max() - known.min())
    return 0.12 + 0.73 * (1.0 - share if lower_is_better else share)


def _upright(panel: Axes, place: float, axis: ParallelAxis, *, is_last: bool) -> None:
    panel.plot([place, place], [0, 1], color=INK, linewidth=1, solid_capstyle="butt")
    panel.text(place, 1.07, short(axis.name, _MOST_SIGNS), ha="center", va="baseline", color=INK)
    side, shift = ("left", 5) if is_last else ("right", -5)
    for height, words in _thinned_ticks(axis.ticks):
        panel.plot([place - 2, place + 2], [height, height], color=INK, linewidth=1)
        panel.text(
            place + shift,
            height,
            short(words, _MOST_SIGNS),
            ha=side,
            va="center_baseline",
            fontsize=9.5,
            color=INK,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 1},
        )


def _thinned_ticks(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    if len(ticks) <= _MOST_TICKS:
        return list(ticks)
    kept = np.linspace(0, len(ticks) - 1, _MOST_TICKS).round().astype(int)
    return [ticks[index] for index in kept]


def _curve(axes: Axes, series: Series) -> None:
    x, y = series.x, np.where(np.isfinite(series.y), series.y, np.nan)
    if len(x) > _MOST_POINTS:
        kept = np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(int)
        x, y = x[kept], y[kept]
    axes.plot(
        x,
        y,
        color=run_colour(series.run),
        linewidth=1.5,
        linestyle=dash_style(series.run, width=1.5),
        marker=MARKERS[series.run % len(MARKERS)],
        markevery=max(1, len(x) // _MARKED_POINTS),
        markersize=4,
        markeredgewidth=0,
    )
