"""Headline metrics of many resamples of the queries at once.

A resample draws Q queries with replacement (Efron, 1979). The weight of a query is how often it
was drawn. Every headline metric is a function of weighted sums over queries, so a block of
resamples is a matrix product. No query is ranked again, because the rank of a shape under one query
does not depend on the other queries.

Shape letters: Q queries, B resamples of a block, C classes, M per-query columns, P ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from evalsuite.scoring import QueryScores, single_threaded_products
from evalsuite.vectors import EvaluationError

# A block of weights is [B, Q] float64 of at most so many numbers: 16 MB.
WEIGHTS_AT_ONCE = 2_000_000
# Queries whose hits at 200 ranks are float64 at a time: 13 MB.
QUERIES_AT_ONCE = 8192
# The largest difference by rounding between a mean of per-query values and the stored mean.
_ROUNDING = 1e-9


def query_weights(queries: int, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks float64 [B, Q] of how often each of ``queries`` is drawn; each row sums to Q.

    The same arguments give the same weights, whatever the size of the blocks.
    """
    random = np.random.Generator(np.random.Philox(seed))
    chunk = max(1, WEIGHTS_AT_ONCE // queries)
    for start in range(0, resamples, chunk):
        weights = np.empty((min(chunk, resamples - start), queries))
        for row in weights:
            row[:] = np.bincount(random.integers(0, queries, size=queries), minlength=queries)
        yield weights


class Resampled:
    """Headline metrics of one evaluation under weights of its queries."""

    def __init__(self, scores: QueryScores) -> None:
        """Raises ``EvaluationError`` if the headline is not that of the per-query values."""
        self.metrics = scores.metrics
        self._scores = scores
        self._by_class = scores.options["average"] == "class"
        self._means = [m for m in scores.metrics if m in scores.values]
        n = scores.sizes.astype(np.float64)
        hits = np.zeros(len(n)) if scores.f_hits is None else scores.f_hits
        f_query = 2.0 * hits / (scores.f_cut + n)
        self._columns = np.stack(
            [*(scores.values[m] for m in self._means), n, hits, f_query], axis=1
        )
        names, class_of = np.unique(scores.labels, return_inverse=True)
        self._classes = [np.flatnonzero(class_of == c) for c in range(len(names))]
        self._area_shift = 0.0
        whole = self(np.ones((1, len(scores))))
        for metric, values in whole.items():
            known, found = scores.headline[metric], float(values[0])
            if metric == "AUC":
                self._area_shift = known - found
            elif abs(known - found) > _ROUNDING:
                raise EvaluationError(
                    f"{scores.name}: its queries give {metric} {found:.6f}, its headline says "
                    f"{known:.6f}; evaluate it again"
                )

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric float64 [B] under weights float64 [B, Q].

        Class means leave out classes of which no query was drawn. AUC is the trapezoid over the P
        kept ranks, shifted so that equal weights give the exact area over all ranks.
        """
        f_average = self._scores.options["f_average"]
        totals = weights @ self._columns
        means = totals / weights.sum(axis=1)[:, None]
        class_means = class_f = None
        if self._by_class or f_average == "class":
            class_means, class_f = self._over_classes(weights)
        chosen = class_means if self._by_class and class_means is not None else means
        result = {metric: chosen[:, column] for column, metric in enumerate(self._means)}
        if "F" in self.metrics:
            if f_average == "query":
                result["F"] = means[:, -1]
            elif class_f is not None and f_average == "class":
                result["F"] = class_f
            else:
                result["F"] = self._f(weights.sum(axis=1), totals)
        if "AUC" in self.metrics:
            result["AUC"] = self._area(weights, relevant=totals[:, -3]) + self._area_shift
        return {metric: result[metric] for metric in self.metrics}

    def _f(self, count: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """F pooled [B] from the number of queries [B] and sums [B, M]."""
        return 2.0 * totals[:, -2] / (count * self._scores.f_cut + totals[:, -3])

    def _over_classes(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means over the drawn classes: of class means [B, M], and of F pooled in each [B]."""
        means = np.zeros((len(weights), self._columns.shape[1]))
        f_values = np.zeros(len(weights))
        drawn = np.zeros(len(weights))
        for rows in self._classes:
            own = weights[:, rows]
            count, totals = own.sum(axis=1), own @ self._columns[rows]
            some = count > 0
            drawn += some
            means[some] += totals[some] / count[some, None]
            f_values[some] += self._f(count[some], totals[some])
        return means / drawn[:, None], f_values / drawn

    def _area(self, weights: np.ndarray, *, relevant: np.ndarray) -> np.ndarray:
        """Trapezoid under the pooled precision-recall curve at the kept ranks, float64 [B]."""
        curve, ranks = self._scores.curve_hits, self._scores.curve_ranks
        assert curve is not None
        hits = np.zeros((len(weights), len(ranks)))
        for start in range(0, len(curve), QUERIES_AT_ONCE):
            part = slice(start, start + QUERIES_AT_ONCE)
            hits += weights[:, part] @ curve[part].astype(np.float64)
        recall = hits / relevant[:, None]
        precision = hits / (weights.sum(axis=1)[:, None] * ranks)
        return (np.diff(recall) * (precision[:, 1:] + precision[:, :-1]) / 2.0).sum(axis=1)


def resampled(
    evaluations: Sequence[Resampled],
    queries: int,
    *,
    resamples: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Every metric of every evaluation under the same resamples of their queries, [resamples] each.

    ``progress`` is called with the number of resamples done.
    """
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in evaluations]
    done = 0
    with single_threaded_products():  # the products are small: threads would wait for each other
        for weights in query_weights(queries, resamples=resamples, seed=seed):
            for kept, evaluation in zip(parts, evaluations, strict=True):
                kept.append(evaluation(weights))
            done += len(weights)
            if progress is not None:
                progress(done)
    return [
        {metric: np.concatenate([part[metric] for part in kept]) for metric in evaluation.metrics}
        for kept, evaluation in zip(parts, evaluations, strict=True)
    ]
