"""Numbers of runs: metrics over a parameter as lines, one number of each method as bars."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

from evalsuite.figures.canvas import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    MUTED,
    Drawing,
    hide,
    sheet,
    wrapped,
)


@dataclass(frozen=True)
class Line:
    """A metric over a parameter: at each ``x`` the values of all seeds, which may be none.

    ``published`` has the paper's figures by ``x``.
    """

    name: str
    x: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    published: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LinePanel:
    """The lines of one data set and one parameter."""

    title: str
    parameter: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Bar:
    """One method: the values of all seeds, or ``missing``, why there is none."""

    name: str
    values: tuple[float, ...]
    missing: str = ""


@dataclass(frozen=True)
class BarPanel:
    """The methods on one data set."""

    title: str
    bars: tuple[Bar, ...]


def draw_lines(title: str, panels: Sequence[Sequence[LinePanel]], notes: Sequence[str]) -> Drawing:
    """Panels by row of the sheet. Means over seeds with their spread; rings are the paper's."""
    size = {"columns": max(map(len, panels)), "rows": len(panels), "width": 3.9, "height": 3.1}
    rows = []
    with sheet(title, notes, **size) as (figure, axes):
        for panel, place in _placed(panels, axes):
            for index, line in enumerate(panel.lines):
                colour = COLOURS[index % len(COLOURS)]
                known = [(x, own) for x, own in zip(line.x, line.values, strict=True) if own]
                means = [statistics.fmean(own) for _, own in known]
                place.errorbar(
                    [x for x, _ in known],
                    means,
                    yerr=[_spread(own) or 0.0 for _, own in known],
                    color=colour,
                    label=line.name,
                    marker=MARKERS[index % len(MARKERS)],
                    linestyle=DASHES[index % len(DASHES)],
                    markersize=4.5,
                    linewidth=1.4,
                    capsize=2,
                )
                place.plot(
                    list(line.published),
                    list(line.published.values()),
                    "o",
                    mfc="none",
                    mec=colour,
                    mew=1.6,
                    ms=10,
                )
                rows += [
                    {
                        "panel": panel.title,
                        "parameter": panel.parameter,
                        "x": x,
                        "metric": line.name,
                        **_numbers(own),
                        "published": line.published.get(x),
                    }
                    for x, own in zip(line.x, line.values, strict=True)
                ]
            place.set(xlabel=panel.parameter, ylim=(0, 1.02))
            place.set_title(wrapped(panel.title, size["width"]))
            place.grid(visible=True)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")
    return Drawing(figure, rows)


def draw_bars(
    title: str, panels: Sequence[BarPanel], notes: Sequence[str], *, measure: str
) -> Drawing:
    """One panel a data set, one bar a method: mean over seeds with its spread, written above."""
    rows = []
    most = max(len(panel.bars) for panel in panels)
    size = {"columns": len(panels), "rows": 1, "width": max(2.6, 1.0 * most + 0.6), "height": 3.2}
    with sheet(title, notes, **size) as (figure, axes):
        for panel, place in zip(panels, axes[0], strict=True):
            for index, bar in enumerate(panel.bars):
                rows.append(
                    {
                        "panel": panel.title,
                        "row": bar.name,
                        "measure": measure,
                        **_numbers(bar.values),
                        "missing": bar.missing,
                    }
                )
                if not bar.values:
                    place.text(index, 0, "–", ha="center", va="bottom", color=MUTED)
                    continue
                mean, spread = statistics.fmean(bar.values), _spread(bar.values) or 0.0
                place.bar(index, mean, 0.62, yerr=spread, capsize=3, color=COLOURS[index % 8])
                top = mean + spread
                place.text(index, top, f"{mean:.3f}", ha="center", va="bottom", size=9, color=INK)
            names = [bar.name.replace(" ", "\n", 1) for bar in panel.bars]
            place.set_xticks(np.arange(len(names)), names)
            place.set(ylabel=measure)
            place.set_title(wrapped(panel.title, size["width"]))
            place.margins(y=0.12)
            place.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, None))
            place.grid(visible=True, axis="y")
    return Drawing(figure, rows)


def _placed(
    panels: Sequence[Sequence[LinePanel]], axes: Sequence[Sequence[Axes]]
) -> Iterator[tuple[LinePanel, Axes]]:
    for row, places in zip(panels, axes, strict=True):
        for place in places[len(row) :]:
            hide(place)
        yield from zip(row, places, strict=False)


def _numbers(values: Sequence[float]) -> dict[str, float | int | None]:
    """How many seeds, their mean and their sample standard deviation."""
    mean = statistics.fmean(values) if values else None
    return {"seeds": len(values), "value": mean, "spread": _spread(values)}


def _spread(values: Sequence[float]) -> float | None:
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return spread if math.isfinite(spread) else None
