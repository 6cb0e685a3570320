"""Exact top-k search: FAISS proposes, canonical distances decide.

FAISS sorts by its own float32 arithmetic: equal distances come in an order that depends on the
index type, duplicates of a query do not get distance 0, and missing places hold -1. Here FAISS
only proposes candidates. They are re-ranked by the distances of distances.py and then by gallery
index, and a query is accepted once rounding cannot have hidden a nearer item; otherwise more
candidates are fetched, at last the whole gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from evalsuite.distances import Limbs, distances, prepare_features, split_limbs
from evalsuite.embeddings import Embeddings, EvaluationError, require_finite

__all__ = ["FlatIndex", "Neighbours"]

FLOAT32_UNIT = 2.0**-24
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest items of each query, nearest first.

    ``indices`` int64 [Q, k] are gallery rows, never -1; ``distances`` float32 [Q, k] are Euclidean
    distances, or 1 - similarity under cosine.
    """

    indices: np.ndarray
    distances: np.ndarray


class FlatIndex:
    """Exhaustive top-k over a gallery, in the same order as the metrics rank.

    ``features`` and ``metric`` as in ``evaluate``. Raises ``EvaluationError`` for an unknown
    option or NaN or Inf in the gallery.
    """

    def __init__(
        self, gallery: Embeddings, *, features: str = "raw", metric: str = "euclidean"
    ) -> None:
        require_finite(gallery)
        self._features, self._metric = features, metric
        self._vectors = prepare_features(gallery.vectors, features)
        self._size, self._width = self._vectors.shape
        limbs = split_limbs(self._vectors)
        distances(limbs[:1], limbs[:1], metric=metric)  # an unknown metric fails here
        self._largest_squared_norm = float(limbs.squared_norm.max())
        cosine = metric == "cosine"
        self._index = faiss.IndexFlatIP(self._width) if cosine else faiss.IndexFlatL2(self._width)
        self._index.add(self._for_faiss(self._vectors))  # pyright: ignore[reportCallIssue]

    def __len__(self) -> int:
        return self._size

    def search(self, queries: Embeddings, k: int) -> Neighbours:
        """The min(k, G) nearest items by (distance, gallery index).

        Raises ``EvaluationError`` for k < 1, another width, or NaN or Inf in the queries.
        """
        if k < 1:
            raise EvaluationError(f"k={k}: give 1 or more")
        if queries.width != self._width:
            raise EvaluationError(
                f"queries have {queries.width} components, the gallery has {self._width}; "
                "extract both with one network"
            )
        require_finite(queries)
        vectors = prepare_features(queries.vectors, self._features)
        k = min(k, self._size)
        indices = np.empty((len(vectors), k), dtype=np.int64)
        found = np.empty((len(vectors), k), dtype=np.float32)
        pending, fetch = np.arange(len(vectors)), 2 * k + 32
        while len(pending):
            pending = self._attempt(vectors, pending, min(fetch, self._size), indices, found)
            fetch *= 4
        if self._metric == "cosine":
            found = (1.0 + found.astype(np.float64)).astype(np.float32)
        return Neighbours(indices, found)

    def _attempt(
        self,
        vectors: np.ndarray,
        pending: np.ndarray,
        fetch: int,
        indices: np.ndarray,
        found: np.ndarray,
    ) -> np.ndarray:
        """Fill the rows of ``pending`` that ``fetch`` candidates settle; return the others."""
        limbs = split_limbs(vectors[pending])
        if fetch == self._size:
            for row, query in enumerate(pending):
                distance = self._to_all(limbs[row : row + 1])
                _keep_nearest(distance, np.arange(fetch), query, indices, found)
            return pending[:0]
        values, candidates = self._index.search(  # pyright: ignore[reportCallIssue]
            self._for_faiss(vectors[pending]), fetch
        )
        unsettled = []
        for row, query in enumerate(pending):
            ids = np.sort(candidates[row])
            if ids[0] < 0:  # FAISS met an overflow and gave up on places
                unsettled.append(query)
                continue
            distance = distances(
                limbs[row : row + 1], split_limbs(self._vectors[ids]), metric=self._metric
            )[0]
            _keep_nearest(distance, ids, query, indices, found)
            if not self._settled(found[query, -1], values[row, -1], limbs.squared_norm[row]):
                unsettled.append(query)
        return np.array(unsettled, dtype=np.int64)

    def _to_all(self, query: Limbs) -> np.ndarray:
        parts = [
            distances(query, split_limbs(self._vectors[g : g + ROWS_AT_ONCE]), metric=self._metric)
            for g in range(0, self._size, ROWS_AT_ONCE)
        ]
        return np.concatenate(parts, axis=1)[0]

    def _settled(self, kth: float, boundary: float, squared_norm: float) -> bool:
        """Whether every item FAISS left out is certainly farther than the k-th found.

        FAISS's number for a pair errs by at most about (D + 16) u times the sizes of its terms,
        with u = 2^-24 the float32 unit; what it left out is not better than ``boundary``.
        """
        unit = 2.0 * (self._width + 16) * FLOAT32_UNIT
        if self._metric == "cosine":
            return bool(-float(kth) > float(boundary) + unit)
        slack = unit * (squared_norm + self._largest_squared_norm)
        reached = float(kth) ** 2 * (1.0 + 4.0 * FLOAT32_UNIT)
        return bool(reached < float(boundary) - slack)

    def _for_faiss(self, vectors: np.ndarray) -> np.ndarray:
        return prepare_features(vectors, "l2") if self._metric == "cosine" else vectors


def _keep_nearest(
    distance: np.ndarray, ids: np.ndarray, query: int, indices: np.ndarray, found: np.ndarray
) -> None:
    # ids ascend, so a stable sort breaks ties by gallery index.
    order = np.argsort(distance, kind="stable")[: indices.shape[1]]
    indices[query], found[query] = ids[order], distance[order]
