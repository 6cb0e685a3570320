"""Precision over recall, one line a method, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.figures.canvas import COLOURS, DASHES, MARKERS, Drawing, hide, sheet, wrapped
from evalsuite.scoring import CurveName, Evaluation

_LEVELS = {"shrec": np.arange(1, 21) / 20, "pooled": np.linspace(0, 1, 101)}


@dataclass(frozen=True)
class RunCurve:
    """A method: the evaluations of all seeds, or ``missing``, why there is none."""

    name: str
    runs: tuple[Evaluation, ...]
    missing: str = ""


@dataclass(frozen=True)
class CurvePanel:
    """The methods on one data set."""

    title: str
    curves: tuple[RunCurve, ...]


def draw_curves(
    title: str, panels: Sequence[CurvePanel], notes: Sequence[str], *, curve: CurveName
) -> Drawing:
    """One panel a data set. ``shrec`` has a mark at each of the 20 levels, ``pooled`` is a line."""
    rows = []
    size = {"columns": len(panels), "rows": 1, "width": 4.6, "height": 3.6}
    with sheet(title, notes, **size) as (figure, axes):
        for panel, place in zip(panels, axes[0], strict=True):
            drawn = [one for one in panel.curves if one.runs]
            if not drawn:
                hide(place, panel.curves[0].missing)
                continue
            for index, one in enumerate(drawn):
                precision = mean_curve(one.runs, curve)
                place.plot(
                    _LEVELS[curve],
                    precision,
                    label=one.name,
                    color=COLOURS[index % len(COLOURS)],
                    linestyle=DASHES[index % len(DASHES)],
                    marker=MARKERS[index % len(MARKERS)] if curve == "shrec" else "",
                    markersize=4,
                    linewidth=1.5,
                )
                rows += [
                    {
                        "panel": panel.title,
                        "row": one.name,
                        "seeds": len(one.runs),
                        "recall": round(float(recall), 6),
                        "precision": float(value),
                    }
                    for recall, value in zip(_LEVELS[curve], precision, strict=True)
                    if np.isfinite(value)
                ]
            place.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            place.set_title(wrapped(panel.title, size["width"]))
            place.grid(visible=True)
            place.legend(loc="best")
    return Drawing(figure, rows)


def mean_curve(runs: Sequence[Evaluation], curve: CurveName) -> np.ndarray:
    """Mean precision over ``runs`` at each level of recall; NaN where one of them has none.

    The levels of ``shrec`` are those of the evaluation; between the points of a pooled curve
    precision is interpolated.
    """
    levels = _LEVELS[curve]
    found = []
    for run in runs:
        recall, precision = run.curves.drawn(curve)
        values = np.full(len(levels), np.nan)
        if len(recall):
            # Ranks without a hit only lose precision: at each recall the first point counts.
            first = np.diff(recall, prepend=-1.0) > 0
            points = recall[first], precision[first]
            values = np.interp(levels, *points, left=np.nan, right=np.nan)
        found.append(values)
    return np.mean(found, axis=0)
