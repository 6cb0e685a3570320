"""Metrics that pool all queries: the PR curve per rank, its area, and F at 20.

Shape letters: G gallery items, C classes.
"""

from __future__ import annotations

import math

import numpy as np


class HitHistogram:
    """How many relevant items, over all queries, sit at each rank 1..G.

    Known ranks are counted in int64. A tie group spreads a fraction of an item over a range of
    ranks; these are added in query order, so the result does not depend on blocks of queries.
    """

    def __init__(self, gallery_size: int) -> None:
        self._counts = np.zeros(gallery_size, dtype=np.int64)
        # Apart, because each is then added to in query order; one array would see the ends of a
        # block before the starts of the next, and round differently for another block size.
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
