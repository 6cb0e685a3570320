"""The A-distance between a run's queries and its gallery."""

from __future__ import annotations

import numpy as np

from evalsuite.scoring import Options
from evalsuite.search import searched_space
from evalsuite.statistics import proxy_a_distance
from evalsuite.vectors import EmbeddingParts, Embeddings, EvaluationError

# The SVM sees 1,000 items a domain and split; more rows than this need not be read for them.
ROWS_A_DOMAIN = 20_000


def a_distance(queries: EmbeddingParts, gallery: EmbeddingParts, options: Options) -> float:
    """Proxy A-distance in the space that the search compares: 0 alike, 2 told apart without error.

    See ``evalsuite.statistics.proxy_a_distance``. At most 20,000 evenly spaced rows of each domain
    are read. Raises ``EvaluationError`` for fewer than 4 items in a domain or vectors with NaN or
    Inf.
    """
    sides = [searched_space(_sample(side), options) for side in (queries, gallery)]
    if not all(np.isfinite(side).all() for side in sides):
        raise EvaluationError("--a-distance: embeddings hold NaN or Inf; leave the option out")
    try:
        return proxy_a_distance(*sides)
    except ValueError as error:
        raise EvaluationError(f"--a-distance: {error}; leave the option out") from error


def _sample(side: EmbeddingParts) -> Embeddings:
    rows = np.unique(np.linspace(0, len(side) - 1, ROWS_A_DOMAIN).astype(np.int64))
    keys, labels = side.keys, side.labels
    return Embeddings([keys[r] for r in rows], [labels[r] for r in rows], side.vectors(rows))
