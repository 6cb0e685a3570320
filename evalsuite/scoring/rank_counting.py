"""Counts before each relevant item of a block of queries, added over gallery shards.

Items are counted, never listed, so nothing of size queries x gallery exists. ``tile_counting``
counts inside a shard, ``relevant_ranks`` turns the counts into ranks.

Shape letters: Q queries of a block, M relevant (query, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.scoring.gallery import LevelName, Transport
from evalsuite.scoring.threads import run_in_threads
from evalsuite.scoring.tie_rules import BEFORE, NEARER, NEARER_OR_EQUAL
from evalsuite.vectors import EvaluationError

QUERIES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Counted:
    """The relevant items of a block, sorted by (query, distance, gallery index).

    Those of query q are the entries ``offsets[q]:offsets[q+1]``, ``offsets`` int64 [Q+1], of
    ``distance`` float32 [M] and ``counts`` int32 [3, M]. The counts are of all gallery items,
    relevant ones included, in rows NEARER, NEARER_OR_EQUAL and BEFORE of ``tie_rules``.
    """

    offsets: np.ndarray
    distance: np.ndarray
    counts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Relevant items per query, int64 [Q]."""
        return np.diff(self.offsets)


def count_before(
    transport: Transport,
    queries: np.ndarray,
    labels: np.ndarray,
    *,
    own: np.ndarray | None = None,
    level: LevelName = "class",
) -> Counted:
    """Ask every shard for the relevant distances, then for the counts before them.

    ``queries`` float32 [Q, D] in whatever form the shards take, ``labels`` [Q] their names of
    ``level``. ``own`` int64 [Q]: the gallery index of an item with the query's name that is not to
    count.
    """
    asked = () if level == "class" else (level,)
    parts = transport.broadcast("relevant", queries, labels, *asked)
    offsets, distance, index = _merged(parts)
    counts = transport.broadcast("count", queries, offsets, distance, index)
    total = counts[0].copy()
    for more in counts[1:]:
        total += more
    if own is None:
        return Counted(offsets, distance, total)
    return _without(own, offsets, distance, index, total)


def _without(
    own: np.ndarray,
    offsets: np.ndarray,
    distance: np.ndarray,
    index: np.ndarray,
    counts: np.ndarray,
) -> Counted:
    """The counts as they are without the item ``own`` int64 [Q] of each query in the gallery."""
    query = np.repeat(np.arange(len(own)), np.diff(offsets))
    dropped = index == own[query]
    if np.count_nonzero(dropped) != len(own):
        raise EvaluationError(
            "a query that is left out of its own ranking has another class or instance in the "
            "gallery; give it one"
        )
    place, at = own[query], distance[dropped][query]  # of the dropped item, for each pair
    counts[NEARER] -= at < distance
    counts[NEARER_OR_EQUAL] -= at <= distance
    counts[BEFORE] -= (at < distance) | ((at == distance) & (place < index))
    return Counted(offsets - np.arange(len(offsets)), distance[~dropped], counts[:, ~dropped])


def _merged(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevant items of all shards sorted by (query, distance, index): offsets [Q+1], two [M]."""
    counts = np.stack([counts for counts, _, _ in parts])
    offsets = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
    keys = np.empty(offsets[-1], dtype=np.uint64)
    filled = offsets[:-1].copy()
    for held, distance, index in parts:
        own = _order_keys(distance).astype(np.uint64) << np.uint64(32)
        own |= index.astype(np.uint64)
        if len(parts) == 1:
            keys = own
            break
        begins = np.cumsum(held) - held
        keys[np.repeat(filled - begins, held) + np.arange(len(distance))] = own
        filled += held

    def sort(first: int) -> None:
        for q in range(first, min(first + QUERIES_AT_ONCE, len(offsets) - 1)):
            keys[offsets[q] : offsets[q + 1]].sort()

    run_in_threads(sort, range(0, len(offsets) - 1, QUERIES_AT_ONCE))
    index = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return offsets, _from_order_keys((keys >> np.uint64(32)).astype(np.uint32)), index


def _order_keys(distance: np.ndarray) -> np.ndarray:
    """Map float32 to uint32 of the same order: -0.0 as 0.0, NaN above +inf."""
    plain = distance + np.float32(0.0)
    plain[np.isnan(plain)] = np.nan  # a NaN may carry a sign
    bits = plain.view(np.uint32)
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones where negative
    return bits ^ (negative | np.uint32(1 << 31))


def _from_order_keys(keys: np.ndarray) -> np.ndarray:
    positive = (keys.view(np.int32) >> 31).view(np.uint32)
    return (keys ^ (~positive | np.uint32(1 << 31))).view(np.float32)
