"""The figures of the report: numbers in, inline SVG out.

Every function returns one `<svg>` element. Runs are told apart by colour and by dash pattern,
domains by marker, so no figure rests on colour alone. Sizes are CSS pixels; a figure is small
enough to stay readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import Formatter, MaxNLocator

from evalsuite.pages.svg import (
    ACCENT,
    CLASS_COLOURS,
    GRID,
    INK,
    MUTED,
    PAPER,
    RUN_COLOURS,
    draw,
    placed_axes,
)

DASHES: tuple[tuple[float, ...], ...] = ((2, 2.2), (), (7, 2.5), (7, 2, 2, 2))
"""On-off lengths by run index; () is a solid line, dots are the yardstick's."""

_MOST_POINTS = 240
_MOST_WRITTEN_CELLS = 14
_MOST_NAMED_CLASSES = 30


@dataclass(frozen=True)
class Series:
    """One line of one run: `x` and `y` are float [n]; `run` chooses colour and dash."""

    run: int
    x: np.ndarray
    y: np.ndarray


def curves(series: Sequence[Series], *, name: str) -> Markup:
    """Precision over recall, one line a run."""

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=40, right=14, top=12, bottom=40, grid="both")
        for line in series:
            _line(axes, line, width=2.0)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        ticks = np.linspace(0, 1, 6)
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        axes.tick_params(pad=6)

    return draw(480, 350, paint, name=name, description="Precision over recall of every run")


def signal(series: Sequence[Series], *, name: str, title: str) -> Markup:
    """A logged value over the steps; one that is not finite leaves a gap and a cross below."""

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=44, right=10, top=10, bottom=24)
        for line in series:
            _line(axes, _thinned(line), width=1.5)
            _mark_gaps(axes, line)
        axes.margins(x=0.01, y=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(_Compact())
        axes.yaxis.set_major_formatter(_Compact())
        axes.tick_params(labelsize=10)

    return draw(300, 168, paint, name=name, description=f"{title} over the training steps")


def bars_by_class(
    classes: Sequence[str],
    values: np.ndarray,
    *,
    runs: Sequence[int],
    name: str,
    measure: str,
) -> Markup:
    """Horizontal bars of values [run, class] in [0, 1], one group a class in the order given."""
    thickness = max(3.0, 9.0 - len(runs))
    row = thickness * len(runs) + 9
    height = row * len(classes) + 34

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=108, right=30, top=4, bottom=26, grid="x")
        for index, run in enumerate(runs):
            middles = np.arange(len(classes)) * row + (index - (len(runs) - 1) / 2) * thickness
            axes.barh(middles, values[index], height=thickness - 1, color=run_colour(run))
        best = np.nanmax(np.nan_to_num(values), axis=0)
        for index, value in enumerate(best):
            _write(axes, value + 0.012, index * row, f"{value:.2f}", ha="left", colour=MUTED)
        axes.set_yticks(np.arange(len(classes)) * row, [short(word, 16) for word in classes])
        axes.set(xlim=(0, 1), ylim=(row * (len(classes) - 0.45), -0.55 * row))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xticks(np.linspace(0, 1, 6))

    return draw(430, height, paint, name=name, description=f"{measure} of every class and run")


def confusion(shares: np.ndarray, classes: Sequence[str], *, name: str, title: str) -> Markup:
    """Shares [class of the query, class found] in [0, 1], rows adding up to 1, as shaded cells."""
    named = len(classes) <= _MOST_NAMED_CLASSES

    def paint(figure: Figure) -> None:
        margin = 76 if named else 26
        axes = placed_axes(figure, left=margin, right=4, top=4, bottom=margin, grid="")
        places = [(int(row), int(column)) for row, column in np.argwhere(shares > 0.004)]
        cells = [Rectangle((column, row), 1, 1) for row, column in places]
        shades = [float(shares[place]) ** 0.8 for place in places]
        axes.add_collection(
            PatchCollection(cells, facecolor=ACCENT, alpha=shades, linewidth=0)  # pyright: ignore[reportArgumentType]
        )
        if len(classes) <= _MOST_WRITTEN_CELLS:
            for row, column in places:
                _cell_number(axes, float(shares[row, column]), row, column)
        axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0))
        axes.set_aspect("equal")
        _name_cells(axes, classes if named else [])
        axes.set_xlabel("class of the nearest shape")
        axes.set_ylabel("class of the query")

    return draw(380, 380, paint, name=name, description=f"Confusion of classes, {title}")


def domain_map(
    points: np.ndarray, colours: np.ndarray, is_shape: np.ndarray, *, name: str, title: str
) -> Markup:
    """A t-SNE picture of points [n, 2]: queries as dots, shapes as hollow triangles over them."""

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=2, right=2, top=2, bottom=2, grid="")
        for index in sorted(set(colours.tolist()), reverse=True):
            colour = CLASS_COLOURS[index]
            x, y = points[(colours == index) & ~is_shape].T
            axes.scatter(x, y, s=17, color=colour, alpha=0.7, linewidths=0)
        for index in sorted(set(colours.tolist()), reverse=True):
            x, y = points[(colours == index) & is_shape].T
            axes.scatter(
                x, y, s=30, marker="^", c=PAPER, edgecolors=CLASS_COLOURS[index], linewidths=1.3
            )
        axes.set(xticks=[], yticks=[])
        axes.margins(0.04)
        axes.spines["bottom"].set_visible(False)

    return draw(360, 320, paint, name=name, description=f"t-SNE of queries and shapes, {title}")


def domain_gaps(
    names: Sequence[str],
    before: Sequence[float | None],
    after: Sequence[float],
    *,
    runs: Sequence[int],
    name: str,
) -> Markup:
    """Proxy A-distances on the scale from 0 to 2: a ring before, a dot after, one row a run."""

    def paint(figure: Figure) -> None:
        axes = placed_axes(figure, left=112, right=24, top=8, bottom=40, grid="x")
        for row, (start, end, run) in enumerate(zip(before, after, runs, strict=True)):
            colour = run_colour(run)
            if start is not None:
                axes.plot([start, end], [row, row], color=colour, linewidth=2, alpha=0.45)
                axes.plot([start], [row], "o", mfc=PAPER, mec=colour, mew=1.6, ms=8)
            axes.plot([end], [row], "o", color=colour, mew=0, ms=9)
            _write(axes, end, row - 0.38, f"{end:.2f}", ha="center", colour=INK)
        axes.set_yticks(range(len(names)), [short(word, 18) for word in names])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set(xlim=(-0.02, 2.05), ylim=(len(names) - 0.4, -0.75))
        axes.set_xticks(np.linspace(0, 2, 5))
        axes.set_xlabel("proxy A-distance (0: alike, 2: separate)")

    height = 44 * len(names) + 52
    return draw(480, height, paint, name=name, description="Proxy A-distance before and after")


def _line(axes: Axes, series: Series, *, width: float) -> None:
    finite = np.where(np.isfinite(series.y), series.y, np.nan)
    style = dash_style(series.run, width=width)
    axes.plot(series.x, finite, color=run_colour(series.run), linewidth=width, linestyle=style)


def _mark_gaps(axes: Axes, series: Series) -> None:
    gaps = series.x[~np.isfinite(series.y)][:_MOST_POINTS]
    axes.plot(
        gaps,
        np.zeros(len(gaps)),
        "x",
        color=run_colour(series.run),
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        markersize=6,
    )


def _thinned(series: Series) -> Series:
    """At most 240 points, each the mean of the finite values of its stretch."""
    if len(series.x) <= _MOST_POINTS:
        return series
    stretches = np.array_split(np.arange(len(series.x)), _MOST_POINTS)
    x = np.array([series.x[stretch].mean() for stretch in stretches])
    y = np.array([_finite_mean(series.y[stretch]) for stretch in stretches])
    return Series(series.run, x, y)


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _name_cells(axes: Axes, classes: Sequence[str]) -> None:
    middles = np.arange(len(classes)) + 0.5
    size = 11 if len(classes) <= 14 else 8.5
    words = [short(word, 11) for word in classes]
    axes.set_xticks(middles, words, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles, words)
    axes.tick_params(labelsize=size)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_color(GRID)


def _cell_number(axes: Axes, share: float, row: int, column: int) -> None:
    colour = PAPER if share > 0.6 else INK
    text = f"{100 * share:.0f}"
    _write(axes, column + 0.5, row + 0.5, text, ha="center", colour=colour)


def _write(axes: Axes, x: float, y: float, text: str, *, ha: str, colour: str) -> None:
    axes.text(x, y, text, ha=ha, va="center_baseline", fontsize=10, color=colour)


def dash_style(run: int, *, width: float) -> Any:
    """The dash pattern of a run, as matplotlib takes it for lines of ``width``."""
    pattern = DASHES[run % len(DASHES)]
    return (0, tuple(length / width for length in pattern)) if pattern else "-"


def run_colour(run: int) -> str:
    """The placeholder of a run's colour, see ``svg``."""
    return RUN_COLOURS[run % len(RUN_COLOURS)]


def short(word: str, length: int) -> str:
    """At most ``length`` characters of ``word``."""
    return word if len(word) <= length else word[: length - 1] + "…"


class _Compact(Formatter):
    """Tick labels with one number of decimals an axis: 0.25 and 0.50, 12k, 3e-5."""

    def format_ticks(self, values: Iterable[float]) -> list[str]:
        ticks = [float(value) for value in values]
        largest = max(map(abs, ticks), default=0.0)
        if largest >= 10_000:
            return [f"{tick / 1000:g}k" for tick in ticks]
        if largest < 0.001:
            return [_scientific(tick) for tick in ticks]
        decimals = max((len(f"{tick:.4g}".partition(".")[2]) for tick in ticks), default=0)
        return [f"{tick:.{decimals}f}" for tick in ticks]

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"
