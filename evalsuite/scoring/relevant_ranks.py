"""The ranks of the relevant items under every tie rule, and the sums that all metrics are made of.

With the relevant items of a query in the order (distance, gallery index), the i-th has rank
i + (irrelevant items ordered before it). The counts say how many items these are.

Let s items stand before a group of t equally distant items, m of them relevant. Where the other
tie rules add a weight w(rank) for each of the m, ``expected`` adds (m/t) (w(s+1) + ... + w(s+t)).

Importing this file loads numba.

Shape letters: Q queries, M relevant pairs (query after query), G gallery items, P curve ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalsuite.scoring.compiled import compiled
from evalsuite.scoring.metrics import (
    E_CUT,
    F_CUT,
    LEVELS,
    LOG2P1,
    LOG2P1_WITHIN_N,
    PRECISIONS,
    PRECISIONS_WITHIN_CUT,
    PSB,
    PSB_WITHIN_N,
    RANK2_WITHIN_N,
    RANKS_WITHIN_N,
    RANKS_WITHIN_WINDOW,
    SUMS,
    WITHIN_1,
    WITHIN_2N,
    WITHIN_2N_MINUS_1,
    WITHIN_20,
    WITHIN_32,
    WITHIN_N,
    WITHIN_WINDOW,
    WeightTables,
)
from evalsuite.scoring.rank_counting import Counted
from evalsuite.scoring.threads import run_in_threads, thread_count
from evalsuite.scoring.tie_rules import (
    BEFORE,
    EXPECTED,
    INDEX,
    NEARER,
    NEARER_OR_EQUAL,
    OPTIMISTIC,
    PESSIMISTIC,
    TIE_RULES,
)
from evalsuite.vectors import EvaluationError

# Rows of ``groups``: the items before a tie group, its size, and its relevant items.
GROUP_START, GROUP_SIZE, GROUP_RELEVANT = range(3)


@dataclass(frozen=True, eq=False)
class BlockScores:
    """What a block of queries adds; R tie rules in the order of ``TIE_RULES``.

    - ``sums`` float64 [R, Q, len(SUMS)];
    - ``ranks`` int32 [R, M]; row EXPECTED is 0 for items of a tie group;
    - ``groups`` int32 [3, M]: start, size and relevant items of a tie group at its first item,
      else 0;
    - ``curve_hits`` int32 [Q, P]: relevant items within each rank of the curve, by the tie rule
      ``index``;
    - ``levels`` float64 [Q, 20]: interpolated precision, by the same rule;
    - ``tied``: how many relevant items share their distance with an irrelevant one.
    """

    sums: np.ndarray
    ranks: np.ndarray
    groups: np.ndarray
    curve_hits: np.ndarray
    levels: np.ndarray
    tied: int


def score_block(
    counted: Counted,
    tables: WeightTables,
    *,
    gallery_size: int,
    largest_class: int,
    ap_cut: int,
    curve: np.ndarray,
) -> BlockScores:
    """Ranks and sums of a block, on several threads; ``curve`` int64 [P] are ascending ranks.

    ``ap_cut``: ranks that count in the AP of what is retrieved.

    Raises ``EvaluationError`` if the counts contradict each other.
    """
    queries, pairs = len(counted.sizes), len(counted.distance)
    sums = np.zeros((len(TIE_RULES), queries, len(SUMS)))
    ranks = np.zeros((len(TIE_RULES), pairs), dtype=np.int32)
    groups = np.zeros((3, pairs), dtype=np.int32)
    curve_hits = np.empty((queries, len(curve)), dtype=np.int32)
    levels = np.empty((queries, LEVELS))
    ends = np.linspace(0, queries, thread_count() + 1).astype(int)
    tied = np.zeros(len(ends) - 1, dtype=np.int64)

    def score(part: int) -> None:
        tied[part] = score_queries(
            ends[part],
            ends[part + 1],
            counted.offsets,
            counted.distance,
            counted.counts,
            gallery_size,
            largest_class,
            min(F_CUT, gallery_size),
            min(E_CUT, gallery_size),
            min(ap_cut, gallery_size),
            tables.weights,
            tables.running,
            curve,
            sums,
            ranks,
            groups,
            curve_hits,
            levels,
        )

    run_in_threads(score, range(len(tied)))
    if (tied < 0).any():
        raise EvaluationError(
            "gallery shards disagree about distances; build all of them with one version"
        )
    return BlockScores(sums, ranks, groups, curve_hits, levels, int(tied.sum()))


@compiled
def _add_rank(sums, rank, position, cuts, weights):
    """Add the ``position``-th relevant item of a query, at ``rank``, to its sums."""
    n, window, cut_f, cut_e, cut_ap = cuts
    psb, rank2, log2p1 = weights
    if rank == 1:
        sums[WITHIN_1] += 1.0
    if rank <= 2 * n:
        sums[WITHIN_2N] += 1.0
        if rank < 2 * n:
            sums[WITHIN_2N_MINUS_1] += 1.0
    if rank <= cut_e:
        sums[WITHIN_32] += 1.0
        if rank <= cut_f:
            sums[WITHIN_20] += 1.0
    if rank <= window:
        sums[WITHIN_WINDOW] += 1.0
        sums[RANKS_WITHIN_WINDOW] += rank
    if rank <= n:
        sums[WITHIN_N] += 1.0
        sums[RANKS_WITHIN_N] += rank
        sums[PSB_WITHIN_N] += psb[rank]
        sums[LOG2P1_WITHIN_N] += log2p1[rank]
    if rank <= max(n, 2):
        sums[RANK2_WITHIN_N] += rank2[rank]
    sums[PSB] += psb[rank]
    sums[LOG2P1] += log2p1[rank]
    sums[PRECISIONS] += position / rank
    if rank <= cut_ap:
        sums[PRECISIONS_WITHIN_CUT] += position / rank


@compiled
def _hits(share, start, size, cut):
    return share * (min(start + size, cut) - min(start, cut))


@compiled
def _ranks(share, start, size, cut):
    low, high = min(start, cut), min(start + size, cut)
    return share * ((high * (high + 1) - low * (low + 1)) // 2)


@compiled
def _gain(share, start, size, cut, up_to):
    return share * (up_to[min(start + size, cut)] - up_to[min(start, cut)])


@compiled
def _precisions(start, size, cut, prior, slope, harmonic):
    low, high = min(start, cut), min(start + size, cut)
    inverse = harmonic[high] - harmonic[low]  # sum of 1/(start+a) up to the cut
    climb = (high - low) - (start + 1) * inverse  # sum of (a-1)/(start+a)
    return (prior + 1) * inverse + slope * climb


@compiled
def add_expected(sums, start, size, relevant, prior, cuts, running):
    """Add the mean over all orders of a tie group.

    The group has ``size`` items, ``relevant`` of them relevant; ``start`` items stand before it,
    ``prior`` of them relevant. ``running`` holds the cumulative weights.
    """
    n, window, cut_f, cut_e, cut_ap = cuts
    psb, rank2, log2p1, harmonic = running
    share = relevant / size
    sums[WITHIN_1] += _hits(share, start, size, 1)
    sums[WITHIN_N] += _hits(share, start, size, n)
    sums[WITHIN_2N_MINUS_1] += _hits(share, start, size, 2 * n - 1)
    sums[WITHIN_2N] += _hits(share, start, size, 2 * n)
    sums[WITHIN_20] += _hits(share, start, size, cut_f)
    sums[WITHIN_32] += _hits(share, start, size, cut_e)
    sums[WITHIN_WINDOW] += _hits(share, start, size, window)
    sums[RANKS_WITHIN_N] += _ranks(share, start, size, n)
    sums[RANKS_WITHIN_WINDOW] += _ranks(share, start, size, window)
    sums[PSB_WITHIN_N] += _gain(share, start, size, n, psb)
    sums[RANK2_WITHIN_N] += _gain(share, start, size, max(n, 2), rank2)
    sums[LOG2P1_WITHIN_N] += _gain(share, start, size, n, log2p1)
    sums[PSB] += _gain(share, start, size, start + size, psb)
    sums[LOG2P1] += _gain(share, start, size, start + size, log2p1)
    # The a-th place holds a relevant item with probability relevant/size, and then on average
    # (a-1)(relevant-1)/(size-1) others of the group are relevant before it.
    slope = (relevant - 1) / (size - 1)
    sums[PRECISIONS] += share * _precisions(start, size, start + size, prior, slope, harmonic)
    sums[PRECISIONS_WITHIN_CUT] += share * _precisions(start, size, cut_ap, prior, slope, harmonic)


@compiled
def score_queries(
    begin,
    end,
    offsets,
    distance,
    counted,
    gallery_size,
    largest_class,
    cut_f,
    cut_e,
    cut_ap,
    weight_rows,
    running_rows,
    curve,
    sums,
    ranks,
    groups,
    curve_hits,
    levels,
):
    """Ranks and sums of queries ``begin`` to ``end`` from counts over all items.

    ``counted`` int32 [3, M] are the counts of ``Counted``; ``weight_rows`` and ``running_rows`` are
    those of ``WeightTables``. Fills ``sums``, ``ranks``, ``groups``, ``curve_hits`` and ``levels``,
    see ``BlockScores``. Returns the number of relevant items that tie with an irrelevant one, or -1
    if the counts contradict each other.
    """
    weights = (weight_rows[0], weight_rows[1], weight_rows[2])
    running = (running_rows[0], running_rows[1], running_rows[2], running_rows[3])
    all_tied = 0
    common = np.zeros(len(SUMS))  # of the items that no rule moves
    for q in range(begin, end):
        start = offsets[q]
        n = offsets[q + 1] - start
        cuts = (n, min(4 * n, 2 * largest_class), cut_f, cut_e, cut_ap)
        common[:] = 0.0
        run = run_end = 0
        for i in range(n):
            at = start + i
            if i == run_end:
                run = i
                run_end = i + 1
                while run_end < n and distance[start + run_end] == distance[at]:
                    run_end += 1
            together = run_end - run
            nearer = counted[NEARER, at] - run
            equal = counted[NEARER_OR_EQUAL, at] - counted[NEARER, at] - together
            before = counted[BEFORE, at] - i
            # NaN comes after everything, and among NaN the irrelevant items come first.
            if np.isnan(distance[at]):
                nearer = before = gallery_size - n
                equal = 0
            if nearer < 0 or equal < 0 or before < nearer or before > nearer + equal:
                return -1
            position = i + 1
            ranks[INDEX, at] = position + before
            ranks[OPTIMISTIC, at] = position + nearer
            ranks[PESSIMISTIC, at] = position + nearer + equal
            if equal == 0:
                ranks[EXPECTED, at] = position + nearer
                _add_rank(common, position + nearer, position, cuts, weights)
                continue
            all_tied += 1
            for rule in (INDEX, OPTIMISTIC, PESSIMISTIC):
                _add_rank(sums[rule, q], ranks[rule, at], position, cuts, weights)
            if i == run:
                size = together + equal
                groups[GROUP_START, at] = run + nearer
                groups[GROUP_SIZE, at] = size
                groups[GROUP_RELEVANT, at] = together
                add_expected(sums[EXPECTED, q], run + nearer, size, together, run, cuts, running)
        for rule in range(len(TIE_RULES)):
            for name in range(len(common)):
                sums[rule, q, name] += common[name]
        _fill_curve(ranks[INDEX, start : start + n], curve, curve_hits[q])
        _fill_levels(ranks[INDEX, start : start + n], levels[q])
    return all_tied


@compiled
def _fill_curve(ranks, curve, hits):
    """Relevant items within each rank of ``curve``, from their ascending ``ranks``."""
    found = 0
    for p in range(len(curve)):
        while found < len(ranks) and ranks[found] <= curve[p]:
            found += 1
        hits[p] = found


@compiled
def _fill_levels(ranks, levels):
    """Precision at recall 1/20, 2/20, ..., 1: psbTable's interpolation between p_i = i / r_i.

    Level j is NaN for a query with fewer than 2 relevant items or with n j < 20, which is left out
    of the mean. Places and exclusions are decided in integer arithmetic.
    """
    n, steps = len(ranks), len(levels)
    for level in range(1, steps + 1):
        levels[level - 1] = np.nan
        if n >= 2 and n * level >= steps:
            whole, rest = n * level // steps, n * level % steps
            left, right = max(whole, 1), min(whole + 1, n)
            fraction = rest / steps
            levels[level - 1] = (left / ranks[left - 1]) * (1.0 - fraction) + (
                right / ranks[right - 1]
            ) * fraction
