"""The one result of an evaluation, from scoring to its files, the pages, comparisons and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.atomic import write_atomically, write_text_atomically
from evalsuite.scoring.options import HEADLINES, Options
from evalsuite.scoring.tie_rules import TieReport
from evalsuite.vectors import EvaluationError

CurveName = Literal["pooled", "shrec"]
CURVES: tuple[CurveName, ...] = get_args(CurveName)
METRICS_FILE, QUERIES_FILE = "metrics.json", "per_query.parquet"


@dataclass(frozen=True, eq=False)
class Curves:
    """Both precision-recall curves, always in gallery index order of ties.

    ``pooled_recall``, ``pooled_precision`` float64 stand at ``pooled_ranks`` int64: in a fresh
    result at every rank 1..G, in one that was read from its files at ``ranks``. ``ranks`` int64 [P]
    are the at most 200 ranks that the files keep. ``interpolated`` float64 [20] is mean precision
    at recall 1/20 ... 1, NaN where no query takes part.
    """

    pooled_ranks: np.ndarray
    pooled_recall: np.ndarray
    pooled_precision: np.ndarray
    interpolated: np.ndarray
    ranks: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """The 20 recall levels, float64 [20]."""
        return np.arange(1, 21) / 20.0

    def pooled(self) -> dict[str, np.ndarray]:
        """The pooled curve at ``ranks``."""
        rows = np.searchsorted(self.pooled_ranks, self.ranks)
        return {
            "rank": self.ranks,
            "recall": self.pooled_recall[rows],
            "precision": self.pooled_precision[rows],
        }

    def drawn(self, curve: CurveName) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision float64 [p] of a curve, without the points that have none.

        Raises ``EvaluationError`` for a name that is no curve's.
        """
        if curve not in CURVES:
            raise EvaluationError(f"curve={curve!r}: expected one of {', '.join(CURVES)}")
        pooled = self.pooled()
        recall, precision = pooled["recall"], pooled["precision"]
        if curve == "shrec":
            recall, precision = self.levels[: len(self.interpolated)], self.interpolated
        known = np.isfinite(recall) & np.isfinite(precision)
        return recall[known], precision[known]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of queries against a gallery.

    ``headline`` maps NN FT ST F E DCG ANMRR AUC mAP to values, ``headline_variants`` maps them to
    the key of ``variants`` they are. ``per_query`` has one row per query (null where the class is
    missing from the gallery), ``per_class`` one dictionary per evaluated class. Of the evaluated
    queries, in order: ``curve_hits`` int32 [Q, P], relevant items within each of ``curves.ranks``
    in gallery index order of ties, and ``f_hits`` float64 [Q], (expected) ones within the first 20.
    ``about`` holds what ``save`` was given beside the numbers. Tables and arrays that an older
    version did not write are empty.
    """

    options: Options
    headline: dict[str, float]
    headline_variants: dict[str, str]
    variants: dict[str, float]
    n_queries: int
    n_evaluated: int
    n_gallery: int
    n_max: int | None
    missing_labels: tuple[str, ...]
    ties: TieReport
    per_class: list[dict[str, Any]]
    curves: Curves
    per_query: pa.Table
    curve_hits: np.ndarray
    f_hits: np.ndarray
    warnings: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def n_missing(self) -> int:
        """Queries left out because the gallery has no item of their class."""
        return self.n_queries - self.n_evaluated

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON types (NaN as None), without ``about`` and the query table."""
        pooled = self.curves.pooled()
        twenty = {"recall": self.curves.levels, "precision": self.curves.interpolated}
        shown = pooled if self.options.protocol == "mi3dor" else twenty
        return _plain(
            {
                **self.headline,
                "headline_variants": self.headline_variants,
                "variants": self.variants,
                "n_queries": self.n_queries,
                "n_evaluated": self.n_evaluated,
                "n_missing": self.n_missing,
                "n_gallery": self.n_gallery,
                "n_max": self.n_max,
                "missing_labels": self.missing_labels,
                **asdict(self.options),
                "tie_report": asdict(self.ties),
                "warnings": self.warnings,
                "pr_recall": shown["recall"],
                "pr_precision": shown["precision"],
                "curves": {"pooled": pooled, "interpolated_20": twenty},
                "per_class": self.per_class,
            }
        )

    def query_table(self) -> pa.Table:
        """``per_query`` with ``f_hits`` and ``curve_hits`` (a list of P numbers a row) as columns.

        With these, whoever has the file can pool any choice of queries anew.
        """
        missing = self.per_query.column("n_relevant").to_numpy() == 0
        f_hits = np.zeros(len(missing))
        f_hits[~missing] = self.f_hits
        ends = np.cumsum(np.where(missing, 0, self.curve_hits.shape[1]))
        curve_hits = pa.ListArray.from_arrays(
            pa.array(np.concatenate(([0], ends)), type=pa.int32()),
            pa.array(self.curve_hits.ravel(), type=pa.int32()),
            mask=pa.array(missing),
        )
        table = self.per_query.append_column("f_hits", pa.array(f_hits, mask=missing))
        return table.append_column("curve_hits", curve_hits)

    def save(self, folder: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
        """Write ``metrics.json`` and ``per_query.parquet`` into ``folder``, each atomically.

        ``about``, plain JSON values, joins the former. It may say what was scored, for example.
        """
        folder = Path(folder)
        content = {**self.to_json(), **(about or {})}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        table = self.query_table()
        write_atomically(folder / QUERIES_FILE, lambda path: pq.write_table(table, path))
        # metrics.json is last: its presence says that the folder is complete.
        write_text_atomically(folder / METRICS_FILE, text + "\n")


def evaluation_folder(folder: str | Path) -> Path:
    """Where the files of an evaluation are: in ``folder`` itself, or in its ``evaluation``."""
    inner = Path(folder) / "evaluation"
    return inner if (inner / METRICS_FILE).is_file() else Path(folder)


def read_evaluation(folder: str | Path) -> Evaluation:
    """The evaluation that ``save`` wrote into ``folder``, or into its folder ``evaluation``.

    What an older version did not write takes its default or is empty; so is the per-query table
    where its file is missing.

    Raises ``EvaluationError`` that names the file and the remedy if ``metrics.json`` is missing, or
    a file cannot be read.
    """
    place = evaluation_folder(folder)
    metrics, queries = place / METRICS_FILE, place / QUERIES_FILE
    remedy = f"run `img2shape eval {folder}` first"
    if not metrics.is_file():
        raise EvaluationError(f"{metrics}: no such file; {remedy}")
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
        table = pq.read_table(queries) if queries.is_file() else pa.table({})
    except (OSError, ValueError, pa.ArrowException) as error:
        raise EvaluationError(f"{place}: cannot be read ({error}); {remedy}") from error
    try:
        return _from_files(content, table)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"{place}: not an evaluation's files ({error}); {remedy}") from error


def _from_files(content: Mapping[str, Any], table: pa.Table) -> Evaluation:
    if table.num_columns:
        table.select(["key", "label", "n_relevant"])  # KeyError for another table
    curves = _curves_from(content)
    options = {f.name: content[f.name] for f in fields(Options) if f.name in content}
    hits = [name for name in ("f_hits", "curve_hits") if name in table.column_names]
    return Evaluation(
        options=Options(**options),
        headline={name: _number(content[name]) for name in HEADLINES},
        headline_variants=content.get("headline_variants") or {},
        variants={k: _number(value) for k, value in (content.get("variants") or {}).items()},
        n_queries=content.get("n_queries", 0),
        n_evaluated=content.get("n_evaluated", 0),
        n_gallery=int(content["n_gallery"]),
        n_max=content.get("n_max"),
        missing_labels=tuple(content.get("missing_labels") or ()),
        ties=TieReport(**content.get("tie_report") or {"pairs": 0, "share": 0, "headlines": {}}),
        per_class=content.get("per_class") or [],
        curves=curves,
        per_query=table.drop_columns(hits),
        curve_hits=_curve_hits_from(table, len(curves.ranks)),
        f_hits=_f_hits_from(table),
        warnings=tuple(map(str, content.get("warnings") or ())),
        about={name: value for name, value in content.items() if name not in _OWN},
    )


# What metrics.json holds of an evaluation itself; every other name is from ``about``.
_OWN = {
    *HEADLINES,
    *(f.name for f in fields(Options)),
    *(f.name for f in fields(Evaluation)),
    *("n_missing", "tie_report", "pr_recall", "pr_precision"),
}


def _curves_from(content: Mapping[str, Any]) -> Curves:
    kept = content.get("curves") or {}
    # Older files have the pooled curve under these names alone.
    pooled = kept.get("pooled") or {
        name: content.get(f"pr_{name}") or [] for name in ("recall", "precision")
    }
    recall, precision = (_numbers(pooled[name]) for name in ("recall", "precision"))
    ranks = np.asarray(pooled.get("rank", range(1, len(recall) + 1)), dtype=np.int64)
    twenty = kept.get("interpolated_20") or {"precision": []}
    return Curves(ranks, recall, precision, _numbers(twenty["precision"]), ranks)


def _evaluated(table: pa.Table) -> pa.Table:
    return table.filter(pa.array(table.column("n_relevant").to_numpy() > 0))


def _f_hits_from(table: pa.Table) -> np.ndarray:
    if "f_hits" not in table.column_names:
        return np.empty(0)
    return np.asarray(_evaluated(table).column("f_hits").to_numpy(), dtype=np.float64)


def _curve_hits_from(table: pa.Table, points: int) -> np.ndarray:
    if "curve_hits" in table.column_names and points:
        rows = _evaluated(table)
        flat = rows.column("curve_hits").combine_chunks().flatten().to_numpy()
        if len(flat) == len(rows) * points:
            return flat.reshape(-1, points)
    return np.empty((0, points), dtype=np.int32)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array([_number(value) for value in values], dtype=np.float64)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
