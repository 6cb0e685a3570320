"""Bootstrap confidence intervals over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.embeddings import EvaluationError

__all__ = ["Interval", "bootstrap_difference", "bootstrap_mean"]

DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over queries and the percentile bootstrap interval around it."""

    mean: float
    low: float
    high: float
    confidence: float
    resamples: int


def bootstrap_mean(
    values: np.ndarray | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of a per-query metric [Q] (Efron, 1979).

    Queries are drawn with replacement ``resamples`` times; the same seed gives the same interval.
    The interval speaks of the choice of queries, not of training seeds or of gallery items.

    Raises ``EvaluationError`` for no values, NaN (drop missing queries first), a confidence
    outside (0, 1), or fewer than one resample.
    """
    values_Q = _checked(values, "values")
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence={confidence}: give a number between 0 and 1")
    if resamples < 1:
        raise EvaluationError(f"resamples={resamples}: give 1 or more")
    means = _resampled_means(values_Q, resamples, seed)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(values_Q.mean()), float(low), float(high), confidence, resamples)


def bootstrap_difference(
    first: np.ndarray | Sequence[float],
    second: np.ndarray | Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(first - second) over the same queries in the same order, [Q] each.

    Paired: both runs see the same resampled queries, so what they share cancels. An interval
    without 0 is a difference beyond the choice of queries.

    Raises ``EvaluationError`` as ``bootstrap_mean``, and for different lengths.
    """
    first_Q, second_Q = _checked(first, "first"), _checked(second, "second")
    if len(first_Q) != len(second_Q):
        raise EvaluationError(
            f"first has {len(first_Q)} queries, second {len(second_Q)}; pair the same queries"
        )
    return bootstrap_mean(first_Q - second_Q, confidence=confidence, resamples=resamples, seed=seed)


def _resampled_means(values_Q: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(seed))
    means = np.empty(resamples)
    chunk = max(1, DRAWS_AT_ONCE // len(values_Q))
    for start in range(0, resamples, chunk):
        part = means[start : start + chunk]
        draws = random.integers(0, len(values_Q), size=(len(part), len(values_Q)))
        part[:] = values_Q[draws].mean(axis=1)
    return means


def _checked(values: np.ndarray | Sequence[float], name: str) -> np.ndarray:
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not len(values_Q):
        raise EvaluationError(f"{name} has shape {values_Q.shape}; give one number per query")
    if not np.isfinite(values_Q).all():
        raise EvaluationError(f"{name} holds NaN or Inf; drop queries without relevant items first")
    return values_Q
