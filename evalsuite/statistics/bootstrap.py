"""Bootstrap confidence intervals over queries.

An interval says how much a number would change with other queries of the same kind. It says nothing
about other training seeds or other galleries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.scoring import (
    Evaluation,
    InstanceEvaluation,
    QueryScores,
    scores_of,
    single_threaded_products,
)
from evalsuite.statistics.resampling import Resampled, query_weights, resampled
from evalsuite.vectors import EvaluationError


@dataclass(frozen=True)
class Interval:
    """A value over queries and the percentile bootstrap interval around it."""

    value: float
    low: float
    high: float
    confidence: float
    resamples: int


def intervals(
    evaluation: Evaluation | QueryScores,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The interval of every headline metric, in the variant that the options chose.

    Pooled metrics (F, AUC) are computed anew from the resampled queries, not averaged. All metrics
    see the same resamples, and the same seed gives the same intervals. A metric that cannot be
    resampled is not in the result; ``scores_of(evaluation).left_out`` has the reason.

    Raises ``EvaluationError`` as ``bootstrap_mean``.
    """
    check_request(confidence=confidence, resamples=resamples)
    scores = evaluation if isinstance(evaluation, QueryScores) else scores_of(evaluation)
    [found] = resampled([Resampled(scores)], len(scores), resamples=resamples, seed=seed)
    return {
        metric: _interval(scores.headline[metric], values, confidence)
        for metric, values in found.items()
    }


def instance_intervals(
    evaluation: InstanceEvaluation,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """The interval of every instance-level metric (``evalsuite.scoring.INSTANCE_METRICS``).

    All metrics see the same resamples of the evaluated queries, and the same seed gives the same
    intervals. The median rank of a draw is the median of the drawn ranks.

    Raises ``EvaluationError`` as ``bootstrap_mean``.
    """
    check_request(confidence=confidence, resamples=resamples)
    columns_QM = np.stack(list(evaluation.values.values()), axis=1)
    order = np.argsort(evaluation.ranks, kind="stable")
    ranks = evaluation.ranks[order]
    means, medians = [], []
    with single_threaded_products():
        for weights in query_weights(len(ranks), resamples=resamples, seed=seed):
            means.append(weights @ columns_QM / len(ranks))
            medians.append(_medians(ranks, weights[:, order]))
    found = dict(zip(evaluation.values, np.concatenate(means).T, strict=True))
    found["median_rank"] = np.concatenate(medians)
    return {
        metric: _interval(evaluation.headline[metric], found[metric], confidence)
        for metric in evaluation.headline
    }


def _medians(ranks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median [B] of ascending ``ranks`` [Q], each as often as ``weights`` [B, Q] say, which sum to
    Q; the mean of the two middle ones where Q is even."""
    drawn = np.cumsum(weights, axis=1)
    middle = [(drawn > place).argmax(axis=1) for place in ((len(ranks) - 1) // 2, len(ranks) // 2)]
    return (ranks[middle[0]] + ranks[middle[1]]) / 2.0


def bootstrap_mean(
    values: np.ndarray | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of a per-query metric [Q] (Efron, 1979).

    Queries are drawn with replacement ``resamples`` times; the same seed gives the same interval.

    Raises ``EvaluationError`` for no values, NaN (drop missing queries first), a confidence
    outside (0, 1), or fewer than one resample.
    """
    values_Q = _checked(values, "values")
    check_request(confidence=confidence, resamples=resamples)
    blocks = query_weights(len(values_Q), resamples=resamples, seed=seed)
    with single_threaded_products():
        means = np.concatenate([weights @ values_Q for weights in blocks]) / len(values_Q)
    return _interval(float(values_Q.mean()), means, confidence)


def bootstrap_difference(
    first: np.ndarray | Sequence[float],
    second: np.ndarray | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second) over the same queries in the same order, [Q] each.

    Both runs see the same resampled queries, so common effects cancel. An interval
    without 0 is a difference beyond the choice of queries.

    Raises ``EvaluationError`` as ``bootstrap_mean``, and for different lengths.
    """
    first_Q, second_Q = _checked(first, "first"), _checked(second, "second")
    if len(first_Q) != len(second_Q):
        raise EvaluationError(
            f"first has {len(first_Q)} queries, second {len(second_Q)}; pair the same queries"
        )
    return bootstrap_mean(first_Q - second_Q, confidence=confidence, resamples=resamples, seed=seed)


def check_request(*, confidence: float, resamples: int) -> None:
    """Raises ``EvaluationError`` for a confidence outside (0, 1) or fewer than one resample."""
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence={confidence}: give a number between 0 and 1")
    if resamples < 1:
        raise EvaluationError(f"resamples={resamples}: give 1 or more")


def _interval(value: float, resamples: np.ndarray, confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resamples, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high), confidence, len(resamples))


def _checked(values: np.ndarray | Sequence[float], name: str) -> np.ndarray:
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not len(values_Q):
        raise EvaluationError(f"{name} has shape {values_Q.shape}; give one number per query")
    if not np.isfinite(values_Q).all():
        raise EvaluationError(f"{name} holds NaN or Inf; drop queries without relevant items first")
    return values_Q
