"""A gallery cut into shards: what a shard answers, and how questions reach it.

Two questions are enough for exact ranks. ``relevant``: the distances of a query's relevant items
(those of its class, or of its instance) in this shard. ``count``: how many items of this shard come
before given thresholds. Counts add over shards. Arguments and answers are plain numpy, so a shard
can live in this process or in another one; ``Transport`` hides which.

Shape letters: Q queries of one block, G items of this shard, D components, M thresholds of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, Literal, Protocol, get_args

import numpy as np

from evalsuite.scoring.arithmetic import Arithmetic
from evalsuite.scoring.arithmetic import arithmetic as arithmetic_of
from evalsuite.scoring.canonical_distances import prepare_features
from evalsuite.scoring.threads import run_in_threads, thread_count
from evalsuite.vectors import EvaluationError, non_finite_rows

LevelName = Literal["class", "instance"]
"""What makes an item relevant: the query's class, or the query's object."""

_NO_ROWS = np.empty(0, dtype=np.int64)


def require_level(name: str) -> LevelName:
    """``name``; raises ``EvaluationError`` if it is no level."""
    for known in get_args(LevelName):
        if name == known:
            return known
    raise EvaluationError(f"level={name!r}: expected one of {', '.join(get_args(LevelName))}")


class Transport(Protocol):
    """Carries one question to every shard.

    With an attribute ``in_flight`` above 1, questions come from so many threads at a time.
    """

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every shard with ``args``; the answers in shard order."""
        ...


class InProcess:
    """Shards in this process, asked one after another."""

    def __init__(self, shards: Sequence[BaseShard]) -> None:
        self.shards = list(shards)

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every shard with ``args``; the answers in shard order."""
        return [getattr(shard, method)(*args) for shard in self.shards]


class BaseShard:
    """Items of a gallery under their global indices; a subclass says how far they are.

    ``arithmetic`` makes tiles of compared numbers from prepared queries and items.
    """

    arithmetic: Arithmetic

    def __init__(
        self, labels: Sequence[str], indices: np.ndarray, instances: Sequence[str] = ()
    ) -> None:
        order = np.argsort(indices, kind="stable")
        self.indices = np.asarray(indices, dtype=np.int64)[order]
        self._order = order
        self.non_finite = self.indices[:0]  # global indices of items that have NaN or Inf
        self._instances = instances
        self._rows_of: dict[str, dict[str, np.ndarray]] = {"class": self._rows(labels)}

    def _rows(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The rows int64 [n], ascending, of the items that have each name."""
        rows: dict[str, list[int]] = {}
        for row, position in enumerate(self._order if len(names) else ()):
            rows.setdefault(str(names[position]), []).append(row)
        return {name: np.array(found) for name, found in rows.items()}

    def _named(self, level: LevelName) -> dict[str, np.ndarray]:
        if level not in self._rows_of:  # made when asked for: a gallery has many instances
            known = self._rows(self._instances)
            self._rows_of[level] = {name: rows for name, rows in known.items() if name}
        return self._rows_of[level]

    def prepare(self, queries: np.ndarray) -> Any:
        """A tile's queries [q, ...] as the arithmetic takes them."""
        return self.arithmetic.queries(queries)

    def items(self, rows: slice | np.ndarray) -> Any:
        """The items of ``rows`` (positions in ascending global index) as the arithmetic takes
        them."""
        raise TypeError(f"{type(self).__name__} does not say how to read items")

    def describe(self, level: LevelName = "class") -> dict[str, Any]:
        """What this shard holds: indices, names of ``level`` with item counts, non-finite items."""
        named = self._named(level)
        return {
            "indices": self.indices,
            "labels": list(named),
            "counts": [len(rows) for rows in named.values()],
            "non_finite": self.non_finite,
        }

    def relevant(
        self, queries: np.ndarray, labels: np.ndarray, level: LevelName = "class"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relevant items of queries [Q, D] with names ``labels`` [Q] of ``level``.

        Returns ``counts`` int64 [Q], and flat, query after query, ``distance`` float32 and
        ``index`` int64 (global, ascending within a query).
        """
        asked = np.asarray(labels)
        names, class_of = np.unique(asked, return_inverse=True)
        named = self._named(level)
        rows = [named.get(str(name), _NO_ROWS) for name in names]
        counts = np.array([len(own) for own in rows], dtype=np.int64)[class_of]
        starts = np.concatenate(([0], np.cumsum(counts)))
        distance = np.empty(starts[-1], dtype=np.float32)
        index = np.empty(starts[-1], dtype=np.int64)

        query_tile, item_tile = self.arithmetic.query_tile, self.arithmetic.item_tile

        def answer(work: tuple[np.ndarray, np.ndarray]) -> None:
            asking, own = work
            prepared = self.prepare(queries[asking])
            for g in range(0, len(own), item_tile):
                part = own[g : g + item_tile]
                items = self.items(part)
                tile = self.arithmetic.tile(prepared, items)[:, self.arithmetic.places(items)]
                for row, query in zip(tile, asking, strict=True):
                    mine = rows[class_of[query]]
                    begin, end = np.searchsorted(mine, (part[0], part[-1] + 1))
                    chosen = mine[begin:end]
                    filled = slice(starts[query] + begin, starts[query] + end)
                    shared = len(chosen) < len(part)
                    distance[filled] = row[np.searchsorted(part, chosen)] if shared else row
                    index[filled] = self.indices[chosen]

        tiles = _tiles_of_names if level == "class" else _tiles_across_names
        run_in_threads(answer, list(tiles(class_of, rows, query_tile)))
        return counts, distance, index

    def count(
        self, queries: np.ndarray, offsets: np.ndarray, distance: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """Count the items of this shard, of any class, that come before each threshold.

        ``queries`` [Q, D]; the thresholds of query q are entries ``offsets[q]:offsets[q+1]`` of
        ``distance`` float32 [M] and ``index`` int64 [M] (an item's distance and global index),
        ascending. Returns int32 [3, M] with rows NEARER, NEARER_OR_EQUAL and BEFORE of
        ``tie_rules``. Thresholds NaN get the counts of +inf.
        """
        from evalsuite.scoring import tile_counting  # loads numba

        first, fenced, low, scale = tile_counting.search_tables(offsets, distance)
        query_tile, item_tile = self.arithmetic.query_tile, self.arithmetic.item_tile
        tiles = range(0, len(queries), query_tile)
        prepared = [self.prepare(queries[q : q + query_tile]) for q in tiles]
        total = np.zeros((3, len(distance)), dtype=np.int32)
        adding = Lock()

        def answer(strips: range) -> None:
            counts = np.zeros((3, len(distance) + len(queries)), dtype=np.int32)
            for g in strips:
                part = slice(g, g + item_tile)
                items = self.items(part)
                place = self.indices[:0]
                for q, block in zip(tiles, prepared, strict=True):
                    tile = self.arithmetic.tile(block, items)
                    if len(place) != tile.shape[1]:
                        place = np.full(tile.shape[1], -1)
                        place[self.arithmetic.places(items)] = self.indices[part]
                    tile_counting.count_tile(
                        tile, place, q, offsets, index, first, fenced, low, scale, counts
                    )
            with adding:
                tile_counting.cumulate(offsets, counts, total)

        strips = range(0, len(self.indices), item_tile)
        threads = min(thread_count(), len(strips))
        run_in_threads(answer, [strips[t::threads] for t in range(threads)])
        return total


Work = Iterator[tuple[np.ndarray, np.ndarray]]
"""Queries int64 [q] of one tile, and the ascending rows int64 [n] of all their relevant items."""


def _tiles_of_names(class_of: np.ndarray, rows: Sequence[np.ndarray], query_tile: int) -> Work:
    """Tiles of queries with one name, which all have the same relevant items.

    ``class_of`` int64 [Q] says which of ``rows`` a query has.
    """
    for c, own in enumerate(rows):
        if len(own):
            asking = np.flatnonzero(class_of == c)
            for q in range(0, len(asking), query_tile):
                yield asking[q : q + query_tile], own


def _tiles_across_names(class_of: np.ndarray, rows: Sequence[np.ndarray], query_tile: int) -> Work:
    """Full tiles where names have few queries and few items; otherwise as ``_tiles_of_names``."""
    sizes = np.array([len(own) for own in rows], dtype=np.int64)[class_of]
    order = np.argsort(class_of, kind="stable")
    order = order[sizes[order] > 0]
    for q in range(0, len(order), query_tile):
        asking = order[q : q + query_tile]
        yield asking, np.unique(np.concatenate([rows[c] for c in np.unique(class_of[asking])]))


class GalleryShard(BaseShard):
    """Vectors of a gallery part: float32 [G, D] with class names [G] and global indices [G].

    ``instances`` [G], where they are known, are names of objects, "" for an unknown one.

    ``features`` (raw, clamp-l2, l2) is applied to items and queries alike; ``metric`` is
    euclidean or cosine, ``arithmetic`` exact or float32 (see arithmetic.py). A shard may be empty
    ([0, D]).
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: Sequence[str],
        indices: np.ndarray,
        *,
        instances: Sequence[str] = (),
        features: str = "raw",
        metric: str = "euclidean",
        arithmetic: str = "exact",
    ) -> None:
        super().__init__(labels, indices, instances)
        self._options = {"features": features, "metric": metric, "arithmetic": arithmetic}
        raw = np.ascontiguousarray(vectors, dtype=np.float32)
        if not np.array_equal(self._order, np.arange(len(raw))):
            raw = raw[self._order]
        self._width = raw.shape[1]
        self.non_finite = self.indices[non_finite_rows(raw)]
        self.arithmetic = arithmetic_of(arithmetic, metric, width=self._width)
        self._kept: Any = self.arithmetic.keep(prepare_features(raw, features))

    def describe(self, level: LevelName = "class") -> dict[str, Any]:
        """As ``BaseShard.describe``, with ``width`` D and the options it was built with."""
        return {**super().describe(level), "width": self._width, **self._options}

    def prepare(self, queries: np.ndarray) -> Any:
        """A tile's query vectors float32 [q, D] after the feature option."""
        return super().prepare(prepare_features(queries, self._options["features"]))

    def items(self, rows: slice | np.ndarray) -> Any:
        """The items at ``rows`` as the arithmetic takes them."""
        return self.arithmetic.items(self._kept, rows)
