"""A gallery cut into shards: what a shard answers, and how questions reach it.

Two questions are enough for exact ranks. ``relevant``: the distances of a query's relevant items
(those of its class) in this shard. ``count``: how many items of this shard come before given
thresholds. Counts add over shards. Arguments and answers are plain numpy, so a shard can live in
this process or in another one; ``Transport`` hides which.

Shape letters: Q queries of one block, G items of this shard, D components, M thresholds of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from evalsuite.distances import Limbs, distances, prepare_features, split_limbs
from evalsuite.embeddings import Embeddings, EvaluationError, non_finite_rows
from evalsuite.threads import run_in_threads

__all__ = ["GalleryShard", "InProcess", "Shard", "Transport", "partition", "split_gallery"]

# Scratch of about 20 MB a thread. Any tile size gives the same bits (see distances.py).
QUERY_TILE = 128
ITEM_TILE = 4096


class Transport(Protocol):
    """Carries one question to every shard."""

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every shard with ``args``; the answers in shard order."""
        ...


class InProcess:
    """Shards in this process, asked one after another."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every shard with ``args``; the answers in shard order."""
        return [getattr(shard, method)(*args) for shard in self.shards]


class Shard:
    """Items of a gallery under their global indices; a subclass says how far they are."""

    def __init__(self, labels: Sequence[str], indices: np.ndarray) -> None:
        order = np.argsort(indices, kind="stable")
        self.indices = np.asarray(indices, dtype=np.int64)[order]
        self._order = order
        rows: dict[str, list[int]] = {}
        for row, position in enumerate(order):
            rows.setdefault(str(labels[position]), []).append(row)
        self._class_rows = {label: np.array(found) for label, found in rows.items()}

    def prepare(self, queries: np.ndarray) -> Any:
        """Turn a block of queries [Q, ...] into what ``tile`` takes; sliceable by rows."""
        raise TypeError(f"{type(self).__name__} does not say how to prepare queries")

    def items(self, rows: slice | np.ndarray) -> Any:
        """The items of ``rows`` (positions in ascending global index), as ``tile`` takes them."""
        raise TypeError(f"{type(self).__name__} does not say how to read items")

    def tile(self, queries: Any, items: Any) -> np.ndarray:
        """Compared numbers float32 [q, g] of prepared queries and items; smaller is nearer."""
        raise TypeError(f"{type(self).__name__} does not say how to compare")

    def non_finite(self) -> np.ndarray:
        """Global indices of items that have NaN or Inf, int64."""
        return np.empty(0, dtype=np.int64)

    def describe(self) -> dict[str, Any]:
        """What this shard holds: indices, class names with item counts, non-finite items."""
        return {
            "indices": self.indices,
            "labels": list(self._class_rows),
            "counts": [len(rows) for rows in self._class_rows.values()],
            "non_finite": self.non_finite(),
        }

    def relevant(
        self, queries: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Relevant items of queries [Q, D] with class names ``labels`` [Q].

        Returns ``counts`` int64 [Q], and flat, query after query, ``distance`` float32 and
        ``index`` int64 (global, ascending within a query).
        """
        counts = np.array(
            [len(self._class_rows.get(str(label), ())) for label in labels], dtype=np.int64
        )
        starts = np.concatenate(([0], np.cumsum(counts)))
        distance = np.empty(starts[-1], dtype=np.float32)
        index = np.empty(starts[-1], dtype=np.int64)
        asked = np.asarray(labels)

        def answer(label: str) -> None:
            asking = np.flatnonzero(asked == label)
            rows = self._class_rows[str(label)]
            prepared = self.prepare(queries[asking])
            for g in range(0, len(rows), ITEM_TILE):
                part = rows[g : g + ITEM_TILE]
                items = self.items(part)
                for q in range(0, len(asking), QUERY_TILE):
                    places = starts[asking[q : q + QUERY_TILE], None] + np.arange(g, g + len(part))
                    distance[places] = self.tile(prepared[q : q + QUERY_TILE], items)
                    index[places] = self.indices[part]

        run_in_threads(answer, np.unique(asked[counts > 0]).tolist())
        return counts, distance, index

    def count(
        self, queries: np.ndarray, offsets: np.ndarray, distance: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """Count the items of this shard, of any class, that come before each threshold.

        ``queries`` [Q, D]; the thresholds of query q are entries ``offsets[q]:offsets[q+1]`` of
        ``distance`` float32 [M] and ``index`` int64 [M] (an item's distance and global index).
        Returns int64 [3, M]: items strictly nearer; items nearer or equally far; items ordered
        before (distance, index). Threshold NaN compares as above +inf and equal to NaN.
        """
        prepared = self.prepare(queries)
        found = np.zeros((3, len(distance)), dtype=np.int64)
        threshold = _order_keys(distance).astype(np.uint64) << np.uint64(32)
        needles = np.empty((3, len(distance)), dtype=np.uint64)
        needles[0] = threshold
        needles[1] = threshold + np.uint64(1 << 32)
        for g in range(0, len(self.indices), ITEM_TILE):
            part = slice(g, g + ITEM_TILE)
            items = self.items(part)
            # Within a tile an item's index is replaced by its place: the order is the same.
            needles[2] = threshold | self.indices[part].searchsorted(index).astype(np.uint64)

            def answer(q: int, items: Any = items) -> None:
                tile = self.tile(prepared[q : q + QUERY_TILE], items)
                _count_tile(tile, offsets[q : q + QUERY_TILE + 1], needles, found)

            run_in_threads(answer, range(0, len(queries), QUERY_TILE))
        return found


class GalleryShard(Shard):
    """Vectors of a gallery part: float32 [G, D] with class names [G] and global indices [G].

    ``features`` (raw, clamp-l2, l2) is applied to items and queries alike; ``metric`` is
    euclidean or cosine. A shard may be empty ([0, D]).
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: Sequence[str],
        indices: np.ndarray,
        *,
        features: str = "raw",
        metric: str = "euclidean",
    ) -> None:
        super().__init__(labels, indices)
        self.features, self.metric = features, metric
        raw = np.ascontiguousarray(vectors, dtype=np.float32)[self._order]
        self._non_finite = self.indices[non_finite_rows(raw)]
        self._vectors = prepare_features(raw, features)

    def describe(self) -> dict[str, Any]:
        """As ``Shard.describe``, with ``width`` D, ``features`` and ``metric``."""
        options = {"features": self.features, "metric": self.metric}
        return {**super().describe(), "width": self._vectors.shape[1], **options}

    def non_finite(self) -> np.ndarray:
        """Global indices of items that have NaN or Inf, int64."""
        return self._non_finite

    def prepare(self, queries: np.ndarray) -> Limbs:
        """Limbs of query vectors float32 [Q, D] after the feature option."""
        return split_limbs(prepare_features(queries, self.features))

    def items(self, rows: slice | np.ndarray) -> Limbs:
        """Limbs of the items at ``rows``; split on each call, so memory stays at one tile."""
        return split_limbs(self._vectors[rows])

    def tile(self, queries: Limbs, items: Limbs) -> np.ndarray:
        """Compared numbers float32 [q, g]."""
        return distances(queries, items, metric=self.metric)


def partition(labels: Sequence[str], shards: int) -> list[np.ndarray]:
    """Cut gallery rows into ``shards`` parts grouped by label, sizes differing by at most one.

    Returns ascending int64 row indices per shard; parts are empty if there are fewer rows.
    """
    if shards < 1:
        raise EvaluationError(f"shards={shards}: give 1 or more")
    order = np.argsort(np.asarray(labels, dtype=str), kind="stable")
    return [np.sort(part) for part in np.array_split(order, shards)]


def split_gallery(
    gallery: Embeddings, shards: int, *, features: str = "raw", metric: str = "euclidean"
) -> list[GalleryShard]:
    """Build the shards of ``gallery`` in this process."""
    return [
        GalleryShard(
            gallery.vectors[rows],
            [gallery.labels[row] for row in rows],
            rows,
            features=features,
            metric=metric,
        )
        for rows in partition(gallery.labels, shards)
    ]


def _order_keys(distance: np.ndarray) -> np.ndarray:
    """Map float32 to uint32 of the same order; NaN above +inf. Negative zero must be gone."""
    bits = distance.view(np.uint32)
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones where negative
    return bits ^ (negative | np.uint32(1 << 31))


def _count_tile(
    tile: np.ndarray, offsets: np.ndarray, needles: np.ndarray, found: np.ndarray
) -> None:
    """Add this tile's counts to ``found`` [3, M] by sorting (distance, place) once per query."""
    entries = _order_keys(tile).astype(np.uint64)
    entries <<= np.uint64(32)
    entries |= np.arange(tile.shape[1], dtype=np.uint64)
    entries.sort(axis=1)
    for row, start, end in zip(entries, offsets[:-1], offsets[1:], strict=True):
        found[:, start:end] += row.searchsorted(needles[:, start:end])
