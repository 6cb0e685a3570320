"""Exact top-k search: FAISS proposes, canonical distances decide.

FAISS sorts by its own float32 arithmetic: equal distances come in an order that depends on the
index type, duplicates of a query do not get distance 0, and missing places hold -1. Here FAISS
only proposes candidates. They are ranked again by the distances of canonical_distances.py and then
by gallery row. A query is finished once rounding cannot have hidden a nearer item; until then more
candidates are fetched, in the end the whole gallery.

Ties go by gallery row and not by key, because the metrics rank like that. So the first answer is
the one that NN scores. Rows have the order of the data set, which is the same in all runs.

Shape letters: Q queries, G gallery items, D components, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evalsuite.scoring import (
    Limbs,
    Options,
    distances,
    prepare_features,
    require_choice,
    run_in_threads,
    split_limbs,
)
from evalsuite.search.faiss_library import Searcher, faiss_module
from evalsuite.vectors import Embeddings, EvaluationError, require_finite, require_same_width

FLOAT32_UNIT = 2.0**-24
ROWS_AT_ONCE = 4096
CANDIDATES_OF_A_PRODUCT = 512
CANDIDATES_AT_ONCE = 1 << 22  # of a block of queries; they are 50 MB of FAISS's answers


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest items of each query, nearest first.

    ``indices`` int64 [Q, k] are gallery rows, never -1; ``distances`` float32 [Q, k] are Euclidean
    distances, or 1 - similarity under cosine. ``widened`` is the number of queries for which an
    approximate index had to search more than its parameters say to find k answers.
    """

    indices: np.ndarray
    distances: np.ndarray
    widened: int = 0


class SearchIndex(Protocol):
    """What every index answers."""

    gallery: SearchedGallery
    kind: str
    parameters: dict[str, int]
    searcher: Searcher

    def search(self, queries: Embeddings, k: int) -> Neighbours:
        """The min(k, G) nearest items by (distance, gallery row)."""
        ...


class SearchedGallery:
    """The vectors of a gallery as they are compared, and the canonical order of its items.

    ``features`` and ``metric`` as in ``evaluate``; ``vectors`` float32 [G, D] after ``features``.
    Raises ``EvaluationError`` for an unknown option or NaN or Inf in the gallery.
    """

    def __init__(
        self, gallery: Embeddings, *, features: str = "raw", metric: str = "euclidean"
    ) -> None:
        require_finite(gallery)
        require_choice("features", features)
        require_choice("metric", metric)
        self.features, self.metric = features, metric
        self.vectors = prepare_features(gallery.vectors, features)
        self.width = self.vectors.shape[1]
        self.largest_squared_norm = max(
            float(split_limbs(self.vectors[g : g + ROWS_AT_ONCE]).squared_norm.max())
            for g in range(0, len(self.vectors), ROWS_AT_ONCE)
        )

    def __len__(self) -> int:
        return len(self.vectors)

    def queries(self, queries: Embeddings, k: int) -> np.ndarray:
        """Query vectors float32 [Q, D] after ``features``.

        Raises ``EvaluationError`` for k < 1, another width, or NaN or Inf in the queries.
        """
        if k < 1:
            raise EvaluationError(f"k={k}: give 1 or more")
        require_same_width(queries, self.width)
        require_finite(queries)
        return prepare_features(queries.vectors, self.features)

    def for_faiss(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as FAISS gets them: of unit length under cosine."""
        return prepare_features(vectors, "l2") if self.metric == "cosine" else vectors

    def rerank(
        self, queries: Limbs, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k nearest of each query's candidates, rows int64 [Q, C] in any order.

        Entries below 0 and repeated rows do not count. Returns rows int64 [Q, k], compared numbers
        float32 [Q, k] (see ``distances``), both by (number, row), and bool [Q]: whether the query
        has k candidates; where it has not, the rest of its entries mean nothing.
        """
        rows = np.sort(candidates, axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        indices = np.empty((len(rows), k), dtype=np.int64)
        found = np.empty((len(rows), k), dtype=np.float32)

        def answer(block: slice) -> None:
            # Neighbouring queries share a product, because a call for each would take longer.
            own = np.sort(rows[block], axis=1)  # ascending, so a stable sort breaks ties by row
            asked = np.unique(own[own >= 0])
            if not len(asked):
                return
            items = split_limbs(self.vectors[asked])
            tile = distances(queries[block], items, metric=self.metric)
            place = np.searchsorted(asked, np.maximum(own, asked[0]))
            compared = np.take_along_axis(tile, place, axis=1)
            compared[own < 0] = np.inf  # behind all, as every vector here is finite
            order = np.argsort(compared, axis=1, kind="stable")
            # An overflow may make a real candidate infinite too, so sort those below 0 last again.
            real = np.take_along_axis(own, order, axis=1) >= 0
            order = np.take_along_axis(order, np.argsort(~real, axis=1, kind="stable"), axis=1)
            indices[block] = np.take_along_axis(own, order[:, :k], axis=1)
            found[block] = np.take_along_axis(compared, order[:, :k], axis=1)

        size = max(1, CANDIDATES_OF_A_PRODUCT // rows.shape[1])
        blocks = [slice(start, start + size) for start in range(0, len(rows), size)]
        run_in_threads(answer, blocks)
        return indices, found, (rows >= 0).sum(axis=1) >= k

    def nearest_of_all(self, query: Limbs, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of all rows to one query, int64 [k], and their compared numbers."""
        parts = [
            distances(query, split_limbs(self.vectors[g : g + ROWS_AT_ONCE]), metric=self.metric)
            for g in range(0, len(self), ROWS_AT_ONCE)
        ]
        distance = np.concatenate(parts, axis=1)[0]
        order = np.argsort(distance, kind="stable")[:k]
        return order, distance[order]

    def shown(self, compared: np.ndarray) -> np.ndarray:
        """Distances from compared numbers, which under cosine are minus the similarity."""
        if self.metric != "cosine":
            return compared
        return (1.0 + compared.astype(np.float64)).astype(np.float32)


class FlatIndex:
    """Exhaustive top-k over a gallery, in the same order as the metrics rank.

    ``features`` and ``metric`` as in ``evaluate``; ``index`` is FAISS's part if it exists already,
    from a file. Raises ``EvaluationError`` for an unknown option or NaN or Inf in the gallery.
    """

    kind = "flat"

    def __init__(
        self,
        gallery: Embeddings,
        *,
        features: str = "raw",
        metric: str = "euclidean",
        index: Any = None,
    ) -> None:
        faiss = faiss_module()
        self.gallery = SearchedGallery(gallery, features=features, metric=metric)
        self.parameters: dict[str, int] = {}
        if index is None:
            flat = faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2
            index = flat(self.gallery.width)
            index.add(self.gallery.for_faiss(self.gallery.vectors))
        self.searcher = Searcher(index)

    def __len__(self) -> int:
        return len(self.gallery)

    def search(self, queries: Embeddings, k: int) -> Neighbours:
        """The min(k, G) nearest items by (distance, gallery row).

        Raises ``EvaluationError`` for k < 1, another width, or NaN or Inf in the queries.
        """
        vectors = self.gallery.queries(queries, k)
        k, size = min(k, len(self)), len(self)
        indices = np.empty((len(vectors), k), dtype=np.int64)
        found = np.empty((len(vectors), k), dtype=np.float32)
        pending, fetch = np.arange(len(vectors)), 2 * k + 32
        while len(pending):
            fetch = min(fetch, size)
            block = max(1, CANDIDATES_AT_ONCE // fetch)
            unsettled = [
                self._attempt(vectors, pending[start : start + block], fetch, indices, found)
                for start in range(0, len(pending), block)
            ]
            pending, fetch = np.concatenate(unsettled), 4 * fetch
        return Neighbours(indices, self.gallery.shown(found))

    def _attempt(
        self,
        vectors: np.ndarray,
        pending: np.ndarray,
        fetch: int,
        indices: np.ndarray,
        found: np.ndarray,
    ) -> np.ndarray:
        """Fill the rows of ``pending`` that ``fetch`` candidates settle; return the others."""
        gallery, k = self.gallery, indices.shape[1]
        limbs = split_limbs(vectors[pending])
        if fetch == len(gallery):
            for row, query in enumerate(pending):
                indices[query], found[query] = gallery.nearest_of_all(limbs[row : row + 1], k)
            return pending[:0]
        values, candidates = self.searcher.propose(gallery.for_faiss(vectors[pending]), fetch)
        indices[pending], found[pending], full = gallery.rerank(limbs, candidates, k)
        # Without k candidates FAISS met an overflow and left places empty.
        settled = [
            bool(full[row])
            and self._settled(found[query, -1], values[row, -1], limbs.squared_norm[row])
            for row, query in enumerate(pending)
        ]
        return pending[~np.array(settled, dtype=bool)]

    def _settled(self, kth: float, boundary: float, squared_norm: float) -> bool:
        """Whether every item FAISS left out is certainly farther than the k-th found.

        FAISS's number for a pair errs by at most about (D + 16) u times the sizes of its terms,
        with u = 2^-24 the float32 unit; what it left out is not better than ``boundary``.
        """
        unit = 2.0 * (self.gallery.width + 16) * FLOAT32_UNIT
        if self.gallery.metric == "cosine":
            return bool(-float(kth) > float(boundary) + unit)
        slack = unit * (squared_norm + self.gallery.largest_squared_norm)
        reached = float(kth) ** 2 * (1.0 + 4.0 * FLOAT32_UNIT)
        return bool(reached < float(boundary) - slack)


def nearest_rows(
    queries: Embeddings, gallery: Embeddings, *, k: int, options: Options
) -> np.ndarray:
    """Gallery rows int64 [Q, min(k, G)], the nearest first, in the order the metrics rank.

    Of ``options``, those of the evaluation, ``features`` and ``metric`` count.
    """
    return FlatIndex(gallery, **options.space).search(queries, k).indices


def searched_space(embeddings: Embeddings, options: Options) -> np.ndarray:
    """Vectors float32 [N, D] as the search compares them.

    ``options.features`` is applied, and vectors compared by cosine get unit length.
    """
    prepared = prepare_features(embeddings.vectors, options.features)
    return prepare_features(prepared, "l2") if options.metric == "cosine" else prepared


def selected(embeddings: Embeddings, rows: Sequence[int] | np.ndarray) -> Embeddings:
    """The embeddings at ``rows``, in that order."""
    return Embeddings(
        [embeddings.keys[row] for row in rows],
        [embeddings.labels[row] for row in rows],
        embeddings.vectors[np.asarray(rows, dtype=np.int64)],
    )
