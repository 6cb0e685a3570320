"""Retrieval strips: a few queries, chosen fairly, with the ten nearest shapes of every run."""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from evalsuite.pages.headline import number
from evalsuite.pages.runs import RunLine, RunView
from evalsuite.search import nearest_rows, selected

logger = logging.getLogger(__name__)

PicturesByKey = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Encoded pictures (PNG or JPEG) by sample key; keys without a picture are left out."""

_SIDE_PX = 120
_SHOWN = 10
_MOST_RUNS = 4


@dataclass(frozen=True)
class Thumb:
    """One picture of a strip; `source` is a data URI, or empty where there is no picture.

    `origin` is the file that it was made of, as far as that is known.
    """

    key: str
    label: str
    right: bool
    source: str = ""
    origin: str = ""

    @property
    def place(self) -> str:
        """What to find the item by: its origin, or else its key."""
        return self.origin or self.key


@dataclass(frozen=True)
class StripRow:
    """The nearest shapes of one run, the nearest first, and the query's average precision there."""

    line: RunLine
    average_precision: float | None
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True)
class Strip:
    """A query and what each run found for it."""

    query: Thumb
    rows: tuple[StripRow, ...]


def retrieval_strips(
    runs: Sequence[RunView],
    lines: Sequence[RunLine],
    *,
    pictures: PicturesByKey | None = None,
    origins: Mapping[str, str] | None = None,
    count: int = 6,
    seed: int = 0,
) -> list[Strip]:
    """`count` queries with the ten nearest shapes of the source-only run and the three best others.

    Runs without embeddings or per-query results are left out. `origins` are by key.
    """
    shown = _shown_runs(runs)
    if not shown:
        return []
    places = [_places(runs[row]) for row in shown]
    tables = [runs[row].evaluation.per_query for row in shown]
    keys = choose_queries(tables, count=count, seed=seed, among=set.intersection(*map(set, places)))
    found = [_rows_of_run(runs[row], lines[row], keys) for row in shown]
    labels = _column(tables[0], "label")
    strips = [
        Strip(Thumb(key, labels[key], right=True), tuple(rows[position] for rows in found))
        for position, key in enumerate(keys)
    ]
    if origins:
        strips = _changed(strips, lambda thumb: replace(thumb, origin=origins.get(thumb.key, "")))
    return strips if pictures is None else _with_pictures(strips, pictures)


def choose_queries(
    tables: Sequence[pa.Table],
    *,
    count: int,
    seed: int = 0,
    among: Collection[str] | None = None,
) -> list[str]:
    """Keys of `count` queries from bad to good, spread over the classes.

    Queries common to all tables (columns key, label, AP), and in `among` if given, are sorted by
    their mean AP over the tables and cut into `count` equal bands; from each band one is drawn at
    random among those whose class has been drawn least often. So nobody picks by hand, and bad
    queries show as often as good ones.
    """
    mean = _mean_precision(tables)
    labels = _column(tables[0], "label")
    order = sorted((mean[key], key) for key in mean if among is None or key in among)
    random = np.random.default_rng(seed)
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    for band in np.array_split(np.arange(len(order)), min(count, len(order)) or 1):
        shuffled = [order[int(row)][1] for row in random.permutation(band)]
        if shuffled:
            chosen.append(min(shuffled, key=lambda key: taken[labels[key]]))
            taken[labels[chosen[-1]]] += 1
    return chosen


def _mean_precision(tables: Sequence[pa.Table]) -> dict[str, float]:
    """Mean AP over the tables of the queries that every table has evaluated."""
    precisions = [_column(table, "AP") for table in tables]
    values = {key: [number(table.get(key)) for table in precisions] for key in precisions[0]}
    means = {key: float(np.mean(found)) for key, found in values.items()}
    return {key: mean for key, mean in means.items() if np.isfinite(mean)}


def _column(table: pa.Table, name: str) -> dict[str, Any]:
    """Values of one column by key."""
    columns = (table.column(column).to_pylist() for column in ("key", name))
    return dict(zip(*columns, strict=True))


def _shown_runs(runs: Sequence[RunView]) -> list[int]:
    usable = [
        row
        for row, run in enumerate(runs)
        if run.queries is not None and run.gallery is not None and len(run.evaluation.per_query)
    ]
    usable.sort(
        key=lambda row: (
            not runs[row].is_source_only,
            -np.nan_to_num(runs[row].evaluation.headline["mAP"]),
        )
    )
    return sorted(usable[:_MOST_RUNS])


def _places(run: RunView) -> dict[str, int]:
    """Row of each query by key."""
    assert run.queries is not None
    return {key: row for row, key in enumerate(run.queries.keys)}


def _rows_of_run(run: RunView, line: RunLine, keys: Sequence[str]) -> list[StripRow]:
    """One row a key, without pictures yet."""
    assert run.queries is not None
    assert run.gallery is not None
    if not keys:
        return []
    places, precision = _places(run), _column(run.evaluation.per_query, "AP")
    wanted = selected(run.queries, [places[key] for key in keys])
    found = nearest_rows(wanted, run.gallery, k=_SHOWN, options=run.evaluation.options)
    keys_G, labels_G = run.gallery.keys, run.gallery.labels
    return [
        StripRow(
            line,
            precision[key],
            tuple(Thumb(keys_G[item], labels_G[item], labels_G[item] == label) for item in items),
        )
        for key, label, items in zip(keys, wanted.labels, found.tolist(), strict=True)
    ]


def _with_pictures(strips: Sequence[Strip], pictures: PicturesByKey) -> list[Strip]:
    """The strips with every picture that `pictures` knows, asked for once, as small data URIs."""
    keys = dict.fromkeys(thumb.key for strip in strips for thumb in _thumbs(strip))
    encoded = pictures(list(keys))
    sources = {key: data_uri(key, encoded[key]) for key in keys if key in encoded}

    return _changed(strips, lambda thumb: replace(thumb, source=sources.get(thumb.key, "")))


def _changed(strips: Sequence[Strip], change: Callable[[Thumb], Thumb]) -> list[Strip]:
    """The strips with every picture changed."""
    return [
        Strip(
            change(strip.query),
            tuple(replace(row, thumbs=tuple(map(change, row.thumbs))) for row in strip.rows),
        )
        for strip in strips
    ]


def _thumbs(strip: Strip) -> list[Thumb]:
    return [strip.query, *(thumb for row in strip.rows for thumb in row.thumbs)]


def thumbnail(key: str, encoded: bytes) -> Image.Image | None:
    """A square RGB picture; of stacked views the second, which shows two sides of the object.

    None, with a warning that names ``key``, for bytes that are no picture.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        logger.warning("no picture for %s: %s", key, error)
        return None
    width, height = picture.size
    if height >= 3 * width and height % width == 0:
        picture = picture.crop((0, width, width, 2 * width))
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return ImageOps.pad(canvas.convert("RGB"), (_SIDE_PX, _SIDE_PX), color="white")


def data_uri(key: str, encoded: bytes) -> str:
    """The :func:`thumbnail` as a JPEG that stands in a page; empty where there is none."""
    small = thumbnail(key, encoded)
    if small is None:
        return ""
    written = io.BytesIO()
    small.save(written, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
