"""From counts to ranks and the sums that all metrics are made of, query by query.

Shape letters: Q queries, M relevant pairs (query after query), G gallery items, P curve ranks.
"""

from __future__ import annotations

import numpy as np

from evalsuite.scoring.compiled import compiled

CELLS = (
    "within_1",
    "within_n",
    "within_2n_minus_1",
    "within_2n",
    "within_20",
    "within_32",
    "within_window",
    "ranks_within_n",
    "ranks_within_window",
    "psb_within_n",
    "rank2_within_n",
    "log2p1_within_n",
    "psb",
    "log2p1",
    "precisions",
)
"""The sums of a query: relevant items, their ranks or weights, up to a cut; i / r_i for AP."""

# Where each sum stands; numba compiles these names to numbers.
(
    WITHIN_1,
    WITHIN_N,
    WITHIN_2N_MINUS_1,
    WITHIN_2N,
    WITHIN_20,
    WITHIN_32,
    WITHIN_WINDOW,
    RANKS_WITHIN_N,
    RANKS_WITHIN_WINDOW,
    PSB_WITHIN_N,
    RANK2_WITHIN_N,
    LOG2P1_WITHIN_N,
    PSB,
    LOG2P1,
    PRECISIONS,
) = range(len(CELLS))


@compiled
def _add_rank(sums, rank, position, cuts, weights):
    """Add the ``position``-th relevant item of a query, at ``rank``, to its sums [cells]."""
    n, window, cut_f, cut_e = cuts
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
def _add_group(sums, start, size, relevant, prior, cuts, running):
    """Add the expectation over the orders of ``size`` equally distant items, ``relevant`` of them
    relevant, behind ``start`` items of which ``prior`` are; ``running`` sums the weights."""
    n, window, cut_f, cut_e = cuts
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
    inverse = harmonic[start + size] - harmonic[start]  # sum of 1/(start+a)
    climb = size - (start + 1) * inverse  # sum of (a-1)/(start+a)
    slope = (relevant - 1) / (size - 1)
    sums[PRECISIONS] += share * ((prior + 1) * inverse + slope * climb)


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
    tables,
    curve,
    sums,
    ranks,
    groups,
    curve_hits,
    levels,
):
    """Ranks and sums of queries ``begin`` to ``end`` from counts over all items.

    ``counted`` int32 [3, M] as ``cumulate`` makes it, added over shards. ``tables`` float64
    [7, G+1]: weights psb, rank2, log2p1 by rank, their running sums, and that of 1/rank. Fills, for
    the tie rules index, optimistic, pessimistic, expected in this order: ``sums`` float64
    [4, Q, cells]; ``ranks`` int32 [4, M], the last row 0 where a relevant item belongs to a tie
    group; ``groups`` int32 [3, M]: at the first item of a tie group its start, size and number
    of relevant items, else 0; ``curve_hits`` int32 [Q, P], relevant items within the ranks
    ``curve`` [P]; ``levels`` float64 [Q, 20], interpolated precision. Returns the number of
    relevant items that tie with an irrelevant one, or -1 if the counts contradict each other.
    """
    weights = (tables[0], tables[1], tables[2])
    running = (tables[3], tables[4], tables[5], tables[6])
    all_tied = 0
    common = np.zeros(len(CELLS))
    for q in range(begin, end):
        start = offsets[q]
        n = offsets[q + 1] - start
        cuts = (n, min(4 * n, 2 * largest_class), cut_f, cut_e)
        common[:] = 0.0
        run = run_end = 0
        for i in range(n):
            at = start + i
            lost = np.isnan(distance[at])
            if i == run_end:
                run = i
                run_end = i + 1
                while run_end < n and distance[start + run_end] == distance[at]:
                    run_end += 1
            together = run_end - run
            nearer = counted[0, at] - run
            equal = counted[1, at] - counted[0, at] - together
            before = counted[2, at] - i
            if lost:  # NaN comes after everything, and among NaN the irrelevant items come first
                nearer = before = gallery_size - n
                equal = 0
            if nearer < 0 or equal < 0 or before < nearer or before > nearer + equal:
                return -1
            position = i + 1
            ranks[0, at] = position + before
            ranks[1, at] = position + nearer
            ranks[2, at] = position + nearer + equal
            if equal == 0:
                ranks[3, at] = position + nearer
                _add_rank(common, position + nearer, position, cuts, weights)
                continue
            all_tied += 1
            for rule in range(3):
                _add_rank(sums[rule, q], ranks[rule, at], position, cuts, weights)
            if i == run:
                size = together + equal
                groups[0, at], groups[1, at], groups[2, at] = run + nearer, size, together
                _add_group(sums[3, q], run + nearer, size, together, run, cuts, running)
        for rule in range(4):
            for cell in range(len(common)):
                sums[rule, q, cell] += common[cell]
        _fill_curve(ranks[0, start : start + n], curve, curve_hits[q])
        _fill_levels(ranks[0, start : start + n], levels[q])
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

    NaN where a query takes no part: it needs n >= 2 and n j >= 20 at level j. Integer arithmetic
    decides both the place and who takes part.
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
