"""Queries of runs and the nearest shapes, in frames that say which are of the query's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from evalsuite.figures.canvas import INK, MUTED, NAMED, Drawing, hide, sheet, wrapped
from evalsuite.pages import PicturesByKey, RunView, choose_queries, thumbnail
from evalsuite.search import nearest_rows, selected


@dataclass(frozen=True)
class StripPanel:
    """A run, or ``missing``, why there is none; ``pictures`` are those of its data."""

    title: str
    run: RunView | None
    pictures: PicturesByKey | None = None
    missing: str = ""


@dataclass(frozen=True)
class _Found:
    """A query and its nearest shapes in order: keys and classes."""

    key: str
    label: str
    shapes: tuple[tuple[str, str], ...]


def draw_strips(
    title: str,
    panels: Sequence[StripPanel],
    notes: Sequence[str],
    *,
    shown: int,
    queries: int = 6,
    right: str = "blue",
    wrong: str = "orange",
) -> Drawing:
    """Panels below each other, ``queries`` rows each: the query, then its ``shown`` nearest shapes.

    Queries are chosen from bad to good and spread over the classes, not by hand. ``right`` and
    ``wrong`` are colours of :data:`evalsuite.figures.canvas.NAMED`.
    """
    rows = []
    size = {"columns": 1, "rows": len(panels), "width": 0.72 * (shown + 1.6)}
    with sheet(title, notes, **size, height=0.86 * queries + 0.35) as (figure, axes):
        for panel, [place] in zip(panels, axes, strict=True):
            place.set_title(wrapped(panel.title, size["width"]), loc="left")
            found = _found(panel.run, shown=shown, queries=queries)
            if not found:
                hide(place, panel.missing or "its run has no embeddings or no per-query results")
                continue
            pictures = _pictures(found, panel.pictures)
            for row, strip in enumerate(found):
                _cell(place, 0, row, strip.key, strip.label, pictures, frame=INK)
                for column, (key, label) in enumerate(strip.shapes):
                    is_right = label == strip.label
                    frame = NAMED[right if is_right else wrong]
                    _cell(place, column + 1.25, row, key, label, pictures, frame=frame)
                    rows.append(
                        {
                            "panel": panel.title,
                            "query": strip.key,
                            "query class": strip.label,
                            "rank": column + 1,
                            "shape": key,
                            "shape class": label,
                            "right": int(is_right),
                        }
                    )
            place.set(xlim=(-0.05, shown + 1.3), ylim=(queries * 1.18, -0.05), aspect="equal")
            place.set_axis_off()
    return Drawing(figure, rows)


def _found(run: RunView | None, *, shown: int, queries: int) -> list[_Found]:
    if run is None or run.queries is None or run.gallery is None:
        return []
    table = run.evaluation.per_query
    if not len(table):
        return []
    places = {key: row for row, key in enumerate(run.queries.keys)}
    keys = choose_queries([table], count=queries, among=places)
    if not keys:
        return []
    asked = selected(run.queries, [places[key] for key in keys])
    nearest = nearest_rows(asked, run.gallery, k=shown, options=run.evaluation.options)
    keys_G, labels_G = run.gallery.keys, run.gallery.labels
    return [
        _Found(key, label, tuple((keys_G[item], labels_G[item]) for item in items))
        for key, label, items in zip(keys, asked.labels, nearest.tolist(), strict=True)
    ]


def _pictures(found: Sequence[_Found], by_key: PicturesByKey | None) -> Mapping[str, np.ndarray]:
    """Pixels uint8 [H, W, 3] of every item that has a picture, asked for once."""
    if by_key is None:
        return {}
    keys = [key for one in found for key in (one.key, *(shape for shape, _ in one.shapes))]
    encoded = by_key(list(dict.fromkeys(keys)))
    small = {key: thumbnail(key, data) for key, data in encoded.items()}
    return {key: np.asarray(picture) for key, picture in small.items() if picture is not None}


def _cell(
    place: Axes,
    x: float,
    row: int,
    key: str,
    label: str,
    pictures: Mapping[str, np.ndarray],
    *,
    frame: str,
) -> None:
    """One item in a square of side 0.94; its class stands in the place of a missing picture."""
    y = row * 1.18
    if key in pictures:
        place.imshow(pictures[key], extent=(x, x + 0.94, y + 0.94, y), interpolation="antialiased")
    else:
        at = (x + 0.47, y + 0.47)
        place.text(*at, label[:12], ha="center", va="center", size=6, color=MUTED)
    place.add_patch(Rectangle((x, y), 0.94, 0.94, fill=False, edgecolor=frame, linewidth=2))
    if x == 0:
        place.text(x + 0.47, y + 1.09, label[:18], ha="center", va="center", size=6, color=INK)
