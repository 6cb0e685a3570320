"""Per-query retrieval metrics from the places of the relevant items.

Every metric but AP is linear in relevance: it adds a weight w(r) for each relevant rank r. For a
group of t equally distant items of which m are relevant, the expectation over all orders replaces
w(r) by (m/t) (w(s+1) + ... + w(s+t)), s items coming before. A known rank is a group with
t = m = 1, so one formula serves every tie rule.

Shape letters: Q queries of a block, U tie groups, G gallery items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalsuite.ranks import TieGroups

__all__ = [
    "E_CUT",
    "F_CUT",
    "PER_QUERY",
    "WeightTables",
    "hits_within",
    "interpolated_precision",
    "per_query_metrics",
    "weight_tables",
]

F_CUT = 20
E_CUT = 32
LEVELS = 20
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
class WeightTable:
    """``at[r]`` is w(r) and ``up_to[r]`` is w(1) + ... + w(r), float64, r = 0..length."""

    at: np.ndarray
    up_to: np.ndarray


@dataclass(frozen=True, eq=False)
class WeightTables:
    """Rank weights for a gallery: three discounts and 1/r.

    ``psb``: 1, then 1/log2(r). ``rank2``: 0, 1, then 1/log2(r-1). ``log2p1``: 1/log2(r+1).
    """

    psb: WeightTable
    rank2: WeightTable
    log2p1: WeightTable
    harmonic: WeightTable


def weight_tables(gallery_size: int) -> WeightTables:
    """Tables for ranks up to ``gallery_size`` (at least 2, which ``rank2`` needs for its ideal)."""
    rank = np.arange(1, max(gallery_size, 2) + 1, dtype=np.float64)
    log = np.log2(rank)
    psb = np.concatenate(([1.0], 1.0 / log[1:]))
    rank2 = np.concatenate(([0.0, 1.0], 1.0 / log[1:-1]))
    return WeightTables(
        _table(psb), _table(rank2), _table(1.0 / np.log2(rank + 1.0)), _table(1.0 / rank)
    )


def per_query_metrics(
    groups: TieGroups, tables: WeightTables, *, gallery_size: int, largest_class: int
) -> dict[str, np.ndarray]:
    """Every metric of ``PER_QUERY`` as float64 [Q]; all queries must have n >= 1.

    NN precision at 1; FT, ST recall at n, 2n-1 and 2n; F_query F1 at 20; E F1 at 32 (van
    Rijsbergen, as in psbTable); DCG over its ideal, inspecting n ranks (trunc) or all (full); ANMRR
    with window K = min(4n, 2 largest_class): only the first n ranks (tier), the first K (window),
    MPEG-7's penalty 1.25 K (mpeg7); AP non-interpolated. All in [0, 1]; ANMRR is better lower.
    """
    n = groups.sizes.astype(np.float64)
    limit = groups.sizes[groups.query]
    full = np.full_like(limit, gallery_size)
    f_cut, e_cut = min(F_CUT, gallery_size), min(E_CUT, gallery_size)
    return {
        "NN": hits_within(groups, np.ones_like(limit)),
        "FT": hits_within(groups, limit) / n,
        "ST_2n_minus_1": hits_within(groups, 2 * limit - 1) / n,
        "ST_2n": hits_within(groups, 2 * limit) / n,
        "F_query": 2.0 * hits_within(groups, np.full_like(limit, f_cut)) / (f_cut + n),
        "E": 2.0 * hits_within(groups, np.full_like(limit, e_cut)) / (e_cut + n),
        "DCG_trunc_psb": _gain(groups, tables.psb, limit) / tables.psb.up_to[groups.sizes],
        "DCG_trunc_rank2": _gain(groups, tables.rank2, np.maximum(limit, 2))
        / tables.rank2.up_to[np.maximum(groups.sizes, 2)],
        "DCG_trunc_log2p1": _gain(groups, tables.log2p1, limit) / tables.log2p1.up_to[groups.sizes],
        "DCG_full_psb": _gain(groups, tables.psb, full) / tables.psb.up_to[groups.sizes],
        "DCG_full_log2p1": _gain(groups, tables.log2p1, full) / tables.log2p1.up_to[groups.sizes],
        **_anmrr(groups, largest_class),
        "AP": _average_precision(groups, tables.harmonic) / n,
    }


def hits_within(groups: TieGroups, cut: np.ndarray) -> np.ndarray:
    """(Expected) relevant items among the first ``cut`` int64 [U] ranks, float64 [Q]."""
    low, high = _clip(groups, cut)
    return _per_query(groups, _share(groups) * (high - low))


def interpolated_precision(groups: TieGroups) -> np.ndarray:
    """Precision at recall 1/20, 2/20, ..., 1 as float64 [Q, 20], for groups of size 1.

    psbTable's interpolation between p_i = i / r_i. NaN where a query takes no part: it needs n >= 2
    and n j >= 20 at level j. Integer arithmetic decides both the place and who takes part.
    """
    assert (groups.size == 1).all()
    precision = np.append((groups.prior + 1) / (groups.start + 1), np.nan)
    n = groups.sizes
    first = np.concatenate(([0], np.cumsum(n)))[:-1]
    values = np.full((len(n), LEVELS), np.nan)
    for level in range(1, LEVELS + 1):
        whole, rest = np.divmod(n * level, LEVELS)
        left = precision[first + np.maximum(whole, 1) - 1]
        right = precision[first + np.minimum(whole + 1, n) - 1]
        fraction = rest / LEVELS
        value = left * (1.0 - fraction) + right * fraction
        values[:, level - 1] = np.where((n >= 2) & (n * level >= LEVELS), value, np.nan)
    return values


def _table(weights: np.ndarray) -> WeightTable:
    at = np.concatenate(([0.0], weights))
    return WeightTable(at, np.cumsum(at))


def _clip(groups: TieGroups, cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(groups.start, cut), np.minimum(groups.start + groups.size, cut)


def _share(groups: TieGroups) -> np.ndarray:
    return groups.relevant / groups.size


def _per_query(groups: TieGroups, values: np.ndarray) -> np.ndarray:
    # bincount adds one after another in row order: the sum of a query depends on that query only.
    return np.bincount(groups.query, weights=values, minlength=len(groups.sizes))


def _gain(groups: TieGroups, table: WeightTable, cut: np.ndarray) -> np.ndarray:
    """Sum of the weights of relevant ranks up to ``cut`` int64 [U], float64 [Q]."""
    low, high = _clip(groups, cut)
    # A single rank takes its weight itself, free of the rounding of a difference of sums.
    single = np.where(high > low, table.at[high], 0.0)
    spread = table.up_to[high] - table.up_to[low]
    return _per_query(groups, _share(groups) * np.where(groups.size == 1, single, spread))


def _anmrr(groups: TieGroups, largest_class: int) -> dict[str, np.ndarray]:
    """Average normalised modified retrieval rank, three forms; costs are sums of ranks."""
    n = groups.sizes.astype(np.float64)
    window = np.minimum(4 * groups.sizes, 2 * largest_class)
    ideal = (n + 1.0) / 2.0

    def normalised(cut: np.ndarray, penalty: np.ndarray) -> np.ndarray:
        low, high = _clip(groups, cut[groups.query])
        ranks = (high * (high + 1) - low * (low + 1)) // 2
        paid = _per_query(groups, _share(groups) * ranks)
        misses = n - _per_query(groups, _share(groups) * (high - low))
        return ((paid + misses * penalty) / n - ideal) / (penalty - ideal)

    return {
        "ANMRR_tier": normalised(groups.sizes, window + 1.0),
        "ANMRR_window": normalised(window, window + 1.0),
        "ANMRR_mpeg7": normalised(window, 1.25 * window),
    }


def _average_precision(groups: TieGroups, harmonic: WeightTable) -> np.ndarray:
    """Sum over relevant items of (relevant so far) / rank, float64 [Q].

    In a tie group the a-th place holds a relevant item with probability m/t, and then on average
    (a-1)(m-1)/(t-1) others of the group are relevant before it.
    """
    s, t = groups.start, groups.size
    single = (groups.prior + 1) / (s + 1)
    if (t == 1).all():
        return _per_query(groups, single)
    inverse = harmonic.up_to[s + t] - harmonic.up_to[s]  # sum of 1/(s+a)
    climb = t - (s + 1) * inverse  # sum of (a-1)/(s+a)
    slope = (groups.relevant - 1) / np.maximum(t - 1, 1)
    spread = _share(groups) * ((groups.prior + 1) * inverse + slope * climb)
    return _per_query(groups, np.where(t == 1, single, spread))
