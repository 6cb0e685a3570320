"""The result of an evaluation: numbers that say what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.atomic import write_atomically
from evalsuite.scoring.options import Options


@dataclass(frozen=True, eq=False)
class Curves:
    """Both precision-recall curves.

    ``pooled_recall``, ``pooled_precision`` float64 [G], one point per rank; ``interpolated``
    float64 [20], mean precision at recall 1/20 ... 1, NaN where no query takes part; always in
    gallery index order of ties. ``ranks`` int64, the at most 200 ranks kept in the JSON.
    """

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
        rows = self.ranks - 1
        return {
            "rank": self.ranks,
            "recall": self.pooled_recall[rows],
            "precision": self.pooled_precision[rows],
        }


@dataclass(frozen=True)
class TieReport:
    """What equal distances could change.

    ``share`` is the part of all relevant (query, item) pairs whose distance equals that of an item
    of another class. If there are any, the headline under the other rules: ``expected`` over random
    tie orders, ``optimistic`` (relevant first), ``pessimistic`` (relevant last), ``index``.
    """

    pairs: int
    share: float
    headlines: dict[str, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of queries against a gallery.

    ``headline`` maps NN FT ST F E DCG ANMRR AUC mAP to values, ``headline_variants`` maps them to
    the key of ``variants`` they are. ``per_query`` has one row per query (null where the class is
    missing from the gallery), ``per_class`` one dictionary per evaluated class. Of the evaluated
    queries, in order: ``curve_hits`` int32 [Q, P], relevant items within each of ``curves.ranks``
    in gallery index order of ties, and ``f_hits`` float64 [Q], (expected) ones within the first 20.
    """

    options: Options
    headline: dict[str, float]
    headline_variants: dict[str, str]
    variants: dict[str, float]
    n_queries: int
    n_evaluated: int
    n_gallery: int
    n_max: int
    missing_labels: tuple[str, ...]
    ties: TieReport
    per_class: list[dict[str, Any]]
    curves: Curves
    per_query: pa.Table
    curve_hits: np.ndarray
    f_hits: np.ndarray
    warnings: tuple[str, ...]

    @property
    def n_missing(self) -> int:
        """Queries left out because the gallery has no item of their class."""
        return self.n_queries - self.n_evaluated

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON types (NaN as None), without the per-query table."""
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

        With these whoever has the file can pool any choice of queries anew.
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

        ``about``, plain JSON values, joins the former: what was scored, say.
        """
        folder = Path(folder)
        content = {**self.to_json(), **(about or {})}
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        table = self.query_table()
        write_atomically(folder / "per_query.parquet", lambda path: pq.write_table(table, path))
        write_atomically(
            folder / "metrics.json", lambda path: path.write_text(text + "\n", encoding="utf-8")
        )  # last: its presence says the folder is complete


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
