"""Slow metrics from full rankings in plain Python, written from the definitions alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def relevance_lists(distances, labels, gallery_labels, ties):
    """For each query with a relevant item: weighted lists of 0/1 relevance in rank order.

    Returns {query: [(probability, [g_1 .. g_G]), ...]}; one list unless ties == "expected".
    """
    result = {}
    for q, label in enumerate(labels):
        row = [float(value) for value in distances[q]]
        relevant = [other == label for other in gallery_labels]
        if not any(relevant):
            continue
        if ties == "expected":
            result[q] = _all_arrangements(row, relevant)
        else:
            sign = {"index": 0, "optimistic": -1, "pessimistic": 1}[ties]

            def key(i, row=row, relevant=relevant, sign=sign):
                if math.isnan(row[i]):
                    return (1, 0.0, int(relevant[i]), i)
                return (0, row[i], sign * int(relevant[i]), i)

            order = sorted(range(len(row)), key=key)
            result[q] = [(1.0, [int(relevant[i]) for i in order])]
    return result


def _all_arrangements(row, relevant):
    parts = []
    for value in sorted({v for v in row if not math.isnan(v)}):
        members = [relevant[i] for i in range(len(row)) if row[i] == value]
        places = list(itertools.combinations(range(len(members)), sum(members)))
        parts.append([[int(i in chosen) for i in range(len(members))] for chosen in places])
    lost = sorted(relevant[i] for i in range(len(row)) if math.isnan(row[i]))
    parts.append([[int(flag) for flag in lost]])
    lists = [list(itertools.chain(*choice)) for choice in itertools.product(*parts)]
    return [(1.0 / len(lists), g) for g in lists]


def one_query(g: Sequence[int], n: int, n_max: int, ap_cut: int = 20) -> dict[str, float]:
    """All per-query metrics of one relevance list; AP_retrieved of its first ``ap_cut`` items."""
    size = len(g)

    def hits(cut):
        return sum(g[: min(cut, size)])

    def weight(r):
        return 1.0 if r == 1 else 1.0 / math.log2(r)

    def f1(cut):
        k = min(cut, size)
        if hits(k) == 0:
            return 0.0
        precision, recall = hits(k) / k, hits(k) / n
        return 2.0 / (1.0 / precision + 1.0 / recall)

    ranks = [r for r in range(1, size + 1) if g[r - 1]]
    ideal_psb = sum(weight(r) for r in range(1, n + 1))
    ideal_log = sum(1.0 / math.log2(r + 1) for r in range(1, n + 1))
    rank2 = g[1] if size > 1 else 0
    rank2_ideal = 1.0
    for r in range(3, n + 1):
        rank2 += g[r - 1] / math.log2(r - 1)
        rank2_ideal += 1.0 / math.log2(r - 1)
    window = min(4 * n, 2 * n_max)

    def nmrr(cut, penalty):
        cost = sum(r if r <= cut else penalty for r in ranks)
        return (cost / n - (n + 1) / 2) / (penalty - (n + 1) / 2)

    return {
        "NN": float(g[0]),
        "FT": hits(n) / n,
        "ST_2n_minus_1": hits(2 * n - 1) / n,
        "ST_2n": hits(2 * n) / n,
        "F_query": f1(20),
        "E": f1(32),
        "DCG_trunc_psb": sum(weight(r) for r in ranks if r <= n) / ideal_psb,
        "DCG_trunc_rank2": rank2 / rank2_ideal,
        "DCG_trunc_log2p1": sum(1.0 / math.log2(r + 1) for r in ranks if r <= n) / ideal_log,
        "DCG_full_psb": sum(weight(r) for r in ranks) / ideal_psb,
        "DCG_full_log2p1": sum(1.0 / math.log2(r + 1) for r in ranks) / ideal_log,
        "ANMRR_tier": nmrr(n, window + 1),
        "ANMRR_window": nmrr(window, window + 1),
        "ANMRR_mpeg7": nmrr(window, 1.25 * window),
        "AP": sum((i + 1) / r for i, r in enumerate(ranks)) / n,
        "AP_retrieved": average_precision(g[:ap_cut], min(n, ap_cut)),
    }


def average_precision(retrieved: Sequence[int], perfect: int) -> float:
    """Precision at each relevant item of the list ``retrieved``, over their number in a perfect
    one."""
    total = 0.0
    for rank in range(1, len(retrieved) + 1):
        if retrieved[rank - 1]:
            total += sum(retrieved[:rank]) / rank
    return total / perfect


def twenty_points(g: Sequence[int], n: int) -> list[float | None]:
    """Interpolated precision at recall 1/20 .. 1 of one relevance list; None: takes no part."""
    precision = [None]
    for r, flag in enumerate(g, start=1):
        if flag:
            precision.append(len(precision) / r)
    values: list[float | None] = []
    for j in range(1, 21):
        if n < 2 or n * j < 20:
            values.append(None)
            continue
        a, rest = n * j // 20, n * j % 20
        left, right = precision[max(a, 1)], precision[min(a + 1, n)]
        values.append(left * (1 - rest / 20) + right * (rest / 20))
    return values


def everything(distances, labels, gallery_labels, ties="index", ap_cut=20) -> dict:
    """Every variant by the names the evaluator uses, plus curves and per-query values."""
    gallery_labels = [str(x) for x in gallery_labels]
    labels = [str(x) for x in labels]
    lists = relevance_lists(distances, labels, gallery_labels, ties)
    size = len(gallery_labels)
    sizes = {label: gallery_labels.count(label) for label in gallery_labels}
    n_max = max(sizes.values())
    queries = list(lists)
    per_query: dict[int, dict[str, float]] = {}
    expected_g: dict[int, list[float]] = {}
    for q in queries:
        n = sizes[labels[q]]
        found = [(p, one_query(g, n, n_max, ap_cut)) for p, g in lists[q]]
        per_query[q] = {name: sum(p * values[name] for p, values in found) for name in found[0][1]}
        expected_g[q] = [sum(p * g[r] for p, g in lists[q]) for r in range(size)]
    result: dict = {"per_query": per_query}
    classes = sorted({labels[q] for q in queries})
    shown = {"AP": "mAP", "AP_retrieved": "mAP_retrieved", "F_query": "F_query_mean"}
    for name in per_query[queries[0]]:
        values = [per_query[q][name] for q in queries]
        result[shown.get(name, name)] = sum(values) / len(values)
        means = []
        for label in classes:
            own = [per_query[q][name] for q in queries if labels[q] == label]
            means.append(sum(own) / len(own))
        key = {"AP": "mAP", "AP_retrieved": "mAP_retrieved"}.get(name, name)
        result[f"{key}_class_mean"] = sum(means) / len(means)
    k = min(20, size)

    def pooled_f(members):
        found = sum(sum(expected_g[q][:k]) for q in members)
        total = sum(sizes[labels[q]] for q in members)
        if found == 0:
            return 0.0
        return 2.0 / (1.0 / (found / (len(members) * k)) + 1.0 / (found / total))

    result["F_pooled"] = pooled_f(queries)
    by_class = [pooled_f([q for q in queries if labels[q] == label]) for label in classes]
    result["F_class"] = sum(by_class) / len(by_class)
    total = sum(sizes[labels[q]] for q in queries)
    recall, precision, found = [], [], 0.0
    for rank in range(1, size + 1):
        found += sum(expected_g[q][rank - 1] for q in queries)
        recall.append(found / total)
        precision.append(found / (len(queries) * rank))
    name = "AUC_of_expected_curve" if ties == "expected" else "AUC"
    result[name] = sum(
        (recall[i + 1] - recall[i]) * (precision[i + 1] + precision[i]) / 2 for i in range(size - 1)
    )
    result[f"{name}_anchored"] = result[name] + recall[0] * precision[0]
    result["pooled"] = (recall, precision)
    if ties == "index":
        points = [twenty_points(lists[q][0][1], sizes[labels[q]]) for q in queries]
        columns = [[row[j] for row in points if row[j] is not None] for j in range(20)]
        result["twenty"] = [sum(c) / len(c) if c else math.nan for c in columns]
    return result
