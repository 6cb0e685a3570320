"""What an evaluation says of every query: the input of intervals and comparisons.

Shape letters: Q evaluated queries, P ranks at which hits were counted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evalsuite.scoring.options import HEADLINES
from evalsuite.scoring.result import (
    QUERIES_FILE,
    Evaluation,
    evaluation_folder,
    read_evaluation,
)
from evalsuite.vectors import EvaluationError

# Headline metrics that are means, and their columns in the per-query table.
_COLUMNS = {"NN": "NN", "FT": "FT", "ST": "ST", "E": "E", "DCG": "DCG", "ANMRR": "ANMRR"}
_COLUMNS["mAP"] = "AP"


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of Q queries, one row each; queries without a relevant item are left out.

    ``sizes`` int64 [Q] relevant items of each query; ``values`` float64 [Q] by headline name of
    the metrics that are means; ``f_hits`` float64 [Q] relevant items within ``f_cut`` ranks;
    ``curve_hits`` integer [Q, P] those within each of ``curve_ranks`` int64 [P]; ``headline`` the
    values over all queries; ``left_out`` the reason for each metric that cannot be resampled.
    """

    name: str
    keys: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    values: dict[str, np.ndarray]
    f_hits: np.ndarray | None
    curve_hits: np.ndarray | None
    curve_ranks: np.ndarray
    headline: dict[str, float]
    options: dict[str, Any]
    n_gallery: int
    n_max: int | None
    gallery_fingerprint: str | None
    left_out: dict[str, str]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def f_cut(self) -> int:
        """20, or the gallery size if that is smaller."""
        return min(20, self.n_gallery)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The headline metrics that can be resampled."""
        return tuple(name for name in HEADLINES if name not in self.left_out)

    def rows(self, chosen: np.ndarray, **changes: Any) -> QueryScores:
        """The queries ``chosen`` (int64 or bool [Q]); ``headline`` is still that of all queries."""
        return replace(
            self,
            keys=self.keys[chosen],
            labels=self.labels[chosen],
            sizes=self.sizes[chosen],
            values={name: values[chosen] for name, values in self.values.items()},
            f_hits=None if self.f_hits is None else self.f_hits[chosen],
            curve_hits=None if self.curve_hits is None else self.curve_hits[chosen],
            **changes,
        )


def read_scores(folder: str | Path) -> QueryScores:
    """The scores in ``metrics.json`` and ``per_query.parquet`` of an evaluated run's folder.

    ``folder`` holds them itself or in ``evaluation``. Raises ``EvaluationError`` that names the
    file and the remedy for a missing or unreadable one.
    """
    evaluation = read_evaluation(folder)
    queries = evaluation_folder(folder) / QUERIES_FILE
    if not queries.is_file():
        raise EvaluationError(f"{queries}: no such file; run `img2shape eval {folder}` first")
    return scores_of(evaluation, name=str(folder))


def scores_of(evaluation: Evaluation, *, name: str = "evaluation") -> QueryScores:
    """The scores of an evaluation, with ``name`` in messages."""
    sizes = evaluation.per_query.column("n_relevant").to_numpy()
    table = evaluation.per_query.filter(pa.array(sizes > 0))
    if not len(table):
        raise EvaluationError(f"{name}: no query has a relevant item; check the label names")
    left_out: dict[str, str] = {}
    values = {}
    for metric, column in _COLUMNS.items():
        known = _finite(table, column)
        if known is None:
            left_out[metric] = f"no finite column {column} in the per-query table"
        else:
            values[metric] = known
    f_hits = evaluation.f_hits
    if not len(f_hits) or not np.isfinite(f_hits).all():
        f_hits = None
        left_out["F"] = "no column f_hits in the per-query table; evaluate again"
    curve_hits = evaluation.curve_hits
    if not len(curve_hits):
        curve_hits = None
        left_out["AUC"] = "no column curve_hits in the per-query table; evaluate again"
    elif evaluation.options.ties == "expected" and evaluation.ties.pairs:
        curve_hits = None
        left_out["AUC"] = "hits per rank are kept in gallery order of ties, not as expectations"
    headline = {m: value for m, value in evaluation.headline.items() if m not in left_out}
    left_out |= {m: "undefined here" for m, value in headline.items() if math.isnan(value)}
    return QueryScores(
        name=name,
        keys=np.asarray(table.column("key").to_pylist(), dtype=str),
        labels=np.asarray(table.column("label").to_pylist(), dtype=str),
        sizes=sizes[sizes > 0],
        values=values,
        f_hits=f_hits,
        curve_hits=curve_hits,
        curve_ranks=evaluation.curves.ranks,
        headline={m: value for m, value in headline.items() if not math.isnan(value)},
        options=asdict(evaluation.options),
        n_gallery=evaluation.n_gallery,
        n_max=evaluation.n_max,
        gallery_fingerprint=evaluation.about.get("gallery_fingerprint"),
        left_out={m: left_out[m] for m in HEADLINES if m in left_out},
    )


def items_fingerprint(keys: Sequence[str], labels: Sequence[str]) -> str:
    """16 hexadecimal digits that say which items of which classes these are, in any order."""
    digest = hashlib.sha256()
    for pair in sorted(zip(keys, labels, strict=True)):
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()[:16]


def _finite(table: pa.Table, column: str) -> np.ndarray | None:
    if column not in table.column_names:
        return None
    values = np.asarray(table.column(column).to_numpy(), dtype=np.float64)
    return values if np.isfinite(values).all() else None
