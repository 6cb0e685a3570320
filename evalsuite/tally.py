"""Totals of one evaluation under one tie rule, block of queries by block.

Shape letters: Q evaluated queries, C classes, G gallery items.
"""

from __future__ import annotations

import math

import numpy as np

from evalsuite.metrics import F_CUT, PER_QUERY, WeightTables, hits_within, per_query_metrics
from evalsuite.pooled import HitHistogram, area_under, pooled_curve, pooled_f
from evalsuite.ranks import TieGroups

__all__ = ["Tally", "mean"]


def mean(values: np.ndarray) -> float:
    """Mean with a correctly rounded sum, so it does not depend on the order of the values."""
    return math.fsum(values) / len(values) if len(values) else math.nan


class Tally:
    """Per-query values of every metric and the pooled hit counts, for Q queries."""

    def __init__(
        self,
        ties: str,
        *,
        sizes: np.ndarray,
        class_ids: np.ndarray,
        gallery_size: int,
        largest_class: int,
    ) -> None:
        """``sizes`` int64 [Q] is n per query, ``class_ids`` int64 [Q] is 0..C-1."""
        self.ties = ties
        self.values = {name: np.empty(len(sizes)) for name in PER_QUERY}
        self.f_hits = np.empty(len(sizes))
        self.histogram = HitHistogram(gallery_size)
        self._sizes, self._class_ids = sizes, class_ids
        self._gallery_size, self._largest_class = gallery_size, largest_class
        self._classes = int(class_ids.max()) + 1

    def add(self, rows: slice, groups: TieGroups, tables: WeightTables) -> None:
        """Add the queries ``rows`` whose relevant items take the places ``groups``."""
        found = per_query_metrics(
            groups, tables, gallery_size=self._gallery_size, largest_class=self._largest_class
        )
        for name, values in found.items():
            self.values[name][rows] = values
        cut = np.full_like(groups.query, self.f_cut)
        self.f_hits[rows] = hits_within(groups, cut)
        self.histogram.add(groups)

    def copy(self, rows: slice, other: Tally, groups: TieGroups) -> None:
        """Take the values of ``rows`` from another rule that places ``groups`` alike."""
        for name, values in other.values.items():
            self.values[name][rows] = values[rows]
        self.f_hits[rows] = other.f_hits[rows]
        self.histogram.add(groups)

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
