"""Totals of one evaluation under one tie rule, block of queries by block.

Shape letters: Q evaluated queries, C classes, G gallery items.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from evalsuite.scoring.metrics import (
    F_CUT,
    PER_QUERY,
    TIE_RULES,
    BlockScores,
    WeightTables,
    per_query_metrics,
)
from evalsuite.scoring.pooled import HitHistogram, area_under, pooled_curve, pooled_f
from evalsuite.scoring.relevant_ranks import CELLS


def mean(values: np.ndarray) -> float:
    """Mean with a correctly rounded sum, so it does not depend on the order of the values."""
    return math.fsum(values) / len(values) if len(values) else math.nan


class Tally:
    """Sums of every query and the pooled hit counts under one tie rule; in the end all metrics."""

    def __init__(
        self,
        ties: str,
        *,
        sizes: np.ndarray,
        class_ids: np.ndarray,
        tables: WeightTables,
        gallery_size: int,
        largest_class: int,
    ) -> None:
        """``sizes`` int64 [Q] is n per query, ``class_ids`` int64 [Q] is 0..C-1."""
        self.ties = ties
        self.histogram = HitHistogram(gallery_size)
        self._sizes, self._class_ids, self._tables = sizes, class_ids, tables
        self._gallery_size, self._largest_class = gallery_size, largest_class
        self._classes = int(class_ids.max()) + 1
        self._sums = np.empty((len(sizes), len(CELLS)))

    def add(self, rows: np.ndarray, block: BlockScores) -> None:
        """Add the queries ``rows`` int64 [q]."""
        rule = TIE_RULES.index(self.ties)
        self._sums[rows] = block.sums[rule]
        self.histogram.add_ranks(block.ranks[rule])
        if self.ties == "expected" and block.tied:
            self.histogram.add_groups(block.groups[:, block.groups[1] > 0])

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Every metric of ``PER_QUERY``, float64 [Q]; asked for when all queries are in."""
        return per_query_metrics(
            self._sums,
            self._sizes,
            self._tables,
            gallery_size=self._gallery_size,
            largest_class=self._largest_class,
        )

    @property
    def f_hits(self) -> np.ndarray:
        """(Expected) relevant items within ``f_cut`` ranks, float64 [Q]."""
        return self._sums[:, CELLS.index("within_20")]

    @property
    def f_cut(self) -> int:
        """20, or the gallery size if that is smaller."""
        return min(F_CUT, self._gallery_size)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The pooled PR curve: recall and precision, float64 [G]."""
        return pooled_curve(
            self.histogram.cumulative(),
            queries=len(self._sizes),
            relevant=int(self._sizes.sum()),
        )

    def class_means(self) -> dict[str, np.ndarray]:
        """Mean of each per-query metric over the queries of each class, float64 [C]."""
        count = np.bincount(self._class_ids, minlength=self._classes)
        return {
            name: np.bincount(self._class_ids, weights=values, minlength=self._classes) / count
            for name, values in self.values.items()
        }

    def class_f(self) -> np.ndarray:
        """F at 20 pooled within each class, float64 [C]."""
        count = np.bincount(self._class_ids, minlength=self._classes)
        hits = np.bincount(self._class_ids, weights=self.f_hits, minlength=self._classes)
        relevant = np.bincount(self._class_ids, weights=self._sizes, minlength=self._classes)
        return 2.0 * hits / (count * self.f_cut + relevant)

    def variants(self) -> dict[str, float]:
        """Every metric in every variant, by name."""
        result: dict[str, float] = {}
        class_means = self.class_means()
        for name in PER_QUERY:
            shown = {"AP": "mAP", "F_query": "F_query_mean"}.get(name, name)
            result[shown] = mean(self.values[name])
            result[f"{shown.removesuffix('_mean')}_class_mean"] = mean(class_means[name])
        result["F_pooled"] = pooled_f(
            math.fsum(self.f_hits),
            queries=len(self._sizes),
            relevant=int(self._sizes.sum()),
            cut=self.f_cut,
        )
        result["F_class"] = mean(self.class_f())
        recall, precision = self.curve()
        area = "AUC_of_expected_curve" if self.ties == "expected" else "AUC"
        result[area] = area_under(recall, precision)
        result[f"{area}_anchored"] = area_under(recall, precision, anchored=True)
        return result
