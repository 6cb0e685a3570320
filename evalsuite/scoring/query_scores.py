"""What an evaluation says of every query: the input of intervals and comparisons.

Shape letters: Q evaluated queries, P ranks at which hits were counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.scoring.options import HEADLINES, Options
from evalsuite.scoring.result import Evaluation
from evalsuite.vectors import EvaluationError

_COLUMNS = {"NN": "NN", "FT": "FT", "ST": "ST", "E": "E", "DCG": "DCG", "ANMRR": "ANMRR"}
_COLUMNS["mAP"] = "AP"


@dataclass(frozen=True, eq=False)
class QueryScores:
    """Scores of Q queries, one row each, those without a relevant item left out.

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
        """The queries ``chosen`` (int64 or bool [Q]); ``headline`` still speaks of all."""
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


def scores_of(evaluation: Evaluation, *, name: str = "evaluation") -> QueryScores:
    """The scores of an evaluation in memory."""
    return _scores(name, evaluation.to_json(), evaluation.query_table())


def read_scores(folder: str | Path) -> QueryScores:
    """The scores in ``metrics.json`` and ``per_query.parquet`` of an evaluated run's folder.

    ``folder`` holds them itself or in ``evaluation``. Raises ``EvaluationError`` naming the file
    and the remedy for a missing or unreadable one.
    """
    folder = Path(folder)
    inner = folder / "evaluation"
    place = inner if (inner / "metrics.json").is_file() else folder
    metrics, table = place / "metrics.json", place / "per_query.parquet"
    remedy = f"run `img2shape eval {folder}` first"
    for file in (metrics, table):
        if not file.is_file():
            raise EvaluationError(
                f"{file if place is inner else folder / file.name}: no such file; {remedy}"
            )
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
        known = pq.read_table(table)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise EvaluationError(f"{place}: cannot be read ({error}); {remedy}") from error
    try:
        return _scores(str(folder), content, known)
    except (AttributeError, KeyError, TypeError) as error:
        raise EvaluationError(f"{place}: not an evaluation's files ({error}); {remedy}") from error


def items_fingerprint(keys: Sequence[str], labels: Sequence[str]) -> str:
    """16 hexadecimal digits that say which items of which classes these are, in any order."""
    digest = hashlib.sha256()
    for pair in sorted(zip(keys, labels, strict=True)):
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()[:16]


def _scores(name: str, metrics: Mapping[str, Any], table: pa.Table) -> QueryScores:
    sizes = table.column("n_relevant").to_numpy()
    table = table.filter(pa.array(sizes > 0))
    if not len(table):
        raise EvaluationError(f"{name}: no query has a relevant item; check the label names")
    left_out: dict[str, str] = {}
    values = {}
    for metric, column in _COLUMNS.items():
        known = _numbers(table, column)
        if known is None:
            left_out[metric] = f"no finite column {column} in the per-query table"
        else:
            values[metric] = known
    f_hits = _numbers(table, "f_hits")
    if f_hits is None:
        left_out["F"] = "no column f_hits in the per-query table; evaluate again"
    options = {f.name: metrics.get(f.name, f.default) for f in fields(Options)}
    curve = (metrics.get("curves") or {}).get("pooled") or {}
    ranks = np.asarray(curve.get("rank", ()), dtype=np.int64)
    curve_hits = _hits(table, len(ranks))
    if curve_hits is None:
        left_out["AUC"] = "no column curve_hits in the per-query table; evaluate again"
    elif options["ties"] == "expected" and metrics["tie_report"]["pairs"]:
        left_out["AUC"] = "hits per rank are kept in gallery order of ties, not as expectations"
        curve_hits = None
    headline = {m: metrics[m] for m in HEADLINES if m not in left_out}
    left_out |= {m: "undefined here" for m, value in headline.items() if value is None}
    return QueryScores(
        name=name,
        keys=np.asarray(table.column("key").to_pylist(), dtype=str),
        labels=np.asarray(table.column("label").to_pylist(), dtype=str),
        sizes=sizes[sizes > 0],
        values=values,
        f_hits=f_hits,
        curve_hits=curve_hits,
        curve_ranks=ranks,
        headline={m: float(value) for m, value in headline.items() if value is not None},
        options=options,
        n_gallery=int(metrics["n_gallery"]),
        n_max=metrics.get("n_max"),
        gallery_fingerprint=metrics.get("gallery_fingerprint"),
        left_out={m: left_out[m] for m in HEADLINES if m in left_out},
    )


def _numbers(table: pa.Table, column: str) -> np.ndarray | None:
    if column not in table.column_names:
        return None
    values = np.asarray(table.column(column).to_numpy(), dtype=np.float64)
    return values if np.isfinite(values).all() else None


def _hits(table: pa.Table, points: int) -> np.ndarray | None:
    if "curve_hits" not in table.column_names or not points:
        return None
    lists = table.column("curve_hits").combine_chunks()
    flat = lists.flatten().to_numpy()
    return flat.reshape(-1, points) if len(flat) == len(table) * points else None
