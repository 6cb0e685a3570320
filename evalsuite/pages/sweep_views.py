"""The choice of cells, axes and order for the figures of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from evalsuite.pages.headline import number
from evalsuite.pages.plots import Series
from evalsuite.pages.runs import RunLine
from evalsuite.pages.sweep_plots import ParallelAxis, learning_curves, parallel_axes
from evalsuite.pages.sweep_rows import (
    LedgerRow,
    axis_words,
    best_first,
    cell_words,
    label_words,
    method_name,
    metric_of,
    varying_axes,
)
from evalsuite.scoring import HEADLINES, LOWER_IS_BETTER

CRITERIA = ("entropy", "im", "snd", "source-val")
"""Scores that need no label of the target, as a curve names them."""

_MOST_AXES = 9
_MOST_LINES = 400
_MOST_CURVES = 8
_MOST_NAMED_VALUES = 8
_LOGARITHMIC_FROM = 50.0
_GLYPHS = "●■▲◆▼✚✖★"  # sweep_plots.MARKERS as characters


@dataclass(frozen=True)
class ParallelView:
    """The figure of ``shown`` of ``total`` cells, ``leading`` of them drawn thick."""

    figure: Markup
    metric: str
    shown: int
    total: int
    leading: int
    left_out_axes: tuple[str, ...]


class CurveLine(RunLine):
    """How a run is drawn in its panels; its name is the cell's labels."""

    @property
    def glyph(self) -> str:
        """The marker as a character."""
        return _GLYPHS[self.index % len(_GLYPHS)]


@dataclass(frozen=True)
class CurveGroup:
    """The panels of one method: ``lines`` of its ``total`` runs, a figure for each score."""

    method: str
    lines: tuple[CurveLine, ...]
    total: int
    panels: tuple[tuple[str, Markup], ...]


def parallel_view(rows: Sequence[LedgerRow], metric: str) -> ParallelView | None:
    """The rows that have ``metric`` across the axes on which they differ, None below two.

    Of more than 400 cells the best 100 and an even choice of the others are drawn; of more than
    nine axes the first nine.
    """
    rows = [row for row in best_first(rows, metric) if math.isfinite(metric_of(row, metric))]
    axes = varying_axes(rows)
    if len(rows) < 2 or not axes:
        return None
    total, leading = len(rows), math.ceil(len(rows) / 10)
    if total > _MOST_LINES:
        best = _MOST_LINES // 4
        rest = np.linspace(best, total - 1, _MOST_LINES - best).round().astype(int)
        rows = [*rows[:best], *(rows[index] for index in rest)]
    leading = min(leading, _MOST_LINES // 4)
    named = zip(axes, axis_words(axes), strict=True)
    drawn = [_axis(word, [(r.get("cell") or {}).get(name) for r in rows]) for name, word in named]
    scores = np.array([metric_of(row, metric) for row in rows])
    last = _numeric(metric, scores, downwards=metric in LOWER_IS_BETTER)
    figure = parallel_axes(
        [*drawn[:_MOST_AXES], last], np.arange(len(rows)) < leading, name="parallel"
    )
    return ParallelView(figure, metric, len(rows), total, leading, tuple(axes[_MOST_AXES:]))


def curve_groups(rows: Sequence[LedgerRow], metric: str) -> list[CurveGroup]:
    """The curves of every method that has any: the oracle's score and the criteria by step.

    A run with neither shows its loss. Of more than eight runs of a method eight are drawn, evenly
    from the best to the worst by ``metric``.
    """
    groups: dict[str, list[LedgerRow]] = {}
    for row in rows:
        if row.get("curve"):
            groups.setdefault(method_name(row), []).append(row)
    return [
        _group(method, best_first(found, metric), metric, name=f"curve-{index}")
        for index, (method, found) in enumerate(groups.items())
    ]


def _group(method: str, rows: Sequence[LedgerRow], metric: str, *, name: str) -> CurveGroup:
    kept = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_CURVES)).round().astype(int)
    shown = [rows[index] for index in kept]
    axes = [axis for axis in varying_axes(rows) if axis != "method"]
    lines = tuple(
        CurveLine(cell_words(row, axes) if axes else method, index)
        for index, row in enumerate(shown)
    )
    panels = []
    for place, score in enumerate(_scores(shown, metric)):
        series = [_series(row["curve"], score, index) for index, row in enumerate(shown)]
        title = f"{score} †" if score in HEADLINES else score
        figure = learning_curves(
            [line for line in series if len(line.x)],
            name=f"{name}-{place}",
            title=f"{score} of {method}",
        )
        panels.append((title, figure))
    return CurveGroup(method, lines, len(rows), tuple(panels))


def _scores(rows: Sequence[LedgerRow], metric: str) -> list[str]:
    """The curves to draw: one measure of the oracle's, each criterion, or else the loss."""
    known = {
        key
        for row in rows
        for point in row["curve"]
        for key, value in point.items()
        if math.isfinite(number(value))
    }
    oracle = next((name for name in (metric, "mAP", *HEADLINES) if name in known), None)
    found = [name for name in (oracle, *CRITERIA) if name in known]
    return [str(name) for name in found] or [name for name in ("loss",) if name in known]


def _series(curve: Sequence[Mapping[str, Any]], score: str, index: int) -> Series:
    points = [(number(p.get("step")), number(p[score])) for p in curve if score in p]
    table = np.array(points, dtype=float).reshape(-1, 2)
    table = table[np.isfinite(table[:, 0])]
    return Series(index, table[:, 0], table[:, 1])


def _axis(name: str, labels: Sequence[object]) -> ParallelAxis:
    known = [label for label in labels if label is not None]
    if all(math.isfinite(number(label)) for label in known):
        return _numeric(name, np.array([number(label) for label in labels]))
    words = [label_words(label) for label in labels]
    names = sorted(set(words))
    heights = np.linspace(1, 0, len(names)) if len(names) > 1 else np.array([0.5])
    place = dict(zip(names, heights.tolist(), strict=True))
    return ParallelAxis(
        name, np.array([place[word] for word in words]), tuple((place[n], n) for n in names)
    )


def _numeric(name: str, values: np.ndarray, *, downwards: bool = False) -> ParallelAxis:
    """Values [lines] on a scale from 0 to 1, logarithmic if they are positive and far apart."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    logarithmic = low > 0 and high / low > _LOGARITHMIC_FROM
    scale = np.log10 if logarithmic else np.asarray
    start, end = float(scale(low)), float(scale(high))

    def placed(at: np.ndarray) -> np.ndarray:
        share = (scale(at) - start) / (end - start) if end > start else np.where(at == at, 0.5, at)
        return 1.0 - share if downwards else share

    named = np.unique(known)
    if len(named) > _MOST_NAMED_VALUES:
        named = np.linspace(start, end, 5)
        named = 10.0**named if logarithmic else named
    heights = placed(named)
    ticks = tuple((float(h), f"{v:.3g}") for h, v in zip(heights, named, strict=True))
    return ParallelAxis(f"{name} (log)" if logarithmic else name, placed(values), ticks)
