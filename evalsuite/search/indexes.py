"""Indexes over a gallery: exact, and approximate ones that look at a part of it.

An approximate index proposes candidates. They are sorted by (distance, gallery row) as in exact.py,
so an answer holds true distances and never -1. A query that gets fewer than k candidates is asked
again with a wider search, in the end of the whole gallery.

All approximate kinds compare squared Euclidean distances. Under cosine they compare those of unit
vectors, which give the same order except for zero vectors. Training draws with a fixed seed. A
graph (hnsw) that is built on several threads differs from build to build; OMP_NUM_THREADS=1 makes
it repeatable.

Shape letters: Q queries, G gallery items, D components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evalsuite.scoring import split_limbs
from evalsuite.search.exact import (
    CANDIDATES_AT_ONCE,
    FlatIndex,
    Neighbours,
    SearchedGallery,
    SearchIndex,
)
from evalsuite.search.faiss_library import Searcher, faiss_module
from evalsuite.search.index_parameters import choose_parameters
from evalsuite.vectors import Embeddings, EvaluationError

WIDER = 4  # times as many cells or candidates at each new attempt
ATTEMPTS = 4  # then the whole gallery is compared
# Candidates for k answers: twice k and some to break ties, of codes more, as they blur the order.
CANDIDATES = {"ivf": 2, "hnsw": 2, "ivfpq": 8}
LARGEST_SQUARED_NORM = 1e37  # FAISS's k-means ends the process where float32 overflows


class ApproximateIndex:
    """Top-k among the candidates of a FAISS index of ``kind`` ivf, hnsw or ivfpq."""

    def __init__(
        self, kind: str, gallery: SearchedGallery, *, parameters: Mapping[str, int], index: Any
    ) -> None:
        self.kind, self.gallery, self.parameters = kind, gallery, dict(parameters)
        self.searcher = Searcher(index)

    def __len__(self) -> int:
        return len(self.gallery)

    def search(self, queries: Embeddings, k: int) -> Neighbours:
        """min(k, G) near items by (distance, gallery row): the nearest of those looked at.

        Raises ``EvaluationError`` for k < 1, another width, or NaN or Inf in the queries.
        """
        vectors = self.gallery.queries(queries, k)
        k, size = min(k, len(self)), len(self)
        indices = np.empty((len(vectors), k), dtype=np.int64)
        found = np.empty((len(vectors), k), dtype=np.float32)
        fetch = min(size, CANDIDATES[self.kind] * k + 32)
        block = max(1, CANDIDATES_AT_ONCE // fetch)
        widened = 0
        for start in range(0, len(vectors), block):
            rows = slice(start, start + block)
            widened += self._answer(vectors[rows], fetch, indices[rows], found[rows])
        return Neighbours(indices, self.gallery.shown(found), widened)

    def _answer(
        self, vectors: np.ndarray, fetch: int, indices: np.ndarray, found: np.ndarray
    ) -> int:
        """Fill ``indices`` and ``found`` [q, k]; returns how many queries were widened."""
        limbs, k = split_limbs(vectors), indices.shape[1]
        proposed = _filled(self.gallery.for_faiss(vectors), self.searcher.index.d)
        pending, widened = np.arange(len(vectors)), 0
        for attempt in range(ATTEMPTS):
            if not len(pending):
                break
            _, candidates = self.searcher.propose(
                proposed[pending], fetch, **self._effort(fetch, attempt)
            )
            rows, compared, full = self.gallery.rerank(limbs[pending], candidates, k)
            indices[pending[full]], found[pending[full]] = rows[full], compared[full]
            pending = pending[~full]
            widened = widened if attempt else len(pending)
        for query in pending:
            one = limbs[query : query + 1]
            indices[query], found[query] = self.gallery.nearest_of_all(one, k)
        return widened

    def _effort(self, fetch: int, attempt: int) -> dict[str, int]:
        wider = WIDER**attempt
        if self.kind == "hnsw":
            followed = max(self.parameters["ef_search"], fetch)
            return {"efSearch": min(wider * followed, max(len(self), followed))}
        return {"nprobe": min(wider * self.parameters["nprobe"], self.parameters["nlist"])}


def build_index(
    gallery: Embeddings,
    kind: str = "flat",
    *,
    features: str = "raw",
    metric: str = "euclidean",
    parameters: Mapping[str, int | None] | None = None,
) -> SearchIndex:
    """An index of ``kind`` (flat, ivf, hnsw, ivfpq) over ``gallery``.

    ``features`` and ``metric`` as in ``evaluate``; ``parameters`` as in ``choose_parameters``.

    Raises ``EvaluationError``: an unknown option, kind or parameter, a gallery too small for the
    kind, NaN or Inf in it, or vectors so long that FAISS's float32 overflows.
    """
    chosen = choose_parameters(kind, items=len(gallery), width=gallery.width, given=parameters)
    if kind == "flat":
        return FlatIndex(gallery, features=features, metric=metric)
    held = SearchedGallery(gallery, features=features, metric=metric)
    vectors = held.for_faiss(held.vectors)
    if metric != "cosine" and held.largest_squared_norm > LARGEST_SQUARED_NORM:
        raise EvaluationError(
            f"kind={kind!r}: gallery vectors of length {held.largest_squared_norm**0.5:.1e} "
            "overflow float32; use kind flat, or features l2"
        )
    index = _empty(kind, held.width, chosen)
    vectors = _filled(vectors, index.d)
    index.train(vectors)
    index.add(vectors)
    return ApproximateIndex(kind, held, parameters=chosen, index=index)


def restore_index(
    gallery: Embeddings,
    kind: str,
    *,
    parameters: Mapping[str, int],
    features: str,
    metric: str,
    index: Any,
) -> SearchIndex:
    """The index whose FAISS part ``index`` was built over this ``gallery`` with these options.

    Raises ``EvaluationError`` if it is of another kind, size or width.
    """
    chosen = choose_parameters(kind, items=len(gallery), width=gallery.width, given=parameters)
    cosine_flat = kind == "flat" and metric == "cosine"
    faiss = faiss_module()
    expected = _width(gallery.width, chosen.get("subspaces", 1)), len(gallery)
    right = (
        type(index) is getattr(faiss, "IndexFlatIP" if cosine_flat else _CLASSES[kind])
        and (index.d, index.ntotal) == expected
        and (kind not in ("ivf", "ivfpq") or index.nlist == chosen["nlist"])
    )
    if not right:
        raise EvaluationError("the index does not belong to its description; build it again")
    if kind == "flat":
        return FlatIndex(gallery, features=features, metric=metric, index=index)
    held = SearchedGallery(gallery, features=features, metric=metric)
    return ApproximateIndex(kind, held, parameters=chosen, index=index)


_CLASSES = {
    "flat": "IndexFlatL2",
    "ivf": "IndexIVFFlat",
    "hnsw": "IndexHNSWFlat",
    "ivfpq": "IndexIVFPQ",
}


def _empty(kind: str, width: int, chosen: Mapping[str, int]) -> Any:
    """An untrained FAISS index."""
    faiss = faiss_module()
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, chosen["links"])
        index.hnsw.efConstruction = chosen["ef_construction"]
        index.hnsw.efSearch = chosen["ef_search"]
        return index
    width = _width(width, chosen.get("subspaces", 1))
    cells = faiss.IndexFlatL2(width)
    if kind == "ivf":
        index = faiss.IndexIVFFlat(cells, width, chosen["nlist"])
        trained = [index.cp]
    else:
        index = faiss.IndexIVFPQ(cells, width, chosen["nlist"], chosen["subspaces"], chosen["bits"])
        trained = [index.cp, index.pq.cp]
    index.nprobe = chosen["nprobe"]
    for clustering in trained:
        clustering.seed = chosen["seed"]
        clustering.min_points_per_centroid = 1  # choose_parameters decides, not a line on stderr
    return index


def _width(width: int, subspaces: int) -> int:
    """The least multiple of ``subspaces`` that holds ``width`` components."""
    return -(-width // subspaces) * subspaces


def _filled(vectors_ND: np.ndarray, width: int) -> np.ndarray:
    """Vectors float32 [N, D] with zeros up to ``width`` components."""
    missing = width - vectors_ND.shape[1]
    return np.pad(vectors_ND, ((0, 0), (0, missing))) if missing else vectors_ND
