"""Count, inside a shard, the items of a tile that come before the thresholds of each query.

A threshold is the (distance, gallery index) of a relevant item. The range of a query's thresholds
is cut into equal parts. One multiplication gives an item's part. Most parts hold so few thresholds
that a fixed number of steps without branches ends the search; bisection finds the other items.

Shape letters: Q queries, M thresholds (relevant pairs, query after query), G items of a tile.
"""

from __future__ import annotations

import numpy as np

from evalsuite.scoring.compiled import compiled
from evalsuite.scoring.tie_rules import BEFORE, NEARER, NEARER_OR_EQUAL

# With more parts the tables no longer fit the processor's cache; with fewer, more steps are needed.
BUCKETS = 2  # parts for each threshold
STEPS = 2  # without a branch, from the start of a part; most items reach their place within them


@compiled
def search_tables(offsets, distance):
    """What ``count_tile`` searches: each query's sorted thresholds and entry points into them.

    ``offsets`` int64 [Q+1] into ``distance`` float32 [M], which ascends within a query, NaN last.
    A query with n thresholds has ``BUCKETS`` n equal parts of their range.

    Returns ``first`` int32 [BUCKETS M + Q]: for each part the number (0..n) of thresholds before
    it, and one entry for the end of each query; ``fenced`` float32 [M + 2Q]: the thresholds of each
    query between two NaN, for which no comparison is true; ``low``, ``scale`` float32 [Q]: an
    item's part is (distance - low) * scale.
    """
    queries = len(offsets) - 1
    first = np.zeros(BUCKETS * len(distance) + queries, dtype=np.int32)
    fenced = np.empty(len(distance) + 2 * queries, dtype=np.float32)
    low = np.zeros(queries, dtype=np.float32)
    scale = np.zeros(queries, dtype=np.float32)
    for q in range(queries):
        start, n = offsets[q], offsets[q + 1] - offsets[q]
        fenced[start + 2 * q] = np.nan
        fenced[start + 2 * q + n + 1] = np.nan
        if n == 0:
            continue
        fenced[start + 2 * q + 1 : start + 2 * q + n + 1] = distance[start : start + n]
        known = n
        while known > 0 and np.isnan(distance[start + known - 1]):
            known -= 1
        left, right = 0, known - 1
        while left < known and np.isinf(distance[start + left]):
            left += 1
        while right > left and np.isinf(distance[start + right]):
            right -= 1
        top = np.float32(BUCKETS * n - 1)
        if left < right:
            low[q] = distance[start + left]
            spread = distance[start + right] - distance[start + left]
            if spread > 0 and not np.isinf(top / spread):
                scale[q] = top / spread
        table = BUCKETS * start + q
        for i in range(known):
            x = (distance[start + i] - low[q]) * scale[q]
            x = x if x > 0 else np.float32(0)
            x = x if x < top else top
            first[table + np.int32(x) + 1] += 1
        for b in range(BUCKETS * n):
            first[table + b + 1] += first[table + b]
    return first, fenced, low, scale


@compiled
def count_tile(tile, place, row, offsets, index, first, fenced, low, scale, counts):
    """Add where the items of a tile fall among the thresholds; ``cumulate`` turns it into counts.

    ``tile`` float32 [q, G] holds the distances of queries ``row``, ``row + 1``, ... to items with
    global indices ``place`` int64 [G]; of each query the thresholds (distance, ``index``) ascend.
    ``counts`` int32 [3, M + Q] has n + 1 places a query. Row NEARER counts an item at the first
    threshold that is farther. For an item at the distance of a threshold, row NEARER_OR_EQUAL has
    +1 at the first threshold that is not nearer and -1 at the first that is farther; row BEFORE has
    the same for the first threshold that is ordered behind the item.
    """
    items = tile.shape[1]
    part = np.empty(items, dtype=np.int32)
    at = np.empty(items, dtype=np.int32)
    tied = np.empty(items, dtype=np.int32)
    for t in range(tile.shape[0]):
        q = row + t
        start, n = offsets[q], offsets[q + 1] - offsets[q]
        if n == 0:
            continue
        values = tile[t]
        entry = first[BUCKETS * start + q : BUCKETS * (start + n) + q + 1]
        fence = fenced[start + 2 * q : start + 2 * q + n + 2]
        found = counts[NEARER, start + q : start + q + n + 1]
        base, factor, top = low[q], scale[q], np.float32(BUCKETS * n - 1)
        lost = 0
        # Separate short loops without branches, so that the compiler vectorises them.
        for j in range(items):
            x = (values[j] - base) * factor
            x = x if x > 0 else np.float32(0)
            x = x if x < top else top
            part[j] = np.int32(x)
            lost += values[j] != values[j]
        for j in range(items):
            at[j] = entry[np.uint32(part[j])]
        for _ in range(STEPS):
            for j in range(items):  # the NaN behind the last threshold ends the steps
                at[j] += fence[np.uint32(at[j]) + np.uint32(1)] <= values[j]
        ties = 0
        for j in range(items):
            u = np.uint32(at[j])
            if fence[u + np.uint32(1)] <= values[j]:
                end = np.uint32(entry[np.uint32(part[j]) + np.uint32(1)])
                u = _search(fence, u + np.uint32(1), end, values[j])
                at[j] = u
            found[u] += 1
            if fence[u] == values[j]:
                tied[ties] = j
                ties += 1
        own = index[start : start + n]
        for k in range(ties):
            _count_tie(fence, at[tied[k]], place[tied[k]], own, counts, start + q)
        if lost:  # NaN items were counted at place 0, but come before no threshold
            found[0] -= lost


@compiled
def _search(fence, u, end, value):
    """How many thresholds are not farther than ``value``, known to be ``u`` to ``end``."""
    one = np.uint32(1)
    while u < end:
        middle = (u + end) >> one
        if fence[middle + one] <= value:
            u = middle + one
        else:
            end = middle
    return u


@compiled
def _count_tie(fence, u, place, index, counts, at):
    """Count an item whose distance equals that of a run of thresholds; ``u`` is behind the run.

    Finds where the run begins and which of its thresholds the item follows. ``at`` is where the
    query's counts begin.
    """
    value = fence[u]
    left = u - 1
    if fence[left] == value:
        low = 0
        while low < left:
            middle = (low + left) // 2
            if fence[middle + 1] < value:
                low = middle + 1
            else:
                left = middle
    behind, end = left, u
    while behind < end:
        middle = (behind + end) // 2
        if index[middle] <= place:
            behind = middle + 1
        else:
            end = middle
    counts[NEARER_OR_EQUAL, at + left] += 1
    counts[NEARER_OR_EQUAL, at + u] -= 1
    if behind < u:  # false for an item that is itself a threshold, the most frequent tie
        counts[BEFORE, at + behind] += 1
        counts[BEFORE, at + u] -= 1


@compiled
def cumulate(offsets, counts, total):
    """Add the counts of each threshold to ``total`` int32 [3, M], from what ``count_tile`` left in
    ``counts``."""
    for q in range(len(offsets) - 1):
        nearer = tied = before = 0
        for i in range(offsets[q], offsets[q + 1]):
            nearer += counts[NEARER, i + q]
            tied += counts[NEARER_OR_EQUAL, i + q]
            before += counts[BEFORE, i + q]
            total[NEARER, i] += nearer
            total[NEARER_OR_EQUAL, i] += nearer + tied
            total[BEFORE, i] += nearer + before
