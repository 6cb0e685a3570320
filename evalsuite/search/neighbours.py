"""Nearest shapes and searched vectors under the options a run was evaluated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evalsuite.scoring import prepare_features
from evalsuite.search.exact import FlatIndex
from evalsuite.vectors import Embeddings


def nearest(
    queries: Embeddings, gallery: Embeddings, *, k: int, options: Mapping[str, Any]
) -> np.ndarray:
    """Gallery rows int64 [Q, min(k, G)], the nearest first, in the order the metrics rank.

    `options` are those of the evaluation, of which "features" and "metric" count.
    """
    index = FlatIndex(
        gallery,
        features=str(options.get("features", "raw")),
        metric=str(options.get("metric", "euclidean")),
    )
    return index.search(queries, k).indices


def searched_space(embeddings: Embeddings, options: Mapping[str, Any]) -> np.ndarray:
    """Vectors float32 [N, D] as the search compares them.

    Feature post-processing is applied; vectors compared by cosine get unit length.
    """
    prepared = prepare_features(embeddings.vectors, str(options.get("features", "raw")))
    return prepare_features(prepared, "l2") if options.get("metric") == "cosine" else prepared


def selected(embeddings: Embeddings, rows: Sequence[int] | np.ndarray) -> Embeddings:
    """The embeddings at `rows`, in that order."""
    return Embeddings(
        [embeddings.keys[row] for row in rows],
        [embeddings.labels[row] for row in rows],
        embeddings.vectors[np.asarray(rows, dtype=np.int64)],
    )
