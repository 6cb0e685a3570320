"""What an approximate index costs and gains: recall, the change in each metric, and the speed-up.

**Recall@k** is the share of answers that are as near as the k-th of the exact search, so equal
distances count whichever of them is found.

**Metrics** are those of the index's own list of k = max(2 n_max, 32) answers, n_max the largest
class of the gallery, in the order in which it gives them. A relevant item that is not in the list
counts as never found, at no rank. Every metric that looks at no more ranks than that is given: NN,
FT, ST, F, E, truncated DCG, ANMRR (whose window is at most 2 n_max). AUC, mAP and full DCG need the
rank of every relevant item, which a list of k does not hold; they are named with the reason, and
given only where the list is the whole gallery.

**Speed-up** is the flat index's time over this index's for the same queries and the same k, both
with re-ranking, measured in turns in one process.

Shape letters: Q queries, G gallery items.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evalsuite.scoring import LOWER_IS_BETTER, Evaluation, Options, evaluate, score
from evalsuite.search.exact import FlatIndex, Neighbours, SearchIndex, selected
from evalsuite.search.faiss_library import faiss_module
from evalsuite.vectors import Embeddings, EvaluationError

RECALLS = (1, 10, 100)
TIMED_K = 10
REPEATS = 3
MOST_QUERIES = 1000
ANSWERS_AT_MOST = 8_000_000
LEAST_QUERIES = 32
# Of the variants of `Evaluation.variants`, those that need ranks beyond the list.
FULL_LIST = ("AUC", "mAP", "DCG_full")
# Options that keep their defaults: an index is compared by exact arithmetic, ties go by row.
_FIXED = ("arithmetic", "ties", "nan_policy", "on_missing")
REASON = (
    "needs the rank of every relevant shape; the index gives a list of {k} of {items}, and what is "
    "not in it has no rank"
)

Progress = Callable[[int, int], None]


def approximation_report(
    index: SearchIndex,
    queries: Embeddings,
    gallery: Embeddings,
    *,
    options: Options | None = None,
    most_queries: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``index`` over ``gallery`` against exact search, as a dictionary of plain JSON values.

    ``recall`` maps "1", "10", "100" (where the gallery has as many items) to recall@k; ``metrics``
    maps each headline to ``exact``, ``approximate`` and ``change``, ``variants`` the same of all
    variants; ``not_given`` maps the others to the reason; ``speed`` has the seconds of both, the
    threads, and their ratio; ``k`` and ``queries`` say on what this was measured, ``widened`` for
    how many of these queries the index had to search more than its parameters say to find k
    answers.

    Args:
        options: protocol, averages and so on. ``features`` and ``metric`` are taken from the index,
            and ties go by gallery row.
        most_queries: size of the random sample of queries. The default is 1,000, or fewer for long
            lists (8 million answers in all, but at least 32 queries).
        progress: called with (done, to do) of the parts of the work.

    Raises ``EvaluationError``: no query has an item of its class, or other widths.
    """
    k = _list_length(queries, gallery)
    if most_queries is None:
        most_queries = min(MOST_QUERIES, max(LEAST_QUERIES, ANSWERS_AT_MOST // k))
    asked = _sampled(queries, gallery, most_queries, seed)
    told = progress or (lambda done, total: None)
    steps = len(RECALLS) + 3
    space: dict[str, Any] = {"features": index.gallery.features, "metric": index.gallery.metric}
    fixed = {name: getattr(Options(), name) for name in _FIXED}
    chosen = replace(options or Options(), **space, **fixed)
    flat = FlatIndex(gallery, **space)
    recall: dict[str, float] = {}
    for step, cut in enumerate(RECALLS):
        if cut <= len(gallery):
            recall[str(cut)] = _recall(index.search(asked, cut), flat.search(asked, cut))
        told(step + 1, steps)
    exact = evaluate(asked, gallery, options=chosen)
    told(steps - 2, steps)
    answers = index.search(asked, k)
    listed = _evaluate_lists(answers.indices, asked, gallery, chosen)
    told(steps - 1, steps)
    speed = _speed(index, flat, asked)
    told(steps, steps)
    return {
        "kind": index.kind,
        "parameters": index.parameters,
        "queries": len(asked),
        "items": len(gallery),
        "k": k,
        "widened": answers.widened,
        "recall": recall,
        **_changes(exact, listed, k=k, items=len(gallery)),
        "speed": speed,
    }


def _list_length(queries: Embeddings, gallery: Embeddings) -> int:
    """max(2 n_max, 32), or G if that is smaller; n_max of the whole gallery, for ANMRR's window."""
    _, counts = np.unique(np.asarray(gallery.labels, dtype=str), return_counts=True)
    return min(max(2 * int(counts.max()), 32), len(gallery))


def _sampled(queries: Embeddings, gallery: Embeddings, most: int, seed: int) -> Embeddings:
    """At most ``most`` queries whose class the gallery has, drawn at random, in their order."""
    if most < 1:
        raise EvaluationError(f"most_queries={most}: give 1 or more")
    classes = set(gallery.labels)
    rows = np.array([row for row, label in enumerate(queries.labels) if label in classes])
    if not len(rows):
        raise EvaluationError(
            "no query has an item of its class in the gallery; check the label names"
        )
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return selected(queries, rows)


def _recall(found: Neighbours, exact: Neighbours) -> float:
    """Mean over queries of the share of answers no farther than the exact search's last."""
    return float((found.distances <= exact.distances[:, -1:]).mean())


class _Lists:
    """The transport of one shard that knows its answers; queries are row numbers [Q] of ``lists``.

    ``lists`` int64 [Q, k] are gallery rows, each at most once in a list. An item's compared number
    is its place in the list, from 0, and infinite where it is not in it; relevant items of that
    kind take the last ranks of the gallery, which no reported metric looks at.
    """

    def __init__(self, lists: np.ndarray, labels: Sequence[str]) -> None:
        self._lists, self._size = lists, len(labels)
        names, class_of = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        self._class_rows = {str(n): np.flatnonzero(class_of == c) for c, n in enumerate(names)}

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """The answer of ``describe``, ``relevant`` or ``count``, see ``gallery.BaseShard``."""
        return [getattr(self, method)(*args)]

    def describe(self) -> dict[str, Any]:
        return {
            "indices": np.arange(self._size),
            "labels": list(self._class_rows),
            "counts": [len(rows) for rows in self._class_rows.values()],
            "non_finite": np.empty(0, dtype=np.int64),
        }

    def relevant(
        self, queries: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = [self._class_rows[str(label)] for label in labels]
        place = np.full(self._size, np.inf, dtype=np.float32)
        distance = []
        for query, own in zip(queries, rows, strict=True):
            listed = self._lists[query]
            place[listed] = np.arange(len(listed))
            distance.append(place[own])
            place[listed] = np.inf
        counts = np.array([len(own) for own in rows], dtype=np.int64)
        return counts, np.concatenate(distance), np.concatenate(rows)

    def count(
        self, queries: np.ndarray, offsets: np.ndarray, distance: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        lost = np.isinf(distance)
        before = np.where(lost, 0, distance).astype(np.int64)
        lost_until = np.concatenate(([0], np.cumsum(lost)))
        lost_here = lost_until[offsets[1:]] - lost_until[offsets[:-1]]
        first = np.repeat(self._size - lost_here, np.diff(offsets))
        in_turn = lost_until[:-1] - np.repeat(lost_until[offsets[:-1]], np.diff(offsets))
        nearer = np.where(lost, first, before)
        or_equal = np.where(lost, self._size, before + 1)
        return np.stack((nearer, or_equal, np.where(lost, first + in_turn, before))).astype(
            np.int32
        )


def _evaluate_lists(
    lists: np.ndarray, queries: Embeddings, gallery: Embeddings, options: Options
) -> Evaluation:
    transport = _Lists(lists, gallery.labels)
    return score(
        transport,
        transport.broadcast("describe"),
        np.arange(len(lists)),
        keys=queries.keys,
        labels=queries.labels,
        options=options,
    )


def _changes(exact: Evaluation, listed: Evaluation, *, k: int, items: int) -> dict[str, Any]:
    """``metrics``, ``variants`` and ``not_given`` of the report."""

    def both(before: float, after: float) -> dict[str, float]:
        return {"exact": before, "approximate": after, "change": after - before}

    def is_given(variant: str) -> bool:
        return k == items or not variant.startswith(FULL_LIST)

    behind = exact.headline_variants
    return {
        "metrics": {
            name: both(value, listed.headline[name])
            for name, value in exact.headline.items()
            if is_given(behind[name])
        },
        "variants": {
            name: both(value, listed.variants[name])
            for name, value in exact.variants.items()
            if is_given(name)
        },
        "not_given": {
            name: REASON.format(k=k, items=items) for name in behind if not is_given(behind[name])
        },
        "headline_variants": {name: behind[name] for name in behind if is_given(behind[name])},
        "lower_is_better": sorted(LOWER_IS_BETTER),
    }


def _speed(index: SearchIndex, flat: FlatIndex, queries: Embeddings) -> dict[str, Any]:
    """Median seconds of both for all queries at once, asked in turns after an untimed search."""
    seconds: dict[str, list[float]] = {"flat": [], "index": []}
    for repeat in range(REPEATS + 1):
        for name, asked in (("flat", flat), ("index", index)):
            start = time.perf_counter()
            asked.search(queries, TIMED_K)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "k": TIMED_K,
        "queries": len(queries),
        "repeats": REPEATS,
        "threads": int(faiss_module().omp_get_max_threads()),
        "flat_seconds": medians["flat"],
        "index_seconds": medians["index"],
        "speed_up": medians["flat"] / medians["index"],
    }
