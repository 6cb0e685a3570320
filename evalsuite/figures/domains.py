"""Pictures and shapes of runs in one plane by t-SNE, coloured by domain or by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from evalsuite.figures.canvas import COLOURS, NAMED, PAPER, Drawing, hide, sheet, wrapped
from evalsuite.pages import RunView
from evalsuite.search import searched_space
from evalsuite.statistics import even_sample, tsne

Colouring = Literal["images blue", "images red", "classes"]
_ITEMS = 400  # of a domain
_MOST_CLASSES = 20


@dataclass(frozen=True)
class DomainPanel:
    """A run, or ``missing``, why there is none."""

    title: str
    run: RunView | None
    missing: str = ""


@dataclass(frozen=True)
class _Points:
    """``at`` float32 [N, 2], and what each point is."""

    at: np.ndarray
    keys: list[str]
    labels: list[str]
    is_shape: np.ndarray


def draw_domains(
    title: str,
    panels: Sequence[Sequence[DomainPanel]],
    notes: Sequence[str],
    *,
    colouring: Colouring,
    items: int = _ITEMS,
) -> Drawing:
    """Panels by row of the sheet: queries as dots, shapes as triangles.

    At most ``items`` of each domain are drawn, spread over the classes, the same ones in each run.
    """
    rows = []
    size = {"columns": max(map(len, panels)), "rows": len(panels), "width": 3.0, "height": 2.9}
    with sheet(title, notes, **size) as (figure, axes):
        for row, places in zip(panels, axes, strict=True):
            for panel, place in zip(row, places, strict=False):
                place.set_title(wrapped(panel.title, size["width"]))
                points = _points(panel.run, items)
                if points is None:
                    hide(place, panel.missing or "its run has no embeddings")
                    continue
                _scatter(place, points, colouring)
                rows += [
                    {
                        "panel": panel.title,
                        "domain": "shape" if shape else "image",
                        "key": key,
                        "class": label,
                        "x": round(float(x), 4),
                        "y": round(float(y), 4),
                    }
                    for (x, y), key, label, shape in zip(
                        points.at, points.keys, points.labels, points.is_shape, strict=True
                    )
                ]
            for place in places[len(row) :]:
                hide(place)
        handles = axes[0][0].get_legend_handles_labels()
        if handles[0]:
            figure.legend(*handles, loc="outside right center", markerscale=1.6)
    return Drawing(figure, rows)


def _points(run: RunView | None, items: int) -> _Points | None:
    if run is None or run.queries is None or run.gallery is None:
        return None
    sides = [run.queries, run.gallery]
    drawn = [even_sample(side.labels, items) for side in sides]
    pairs = list(zip(sides, drawn, strict=True))
    vectors = [searched_space(side, run.evaluation.options)[rows] for side, rows in pairs]
    return _Points(
        at=tsne(np.concatenate(vectors)),
        keys=[side.keys[row] for side, rows in pairs for row in rows],
        labels=[side.labels[row] for side, rows in pairs for row in rows],
        is_shape=np.repeat([False, True], [len(rows) for rows in drawn]),
    )


def _scatter(place: Axes, points: _Points, colouring: Colouring) -> None:
    sides = ((~points.is_shape, "o", "images"), (points.is_shape, "^", "shapes"))
    if colouring == "classes":
        classes = sorted(set(points.labels))
        labels = np.array(points.labels)
        for index, name in enumerate(classes[:_MOST_CLASSES]):
            for side, marker, domain in sides:
                x, y = points.at[side & (labels == name)].T
                colour = COLOURS[index % len(COLOURS)]
                face = colour if marker == "o" else PAPER
                style = {"marker": marker, "s": 16, "c": face, "edgecolors": colour}
                place.scatter(x, y, linewidths=0.9, label=f"{name}, {domain}", **style)
    else:
        colours = ("blue", "red") if colouring == "images blue" else ("red", "blue")
        for (side, marker, domain), colour in zip(sides, colours, strict=True):
            x, y = points.at[side].T
            style = {"marker": marker, "s": 10, "color": NAMED[colour], "alpha": 0.6}
            place.scatter(x, y, linewidths=0, label=domain, **style)
    place.set(xticks=[], yticks=[])
    for spine in place.spines.values():
        spine.set_visible(True)
    place.margins(0.04)
