"""Score a distance matrix that another program computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evalsuite.scoring.evaluation import score
from evalsuite.scoring.gallery import BaseShard, InProcess
from evalsuite.scoring.options import Options
from evalsuite.scoring.result import Evaluation
from evalsuite.vectors import EvaluationError


class _Lookup:
    """Queries are row numbers, items are column numbers, tiles are cut out of the matrix."""

    query_tile, item_tile = 64, 4096

    def __init__(self, order_QG: np.ndarray) -> None:
        self._order_QG = order_QG

    def queries(self, vectors_QD: np.ndarray) -> np.ndarray:
        return vectors_QD

    def keep(self, vectors_GD: np.ndarray) -> np.ndarray:
        return vectors_GD

    def items(self, kept: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        return kept[rows]

    def places(self, items: np.ndarray) -> slice:
        return slice(None)

    def tile(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        return self._order_QG[np.ix_(queries, items)]


class _MatrixShard(BaseShard):
    """Compared numbers are the matrix entries."""

    def __init__(self, order_QG: np.ndarray, labels: Sequence[str]) -> None:
        super().__init__(labels, np.arange(order_QG.shape[1]))
        self.arithmetic = _Lookup(order_QG)

    def items(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.indices[rows]


def evaluate_distances(
    distances: np.ndarray,
    query_labels: Sequence[str],
    gallery_labels: Sequence[str],
    *,
    options: Options | None = None,
    query_block: int = 1024,
    **choices: Any,
) -> Evaluation:
    """The metrics of a distance matrix [Q, G] of any real type; smaller is nearer.

    Distances are compared as they are: float64 keeps its full precision, +inf is an ordinary value,
    -0.0 equals 0.0. For similarities, pass their negative. Keys of the per-query table are row
    numbers. ``choices`` are fields of ``Options``, in place of those in ``options``; ``features``,
    ``metric`` and ``arithmetic`` keep their defaults, which say nothing here.

    Raises ``EvaluationError`` as ``evaluate`` does, and if shapes and labels do not match.
    """
    matrix = np.asarray(distances)
    if matrix.shape != (len(query_labels), len(gallery_labels)) or matrix.size == 0:
        raise EvaluationError(
            f"distances have shape {matrix.shape} for {len(query_labels)} query and "
            f"{len(gallery_labels)} gallery labels; expected [queries, items], not empty"
        )
    options = replace(options or Options(), **choices)
    if options.shard_options != Options().shard_options:
        raise EvaluationError(
            f"{', '.join(Options().shard_options)}: these options say how vectors are compared; "
            "a distance matrix is scored without them"
        )
    lost = np.flatnonzero(np.isnan(matrix).any(axis=1))
    if len(lost) and options.nan_policy == "raise":
        raise EvaluationError(
            f"distances hold NaN in rows {lost[:5].tolist()}; "
            "fix them, or pass nan_policy='last' to rank them last"
        )
    shard = _MatrixShard(_dense_order(matrix), [str(label) for label in gallery_labels])
    transport = InProcess([shard])
    return score(
        transport,
        transport.broadcast("describe"),
        np.arange(len(matrix)),
        keys=[str(row) for row in range(len(matrix))],
        labels=[str(label) for label in query_labels],
        options=options,
        query_block=query_block,
    )


def _dense_order(matrix_QG: np.ndarray) -> np.ndarray:
    """Each row's values replaced by 0, 1, 2, ... of the same order, float32; NaN stays NaN."""
    order_QG = np.empty(matrix_QG.shape, dtype=np.float32)
    for row, values in enumerate(matrix_QG):
        order_QG[row] = np.unique(values, return_inverse=True)[1]
    order_QG[np.isnan(matrix_QG)] = np.nan
    return order_QG
