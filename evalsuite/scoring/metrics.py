"""The metrics of one query, from sums over the ranks of its relevant items.

Every metric but AP is linear in relevance: it adds a weight w(r) for each relevant rank r. A query
therefore keeps a row of sums (``SUMS``), which ``relevant_ranks`` fills in one pass over the
relevant items, for all metrics and all tie rules. Here the sums have their names, the weights their
tables, and the metrics their formulas. Importing this file does not load numba.

Shape letters: Q queries, G gallery items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

F_CUT = 20
E_CUT = 32
AP_CUT = 20
LEVELS = 20

SUMS = (
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
    "precisions_within_cut",
)
"""The sums of a query, in the order of a row: relevant items up to a cut (``within_``), their ranks
(``ranks_``), their weights (``psb``, ``rank2``, ``log2p1``), and i / r_i for both forms of AP."""

# The place of each sum in a row. numba compiles these names to numbers.
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
    PRECISIONS_WITHIN_CUT,
) = range(len(SUMS))

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
    "AP_retrieved",
)

DISCOUNTS = ("psb", "rank2", "log2p1")


@dataclass(frozen=True, eq=False)
class WeightTables:
    """Weights w(r) for ranks r = 0..G, w(0) = 0, with their running sums.

    ``weights`` float64 [3, G+1] by ``DISCOUNTS``: ``psb`` is 1, then 1/log2(r); ``rank2`` is 0, 1,
    then 1/log2(r-1); ``log2p1`` is 1/log2(r+1). ``running`` float64 [4, G+1] holds the running sums
    of the three, and that of 1/r.
    """

    weights: np.ndarray
    running: np.ndarray

    def ideal(self, discount: str, n: np.ndarray) -> np.ndarray:
        """w(1) + ... + w(n) float64 [Q] of a discount."""
        return self.running[DISCOUNTS.index(discount)][n]


def weight_tables(gallery_size: int) -> WeightTables:
    """Tables for ranks up to ``gallery_size`` (at least 2, which ``rank2`` needs for its ideal)."""
    rank = np.arange(1, max(gallery_size, 2) + 1, dtype=np.float64)
    log = np.log2(rank)
    weights = np.zeros((3, len(rank) + 1))
    psb, rank2, log2p1 = weights
    psb[1], psb[2:] = 1.0, 1.0 / log[1:]
    rank2[2], rank2[3:] = 1.0, 1.0 / log[1:-1]
    log2p1[1:] = 1.0 / np.log2(rank + 1.0)
    running = np.zeros((4, len(rank) + 1))
    np.cumsum(weights, axis=1, out=running[:3])
    running[3, 1:] = np.cumsum(1.0 / rank)
    return WeightTables(weights, running)


def per_query_metrics(
    sums: np.ndarray,
    sizes: np.ndarray,
    tables: WeightTables,
    *,
    gallery_size: int,
    largest_class: int,
    ap_cut: int,
) -> dict[str, np.ndarray]:
    """Every metric of ``PER_QUERY`` as float64 [Q], from ``sums`` [Q, len(SUMS)] of one tie rule.

    ``sizes`` int64 [Q] is n >= 1. NN precision at 1; FT, ST recall at n, 2n-1 and 2n; F_query F1
    at 20; E F1 at 32 (van Rijsbergen, as in psbTable); DCG over its ideal, inspecting n ranks
    (trunc) or all (full); ANMRR with window K = min(4n, 2 largest_class): only the first n ranks
    (tier), the first K (window), MPEG-7's penalty 1.25 K (mpeg7); AP non-interpolated, and over the
    first ``ap_cut`` ranks alone (retrieved). All in [0, 1]; ANMRR is better lower.
    """
    total: dict[str, np.ndarray] = dict(zip(SUMS, sums.T, strict=True))
    n = sizes.astype(np.float64)
    f_cut, e_cut = min(F_CUT, gallery_size), min(E_CUT, gallery_size)
    window = np.minimum(4 * sizes, 2 * largest_class)
    ideal_rank = (n + 1.0) / 2.0

    def normalised(reach: str, penalty: np.ndarray) -> np.ndarray:
        paid, misses = total[f"ranks_{reach}"], n - total[reach]
        return ((paid + misses * penalty) / n - ideal_rank) / (penalty - ideal_rank)

    def dcg(discount: str, reach: str = "") -> np.ndarray:
        inspected = np.maximum(sizes, 2) if discount == "rank2" else sizes
        return total[f"{discount}{reach}"] / tables.ideal(discount, inspected)

    return {
        "NN": total["within_1"],
        "FT": total["within_n"] / n,
        "ST_2n_minus_1": total["within_2n_minus_1"] / n,
        "ST_2n": total["within_2n"] / n,
        "F_query": 2.0 * total["within_20"] / (f_cut + n),
        "E": 2.0 * total["within_32"] / (e_cut + n),
        "DCG_trunc_psb": dcg("psb", "_within_n"),
        "DCG_trunc_rank2": dcg("rank2", "_within_n"),
        "DCG_trunc_log2p1": dcg("log2p1", "_within_n"),
        "DCG_full_psb": dcg("psb"),
        "DCG_full_log2p1": dcg("log2p1"),
        "ANMRR_tier": normalised("within_n", window + 1.0),
        "ANMRR_window": normalised("within_window", window + 1.0),
        "ANMRR_mpeg7": normalised("within_window", 1.25 * window),
        "AP": total["precisions"] / n,
        "AP_retrieved": total["precisions_within_cut"] / np.minimum(n, ap_cut),
    }
