"""Ranks of the relevant items, from counts that add over gallery shards.

With the relevant items of a query ordered by (distance, gallery index), the i-th has rank
i + (irrelevant items ordered before it). Irrelevant items are counted, never listed, so nothing
of size queries x gallery exists.

Shape letters: Q queries of a block, M relevant (query, item) pairs, U tie groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.embeddings import EvaluationError
from evalsuite.gallery import Transport

__all__ = ["RelevantItems", "TieGroups", "relevant_items"]


@dataclass(frozen=True, eq=False)
class TieGroups:
    """The places relevant items take, group by group, sorted by query and rank.

    Group u belongs to query ``query[u]``, follows ``start[u]`` better-ranked items and fills the
    next ``size[u]`` ranks, over which ``relevant[u]`` relevant items are spread evenly;
    ``prior[u]`` relevant items are ranked before it. An item with a known rank r is a group of
    size 1 after r - 1 items. All int64 [U]; ``sizes`` int64 [Q] is n, the number of relevant items
    per query.
    """

    query: np.ndarray
    start: np.ndarray
    size: np.ndarray
    relevant: np.ndarray
    prior: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True, eq=False)
class RelevantItems:
    """The relevant items of a block of queries, sorted by (query, distance, gallery index).

    All int64 [M]: ``query`` 0..Q-1; ``position`` i = 1..n; ``nearer`` irrelevant items strictly
    nearer; ``equal`` irrelevant items at the same distance; ``before`` irrelevant items ordered
    before it by (distance, index); ``prior`` and ``together`` relevant items strictly nearer, and
    at the same distance (itself included). ``sizes`` int64 [Q] is n per query.
    """

    query: np.ndarray
    position: np.ndarray
    nearer: np.ndarray
    equal: np.ndarray
    before: np.ndarray
    prior: np.ndarray
    together: np.ndarray
    sizes: np.ndarray

    @property
    def tied(self) -> int:
        """How many relevant items share their distance with an irrelevant one."""
        return int(np.count_nonzero(self.equal))

    def groups(self, ties: str) -> TieGroups:
        """Places under a tie rule: ``index``, ``optimistic``, ``pessimistic`` or ``expected``."""
        if ties == "expected":
            return self._expected()
        behind = {
            "index": self.before,
            "optimistic": self.nearer,
            "pessimistic": self.nearer + self.equal,
        }[ties]
        one = np.ones_like(self.query)
        start = self.position - 1 + behind
        return TieGroups(self.query, start, one, one, self.position - 1, self.sizes)

    def _expected(self) -> TieGroups:
        """Relevant items tied with irrelevant ones merge into one group; others keep their rank."""
        mixed = self.equal > 0
        kept = ~mixed | (self.position == self.prior + 1)  # a mixed group is kept by its first item
        start = np.where(mixed, self.prior, self.position - 1) + self.nearer
        relevant = np.where(mixed, self.together, 1)
        size = np.where(mixed, self.together + self.equal, 1)
        prior = np.where(mixed, self.prior, self.position - 1)
        return TieGroups(
            self.query[kept], start[kept], size[kept], relevant[kept], prior[kept], self.sizes
        )


def relevant_items(
    transport: Transport, queries: np.ndarray, labels: np.ndarray, *, gallery_size: int
) -> RelevantItems:
    """Ask every shard for the relevant distances, then for the counts before them.

    ``queries`` float32 [Q, D] in whatever form the shards take, ``labels`` [Q] class names.
    """
    parts = transport.broadcast("relevant", queries, labels)
    offsets, distance, index = _merge(parts)
    counted = transport.broadcast("count", queries, offsets, distance, index)
    return _subtract_relevant(offsets, distance, np.sum(counted, axis=0), gallery_size)


def _merge(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevant items of all shards sorted by (query, distance, index): offsets [Q+1], two [M]."""
    counts = np.stack([counts for counts, _, _ in parts])
    rows = np.arange(counts.shape[1])
    query = np.concatenate([np.repeat(rows, shard) for shard in counts])
    distance = np.concatenate([distance for _, distance, _ in parts])
    index = np.concatenate([index for _, _, index in parts])
    order = np.lexsort((index, distance, query))
    offsets = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
    return offsets, distance[order], index[order]


def _subtract_relevant(
    offsets: np.ndarray, distance: np.ndarray, counted: np.ndarray, gallery_size: int
) -> RelevantItems:
    """Counts over all items, int64 [3, M], to counts over irrelevant items."""
    sizes = np.diff(offsets)
    query = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(query)) - offsets[query] + 1
    new_run = np.ones(len(query), dtype=bool)
    new_run[1:] = (query[1:] != query[:-1]) | (distance[1:] != distance[:-1])
    run = np.cumsum(new_run) - 1
    together = np.bincount(run)[run] if len(run) else run
    prior = (position - 1)[new_run][run]
    nearer = counted[0] - prior
    equal = counted[1] - counted[0] - together
    before = counted[2] - (position - 1)
    # NaN comes after everything, and among NaN the irrelevant items come first.
    lost = np.isnan(distance)
    nearer[lost] = before[lost] = (gallery_size - sizes[query])[lost]
    equal[lost] = 0
    if (nearer < 0).any() or (equal < 0).any() or (before < nearer).any():
        raise EvaluationError(
            "gallery shards disagree about distances; build all of them with one version"
        )
    return RelevantItems(query, position, nearer, equal, before, prior, together, sizes)
