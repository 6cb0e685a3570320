"""The totals of an evaluation under one tie rule: per-query metrics, and metrics that pool queries.

Pooled are the precision-recall curve per rank, its area, and F at 20.

Shape letters: Q evaluated queries, C classes, G gallery items.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evalsuite.scoring.metrics import F_CUT, PER_QUERY, SUMS, WeightTables, per_query_metrics
from evalsuite.scoring.tie_rules import TIE_RULES

if TYPE_CHECKING:  # relevant_ranks loads numba
    from evalsuite.scoring.relevant_ranks import BlockScores


_SHOWN = {"AP": "mAP", "AP_retrieved": "mAP_retrieved", "F_query": "F_query_mean"}


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
        ap_cut: int,
    ) -> None:
        """``sizes`` int64 [Q] is n per query, ``class_ids`` int64 [Q] is 0..C-1."""
        self._ap_cut = ap_cut
        self._ties = ties
        self._histogram = HitHistogram(gallery_size)
        self._sizes, self._class_ids, self._tables = sizes, class_ids, tables
        self._gallery_size, self._largest_class = gallery_size, largest_class
        self._classes = int(class_ids.max()) + 1
        self._sums = np.empty((len(sizes), len(SUMS)))

    def add(self, rows: np.ndarray, block: BlockScores) -> None:
        """Add the queries ``rows`` int64 [q]."""
        rule = TIE_RULES.index(self._ties)
        self._sums[rows] = block.sums[rule]
        self._histogram.add_ranks(block.ranks[rule])
        if self._ties == "expected" and block.tied:
            self._histogram.add_groups(block.groups[:, block.groups[1] > 0])

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Every metric of ``PER_QUERY``, float64 [Q]; asked for when all queries are in."""
        return per_query_metrics(
            self._sums,
            self._sizes,
            self._tables,
            gallery_size=self._gallery_size,
            largest_class=self._largest_class,
            ap_cut=self._ap_cut,
        )

    @property
    def f_hits(self) -> np.ndarray:
        """(Expected) relevant items within ``f_cut`` ranks, float64 [Q]."""
        return self._sums[:, SUMS.index("within_20")]

    @property
    def f_cut(self) -> int:
        """20, or the gallery size if that is smaller."""
        return min(F_CUT, self._gallery_size)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The pooled PR curve: recall and precision, float64 [G]."""
        return pooled_curve(
            self._histogram.cumulative(),
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
            shown = _SHOWN.get(name, name)
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
        area = "AUC_of_expected_curve" if self._ties == "expected" else "AUC"
        result[area] = area_under(recall, precision)
        result[f"{area}_anchored"] = area_under(recall, precision, anchored=True)
        return result


class HitHistogram:
    """How many relevant items, over all queries, sit at each rank 1..G.

    Known ranks are counted in int64. A tie group spreads a fraction of an item over a range of
    ranks; these are added in query order, so the result does not depend on blocks of queries.
    """

    def __init__(self, gallery_size: int) -> None:
        self._counts = np.zeros(gallery_size, dtype=np.int64)
        # Two arrays, so that each is added to in query order. One array would see the ends of a
        # block before the starts of the next, and would round differently for another block size.
        self._starts = np.zeros(gallery_size + 1)
        self._ends = np.zeros(gallery_size + 1)
        self._spread = False

    def add_ranks(self, ranks: np.ndarray) -> None:
        """Add relevant items at known ranks int32 [M], 1..G; entries 0 are left out."""
        self._counts += np.bincount(ranks, minlength=len(self._counts) + 1)[1:]

    def add_groups(self, groups: np.ndarray) -> None:
        """Add tie groups int32 [3, U], in query order: start (items before), size, relevant."""
        if groups.shape[1]:
            self._spread = True
            start, size, relevant = groups
            share = relevant / size
            np.add.at(self._starts, start, share)
            np.add.at(self._ends, start + size, share)

    def cumulative(self) -> np.ndarray:
        """H(K), relevant items within the first K ranks, K = 1..G; int64, or float64 with ties."""
        hits = np.cumsum(self._counts)
        if not self._spread:
            return hits
        spread = np.cumsum(self._starts) - np.cumsum(self._ends)
        return hits + np.cumsum(spread[:-1])


def pooled_curve(hits: np.ndarray, *, queries: int, relevant: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall H(K)/N and precision H(K)/(Q K) at every rank, float64 [G] each."""
    rank = np.arange(1, len(hits) + 1, dtype=np.float64)
    return hits / relevant, hits / (queries * rank)


def area_under(recall: np.ndarray, precision: np.ndarray, *, anchored: bool = False) -> float:
    """Trapezoid area under a PR curve; ``anchored`` prepends the point (0, P(1)).

    Without the anchor nothing lies left of the first point, so a perfect run stays below 1.
    """
    if anchored:
        recall = np.concatenate(([0.0], recall))
        precision = np.concatenate((precision[:1], precision))
    return math.fsum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2.0)


def pooled_f(hits: float, *, queries: int, relevant: int, cut: int) -> float:
    """F1 from hits within ``cut`` ranks summed over queries: 2 h / (Q k + N)."""
    return 2.0 * hits / (queries * cut + relevant)


def curve_ranks(gallery_size: int, *, points: int = 200) -> np.ndarray:
    """At most ``points`` ranks from 1 to G for plotting: dense at the head, even in the tail."""
    if gallery_size <= points:
        return np.arange(1, gallery_size + 1)
    head = np.geomspace(1, gallery_size, points // 2)
    tail = np.linspace(1, gallery_size, points - points // 2)
    return np.unique(np.rint(np.concatenate((head, tail))).astype(np.int64))
