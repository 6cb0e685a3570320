"""Per-query retrieval metrics from sums over the ranks of the relevant items.

Every metric but AP is linear in relevance: it adds a weight w(r) for each relevant rank r. For a
group of t equally distant items of which m are relevant, the expectation over all orders replaces
w(r) by (m/t) (w(s+1) + ... + w(s+t)), s items coming before. The sums are taken in
relevant_ranks.py, one
pass over the relevant items for all metrics and all tie rules; here they become metrics.

Shape letters: Q queries, M relevant pairs of a block, G gallery items, P ranks of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalsuite.scoring.ranks import Counted
from evalsuite.scoring.relevant_ranks import CELLS, score_queries
from evalsuite.scoring.threads import run_in_threads, thread_count
from evalsuite.vectors import EvaluationError

F_CUT = 20
E_CUT = 32
LEVELS = 20
TIE_RULES = ("index", "optimistic", "pessimistic", "expected")
"""What comes first among equal distances: the lower gallery index, relevant items, irrelevant
items, or all orders on average."""

PER_QUERY = (
    "NN",
    "FT",
    "ST_2n_minus_1",
    "ST_2n",
    "F_query",
    "E",
    "DCG_trunc_psb",
    "DCG_trunc_rank2",
    "DCG_trunc_log2p1",
    "DCG_full_psb",
    "DCG_full_log2p1",
    "ANMRR_tier",
    "ANMRR_window",
    "ANMRR_mpeg7",
    "AP",
)


@dataclass(frozen=True, eq=False)
class WeightTables:
    """Weights w(r) for ranks r = 0..G, w(0) = 0, with their running sums.

    ``rows`` float64 [7, G+1]: ``psb`` 1, then 1/log2(r); ``rank2`` 0, 1, then 1/log2(r-1);
    ``log2p1`` 1/log2(r+1); the running sums of the three; that of 1/r.
    """

    rows: np.ndarray

    def ideal(self, discount: str, n: np.ndarray) -> np.ndarray:
        """w(1) + ... + w(n) float64 [Q] of the discount psb, rank2 or log2p1."""
        return self.rows[3 + ("psb", "rank2", "log2p1").index(discount)][n]


def weight_tables(gallery_size: int) -> WeightTables:
    """Tables for ranks up to ``gallery_size`` (at least 2, which ``rank2`` needs for its ideal)."""
    rank = np.arange(1, max(gallery_size, 2) + 1, dtype=np.float64)
    rows = np.zeros((7, len(rank) + 1))
    log = np.log2(rank)
    rows[0, 1], rows[0, 2:] = 1.0, 1.0 / log[1:]
    rows[1, 2], rows[1, 3:] = 1.0, 1.0 / log[1:-1]
    rows[2, 1:] = 1.0 / np.log2(rank + 1.0)
    np.cumsum(rows[:3], axis=1, out=rows[3:6])
    rows[6, 1:] = np.cumsum(1.0 / rank)
    return WeightTables(rows)


@dataclass(frozen=True, eq=False)
class BlockScores:
    """What a block of queries adds, R = 4 tie rules in the order of TIE_RULES.

    ``sums`` float64 [R, Q, cells] by ``CELLS``; ``ranks`` int32 [R, M], in the last row 0
    for items of a tie group; ``groups`` int32 [3, M], start, size and relevant items at the first
    item of a tie group, else 0; ``curve_hits`` int32 [Q, P]; ``levels`` float64 [Q, 20];
    ``tied`` how many relevant items share their distance with an irrelevant one.
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
    curve: np.ndarray,
) -> BlockScores:
    """Ranks and sums of a block, on several threads; ``curve`` int64 [P] are ascending ranks.

    Raises ``EvaluationError`` if the counts contradict each other.
    """
    queries, pairs = len(counted.sizes), len(counted.distance)
    sums = np.zeros((len(TIE_RULES), queries, len(CELLS)))
    ranks = np.zeros((4, pairs), dtype=np.int32)
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
            tables.rows,
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


def per_query_metrics(
    sums: np.ndarray,
    sizes: np.ndarray,
    tables: WeightTables,
    *,
    gallery_size: int,
    largest_class: int,
) -> dict[str, np.ndarray]:
    """Every metric of ``PER_QUERY`` as float64 [Q], from ``sums`` [Q, cells] of one tie rule.

    ``sizes`` int64 [Q] is n >= 1. NN precision at 1; FT, ST recall at n, 2n-1 and 2n; F_query F1
    at 20; E F1 at 32 (van Rijsbergen, as in psbTable); DCG over its ideal, inspecting n ranks
    (trunc) or all (full); ANMRR with window K = min(4n, 2 largest_class): only the first n ranks
    (tier), the first K (window), MPEG-7's penalty 1.25 K (mpeg7); AP non-interpolated. All in
    [0, 1]; ANMRR is better lower.
    """
    cell: dict[str, np.ndarray] = dict(zip(CELLS, sums.T, strict=True))
    n = sizes.astype(np.float64)
    f_cut, e_cut = min(F_CUT, gallery_size), min(E_CUT, gallery_size)
    window = np.minimum(4 * sizes, 2 * largest_class)
    ideal_rank = (n + 1.0) / 2.0

    def normalised(reach: str, penalty: np.ndarray) -> np.ndarray:
        paid, misses = cell[f"ranks_{reach}"], n - cell[reach]
        return ((paid + misses * penalty) / n - ideal_rank) / (penalty - ideal_rank)

    def dcg(discount: str, reach: str = "") -> np.ndarray:
        inspected = np.maximum(sizes, 2) if discount == "rank2" else sizes
        return cell[f"{discount}{reach}"] / tables.ideal(discount, inspected)

    return {
        "NN": cell["within_1"],
        "FT": cell["within_n"] / n,
        "ST_2n_minus_1": cell["within_2n_minus_1"] / n,
        "ST_2n": cell["within_2n"] / n,
        "F_query": 2.0 * cell["within_20"] / (f_cut + n),
        "E": 2.0 * cell["within_32"] / (e_cut + n),
        "DCG_trunc_psb": dcg("psb", "_within_n"),
        "DCG_trunc_rank2": dcg("rank2", "_within_n"),
        "DCG_trunc_log2p1": dcg("log2p1", "_within_n"),
        "DCG_full_psb": dcg("psb"),
        "DCG_full_log2p1": dcg("log2p1"),
        "ANMRR_tier": normalised("within_n", window + 1.0),
        "ANMRR_window": normalised("within_window", window + 1.0),
        "ANMRR_mpeg7": normalised("within_window", 1.25 * window),
        "AP": cell["precisions"] / n,
    }
